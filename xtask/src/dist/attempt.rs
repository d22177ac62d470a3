//! Tests the packages: installs, upgrades and removes them without systemd, in a temporary root
//! directory, an overlay over this machine's own.
//!
//! This needs root, overlayfs, and `dpkg` or `rpm`. Steps whose tools are missing are reported and
//! skipped. `cargo xtask vm` tests the units with systemd, in a virtual machine.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use super::{Release, contents::Contents, deb, rpm};
use crate::sh;

/// The steps and checks in the temporary root directory.
const SCRIPT: &str = include_str!("attempt.sh");

/// Tests the packages of a release. Returns whether all checks pass.
pub(super) fn run(release: &Release, contents: &Contents, packed: &Path) -> Result<bool> {
    if !sh::is_root() {
        bail!("--try needs root, because it mounts a temporary root directory");
    }
    let next = Release { revision: Some(release.revision.unwrap_or(1) + 1), ..release.clone() };
    let directory = tempfile::tempdir()?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-c", SCRIPT, "attempt"]);
    command.arg(directory.path());
    for (name, newer, bytes) in [
        (deb::name(release), "next.deb", deb::package(&next, contents)?),
        (rpm::name(release), "next.rpm", rpm::package(&next, contents)?),
    ] {
        let newer = directory.path().join(newer);
        fs::write(&newer, bytes)?;
        command.arg(packed.join(name)).arg(newer);
    }
    sh::succeeds(&mut command)
}
