//! Prometheus and its tool, for tests: Debian's package, unpacked and not installed.
//!
//! Installing it would start a server on this machine and bring a dozen packages along for a web
//! page that no test looks at. Unpacked below `target` it is two programs, and gone with `target`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::install;
use crate::sh;

const PACKAGE: &str = "prometheus";
/// What the tests run.
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Where it is unpacked, and where the tests look before they look on the path.
fn directory() -> PathBuf {
    sh::root().join("target/prometheus")
}

/// Whether the tests find both programs.
pub(super) fn is_there() -> bool {
    let unpacked = directory().join("usr/bin");
    PROGRAMS.iter().all(|name| unpacked.join(name).is_file() || sh::find(name).is_some())
}

/// Tells whether it is there, and what would be run if it is not.
pub(super) fn report() {
    let there = is_there();
    println!("{}: prometheus and promtool, for tests", if there { "found" } else { "missing" });
    if !there && install::is_debian() {
        println!("would run: apt-get download {PACKAGE}");
        println!("would run: dpkg -x {PACKAGE}_*.deb {}", directory().display());
    }
}

/// Makes sure that it is there. Where it cannot be had that is said, and the tests that need it are
/// skipped: nothing else depends on it.
pub(crate) fn ensure_prometheus(yes: bool) {
    if is_there() {
        return;
    }
    let got = if install::is_debian() {
        unpack(yes)
    } else {
        Err(anyhow::anyhow!("only Debian's package is fetched from here"))
    };
    if let Err(error) = got {
        eprintln!("no prometheus: {error:#}; the tests that need it are skipped");
    }
}

fn unpack(yes: bool) -> Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    eprintln!("unpacking Debian's package `{PACKAGE}` for tests into {}", directory.display());
    let download = || {
        let mut apt = Command::new("apt-get");
        sh::succeeds(apt.args(["download", "-q", PACKAGE]).current_dir(&directory))
    };
    if !download()? {
        // Package lists that are missing, or that name a version that is gone.
        install::update_package_lists(yes)?;
        anyhow::ensure!(download()?, "`apt-get download {PACKAGE}` failed");
    }
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            sh::run(Command::new("dpkg").arg("-x").arg(&path).arg(&directory))?;
            fs::remove_file(&path)?;
        }
    }
    anyhow::ensure!(is_there(), "the package has no {}", PROGRAMS.join(" and no "));
    Ok(())
}
