//! What building the kernel object takes: a rustc that may use unstable features, the sources of
//! its `core`, and a bpf-linker, all three of one LLVM.
//!
//! [`survey`] looks, [`ensure`] installs what is missing after saying so. That the parts agree is
//! not guessed from versions: a small program is compiled and linked.

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

/// The linker's version. Newer ones want a newer LLVM by default.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// Parts that agree.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) rustc: Rustc,
    /// The linker.
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, bpf-linker {LINKER_VERSION} at {}", self.rustc, self.linker.display())
    }
}

/// What the machine has.
#[derive(Debug)]
pub(crate) struct Survey {
    /// A compiler that will do, if there is one.
    pub(crate) rustc: Option<Rustc>,
    /// Compilers that will not do, and why.
    pub(crate) unfit: Vec<String>,
    /// A linker that will do with the compiler.
    pub(crate) linker: Option<PathBuf>,
    /// Why the linker that was found will not do.
    pub(crate) unfit_linker: Option<String>,
    /// Whether `ip` is there, for the tests and the demo.
    pub(crate) ip: bool,
    /// Whether `tmux` is there, in which the tests use the live screen. Without it they skip that
    /// one, so nothing else waits for it.
    pub(crate) tmux: bool,
}

impl Survey {
    /// The parts, if all are there and agree.
    fn toolchain(self) -> Option<Toolchain> {
        Some(Toolchain { rustc: self.rustc?, linker: self.linker? })
    }

    fn is_complete(&self) -> bool {
        self.rustc.is_some() && self.linker.is_some() && self.ip
    }

    /// Tells what is there and what would be installed; whether all is there.
    pub(crate) fn report(&self) -> bool {
        match &self.rustc {
            Some(rustc) => println!("found: {rustc}"),
            None => println!("missing: a rustc for the kernel object, with the sources of core"),
        }
        for reason in &self.unfit {
            println!("  passed over: {reason}");
        }
        match &self.linker {
            Some(linker) => println!("found: bpf-linker {LINKER_VERSION} at {}", linker.display()),
            None => println!("missing: bpf-linker {LINKER_VERSION} of the compiler's LLVM"),
        }
        if let Some(reason) = &self.unfit_linker {
            println!("  passed over: {reason}");
        }
        println!("{}: ip, of iproute2", if self.ip { "found" } else { "missing" });
        println!("{}: tmux", if self.tmux { "found" } else { "missing" });
        test_tools::report();
        for step in install::plan(self) {
            println!("would run: {step}");
        }
        self.is_complete()
    }
}

/// Looks at what the machine has.
pub(crate) fn survey() -> Result<Survey> {
    let (rustc, unfit) = rustc::find();
    let (linker, unfit_linker) = match &rustc {
        Some(rustc) => probe::find_linker(rustc)?,
        None => (None, None),
    };
    let [ip, tmux] = ["ip", "tmux"].map(|program| sh::find(program).is_some());
    Ok(Survey { rustc, unfit, linker, unfit_linker, ip, tmux })
}

/// Finds the parts, installing what is missing. With `yes`, sudo is used where root is needed.
pub(crate) fn ensure(yes: bool) -> Result<Toolchain> {
    // Each round installs what the one before found missing: the linker is chosen by the
    // compiler's LLVM, so it can only be looked for when there is a compiler.
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
        bail!("the toolchain of the kernel object is still not complete; see above");
    }
    match found.toolchain() {
        Some(toolchain) => Ok(toolchain),
        None => bail!("the toolchain vanished while it was looked at"),
    }
}
