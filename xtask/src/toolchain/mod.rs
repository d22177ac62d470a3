//! The tools that build the kernel object: a rustc with unstable features enabled, the sources of its
//! `core`, and a bpf-linker for the same LLVM.
//!
//! [`survey`] looks for them; [`ensure`] installs what is missing, after printing it. Whether the tools
//! work together is tested by compiling and linking a small program, because versions do not show it.

mod install;
mod probe;
mod rustc;
mod test_tools;

use std::{fmt, path::PathBuf};

use anyhow::{Result, bail};

pub(crate) use install::{
    cargo_deny, ensure_cargo_deny, ensure_components, ensure_peers, ensure_target, ensure_tmux,
    is_debian, update_package_lists,
};
pub(crate) use rustc::{Llvm, Rustc};
pub(crate) use test_tools::ensure_test_tools;

use crate::sh;

/// Version of bpf-linker. Newer versions require a newer LLVM by default.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// A compiler and a linker that work together.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) rustc: Rustc,
    /// Path of bpf-linker.
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, bpf-linker {LINKER_VERSION} at {}", self.rustc, self.linker.display())
    }
}

/// The tools that were found on this machine.
#[derive(Debug)]
pub(crate) struct Survey {
    /// A suitable compiler.
    pub(crate) rustc: Option<Rustc>,
    /// Unsuitable compilers, with reasons.
    pub(crate) unfit: Vec<String>,
    /// A linker that works with the compiler.
    pub(crate) linker: Option<PathBuf>,
    /// Why the linker that was found is unsuitable.
    pub(crate) unfit_linker: Option<String>,
    /// Whether `ip` is installed, for the tests and the demo.
    pub(crate) ip: bool,
    /// Whether `tmux` is installed. It is optional: without it the tests skip the live screen.
    pub(crate) tmux: bool,
}

impl Survey {
    /// Returns compiler and linker if both were found and work together.
    fn toolchain(self) -> Option<Toolchain> {
        Some(Toolchain { rustc: self.rustc?, linker: self.linker? })
    }

    fn is_complete(&self) -> bool {
        self.rustc.is_some() && self.linker.is_some() && self.ip
    }

    /// Prints what is present and what would be installed. Returns whether everything required is
    /// present.
    pub(crate) fn report(&self) -> bool {
        match &self.rustc {
            Some(rustc) => println!("found: {rustc}"),
            None => println!("missing: a rustc for the kernel object, with the sources of core"),
        }
        for reason in &self.unfit {
            println!("  not usable: {reason}");
        }
        match &self.linker {
            Some(linker) => println!("found: bpf-linker {LINKER_VERSION} at {}", linker.display()),
            None => println!("missing: bpf-linker {LINKER_VERSION}, built with the LLVM of rustc"),
        }
        if let Some(reason) = &self.unfit_linker {
            println!("  not usable: {reason}");
        }
        println!("{}: ip (iproute2)", if self.ip { "found" } else { "missing" });
        println!("{}: tmux", if self.tmux { "found" } else { "missing" });
        test_tools::report();
        for step in install::plan(self) {
            println!("would run: {step}");
        }
        self.is_complete()
    }
}

/// Looks for the tools on this machine.
pub(crate) fn survey() -> Result<Survey> {
    let (rustc, unfit) = rustc::find();
    let (linker, unfit_linker) = match &rustc {
        Some(rustc) => probe::find_linker(rustc)?,
        None => (None, None),
    };
    let [ip, tmux] = ["ip", "tmux"].map(|program| sh::find(program).is_some());
    Ok(Survey { rustc, unfit, linker, unfit_linker, ip, tmux })
}

/// Returns the tools; installs what is missing. With `yes`, sudo is used where root is needed.
pub(crate) fn ensure(yes: bool) -> Result<Toolchain> {
    // Each round installs what the round before found missing. The linker depends on the compiler's LLVM,
    // so it can be chosen only once a compiler is installed.
    for _ in 0..3 {
        let found = survey()?;
        if found.is_complete() {
            break;
        }
        install::install(&found, yes)?;
    }
    let found = survey()?;
    if !found.is_complete() {
        found.report();
        bail!(
            "the toolchain of the kernel object is still incomplete; the missing tools are listed above"
        );
    }
    match found.toolchain() {
        Some(toolchain) => Ok(toolchain),
        None => {
            bail!("a tool of the toolchain was removed during the survey; run the command again")
        }
    }
}
