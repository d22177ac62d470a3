//! Trying the packages: installed, upgraded and removed below a root directory that lies over this
//! machine's own and is thrown away, without systemd.
//!
//! It takes root, overlayfs, and `dpkg` or `rpm`; what is not there is said and left out. What
//! systemd does with the units is tried in a machine of its own, by `cargo xtask vm`.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use super::{Release, contents::Contents, deb, rpm};
use crate::sh;

/// What is done and asked below that root directory.
const SCRIPT: &str = include_str!("attempt.sh");

/// Tries the packages of a release; whether all is as it should be.
pub(super) fn run(release: &Release, contents: &Contents, packed: &Path) -> Result<bool> {
    if !sh::is_root() {
        bail!("--try needs root: it mounts a root directory of its own");
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
