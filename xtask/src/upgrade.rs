//! `cargo xtask upgrade`: tests upgrades from, and downgrades to, a version from before layouts described
//! themselves. Builds that version's own binary.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    sh,
    test::{self, Count},
};

/// The last version of layout 3.
const EARLIER: &str = "4ee8dd0dc483a360cd64d50e3851e4a4ac46e3dc";

/// Builds that version, unless it is built already, and runs the tests; returns the counts.
pub(crate) fn run() -> Result<Count> {
    test::upgrade(earlier()?)
}

/// The binary of that version, built in a clone below `target`.
fn earlier() -> Result<PathBuf> {
    let source = sh::root().join("target/earlier");
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
    sh::run(git().current_dir(&source).args(["checkout", "--quiet", "--detach", EARLIER])).context(
        "the version to upgrade from is not in this clone: `git fetch --unshallow` gets all of them",
    )?;
    println!("building the version of commit {EARLIER} in {}", source.display());
    // The demo is the shortest command of that version that builds the binary.
    let mut demo = sh::cargo();
    demo.current_dir(&source).args(["xtask", "demo"]).env_remove("CARGO_MANIFEST_DIR");
    sh::run(&mut demo)?;
    ensure!(binary.is_file(), "its demo left no {}", binary.display());
    Ok(binary)
}
