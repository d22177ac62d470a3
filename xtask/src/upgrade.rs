//! `cargo xtask upgrade`: tests upgrades from, and downgrades to, a version older than self-describing
//! layouts. Builds that version's binary, and its packages for `cargo xtask vm --scenario upgrade`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    sh,
    test::{self, Count},
};

/// Commit of the last version with layout 3.
const EARLIER: &str = "4ee8dd0dc483a360cd64d50e3851e4a4ac46e3dc";

/// Builds the earlier version, unless it is built already, and runs the tests. Returns the counts.
pub(crate) fn run() -> Result<Count> {
    test::upgrade(earlier()?)
}

/// Builds packages of the earlier version with its own `cargo xtask dist` and copies them to `directory`.
/// Returns the path of the deb; the rpm is beside it.
pub(crate) fn packages(directory: &Path) -> Result<PathBuf> {
    let stripped = sh::strip(&earlier()?, &directory.join("earlier"))?;
    let source = source();
    let mut dist = sh::cargo();
    dist.current_dir(&source).args(["xtask", "dist", "--binary"]).arg(stripped);
    sh::run(dist.env_remove("CARGO_MANIFEST_DIR"))?;
    let packed = source.join("target/dist");
    for kind in ["deb", "rpm"] {
        let is_package = |path: &PathBuf| path.extension().is_some_and(|it| it == kind);
        let files = fs::read_dir(&packed).with_context(|| packed.display().to_string())?;
        let mut packages = files.flatten().map(|file| file.path()).filter(is_package);
        let package = packages
            .next()
            .with_context(|| format!("`cargo xtask dist` of the earlier version made no {kind}"))?;
        let to = directory.join("earlier").with_extension(kind);
        fs::copy(&package, &to).with_context(|| package.display().to_string())?;
    }
    Ok(directory.join("earlier.deb"))
}

/// Returns the directory of the clone in which the earlier version is built.
fn source() -> PathBuf {
    sh::root().join("target/earlier")
}

/// Returns the binary of the earlier version; builds it if it does not exist.
fn earlier() -> Result<PathBuf> {
    let source = source();
    let binary = source.join("target/debug/trainguard");
    if binary.is_file() {
        return Ok(binary);
    }
    let git = || {
        let mut git = Command::new("git");
        git.current_dir(sh::root());
        git
    };
    if !source.is_dir() {
        sh::run(git().args(["clone", "--quiet", "--no-checkout", "--shared", "."]).arg(&source))?;
    }
    sh::run(git().current_dir(&source).args(["checkout", "--quiet", "--detach", EARLIER]))
        .context("the commit to upgrade from is not in this clone; run `git fetch --unshallow`")?;
    println!("building the version of commit {EARLIER} in {}", source.display());
    // In that version, `demo` is the shortest command that builds the binary.
    let mut demo = sh::cargo();
    demo.current_dir(&source).args(["xtask", "demo"]).env_remove("CARGO_MANIFEST_DIR");
    sh::run(&mut demo)?;
    ensure!(
        binary.is_file(),
        "`cargo xtask demo` of the earlier version did not build {}",
        binary.display()
    );
    Ok(binary)
}
