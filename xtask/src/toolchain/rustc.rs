//! Finds a compiler for the kernel object.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::sh;

/// The oldest compiler, as major and minor version, that supports what the kernel crate uses.
const OLDEST: (u32, u32) = (1, 95);

/// A version of LLVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Llvm {
    /// The linker's LLVM must have the same major version.
    pub(crate) major: u32,
    minor: u32,
    patch: u32,
}

#[cfg(test)]
impl Llvm {
    pub(crate) fn for_tests(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Llvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A compiler with the sources of its `core`.
#[derive(Debug, Clone)]
pub(crate) struct Rustc {
    /// Path of the compiler itself, not of a rustup proxy.
    pub(crate) path: PathBuf,
    /// Its release, as in `rustc -vV`: 1.96.0, 1.97.0-nightly.
    pub(crate) release: String,
    /// Version of its LLVM.
    pub(crate) llvm: Llvm,
}

impl Rustc {
    /// Formats the versions that determine the generated code.
    pub(crate) fn version(&self) -> String {
        format!("rustc {} (LLVM {})", self.release, self.llvm)
    }
}

impl fmt::Display for Rustc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.version(), self.path.display())
    }
}

/// The nightly to install with rustup where Debian's compiler is not available; its LLVM is 22.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// Returns the first suitable compiler, and the reasons why those before it are unsuitable. The order is:
/// rustup's nightlies, Debian's `rustc-web`, rustup's stable with unstable features enabled.
pub(crate) fn find() -> (Option<Rustc>, Vec<String>) {
    let mut unfit = Vec::new();
    let candidates = [
        rustup_which(NIGHTLY),
        rustup_which("nightly"),
        Some(PathBuf::from("/usr/bin/rustc")).filter(|path| path.is_file()),
        rustup_which("stable"),
    ];
    for path in candidates.into_iter().flatten() {
        match inspect(&path) {
            Ok(rustc) => return (Some(rustc), unfit),
            Err(reason) => unfit.push(format!("{}: {reason:#}", path.display())),
        }
    }
    (None, unfit)
}

fn rustup_which(toolchain: &str) -> Option<PathBuf> {
    let mut which = Command::new(sh::find("rustup")?);
    // Do not download a toolchain here.
    which.args(["which", "--toolchain", toolchain, "rustc"]).env("RUSTUP_AUTO_INSTALL", "0");
    let path = PathBuf::from(sh::read(&mut which).ok()?.trim());
    path.is_file().then_some(path)
}

fn inspect(path: &Path) -> Result<Rustc> {
    let version = sh::read(Command::new(path).arg("-vV"))?;
    let field = |name: &str| {
        let line = version.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).with_context(|| format!("the output of `rustc -vV` has no `{name}`"))
    };
    let release = field("release:")?.to_owned();
    if parse_release(&release).is_none_or(|release| release < OLDEST) {
        bail!("rustc {release} is older than {}.{}", OLDEST.0, OLDEST.1);
    }
    let llvm = parse_llvm(field("LLVM version:")?)
        .context("the LLVM version of `rustc -vV` does not have three numbers")?;
    let sysroot = sh::read(Command::new(path).args(["--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !core.is_file() {
        bail!("rustc {release} has no sources of core (component rust-src)");
    }
    Ok(Rustc { path: path.to_owned(), release, llvm })
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn parse_llvm(version: &str) -> Option<Llvm> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    Some(Llvm { major: next()?, minor: next()?, patch: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_release("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(parse_release("1.96.0"), Some((1, 96)));
        assert_eq!(parse_release("nightly"), None);
        let llvm = Llvm { major: 22, minor: 1, patch: 8 };
        assert_eq!(parse_llvm("22.1.8"), Some(llvm));
        assert_eq!(parse_llvm("22"), None);
        assert_eq!(llvm.to_string(), "22.1.8");
    }
}
