//! Tools that only tests run, from Debian packages that are unpacked but not installed.
//!
//! Installing Prometheus would start a server on this machine, and install a dozen packages for a web
//! page that no test uses. Unpacked below `target` it is only two programs, which are deleted with
//! `target`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::install;
use crate::sh;

/// A tool for tests.
struct Tool {
    /// Directory to unpack it to, below `target`.
    name: &'static str,
    /// Its packages, including libraries that may not be on this machine.
    packages: &'static [&'static str],
    /// The programs that the tests run.
    programs: &'static [&'static str],
}

const TOOLS: [Tool; 2] = [
    Tool { name: "prometheus", packages: &["prometheus"], programs: &["prometheus", "promtool"] },
    Tool { name: "minisign", packages: &["minisign", "libsodium23"], programs: &["minisign"] },
];

/// Prints which tools are present, and what would be run for the missing ones.
pub(super) fn report() {
    TOOLS.iter().for_each(Tool::report);
}

/// Unpacks the tools that are missing. A failure is only printed, because only the tests that need the
/// tool are skipped.
pub(crate) fn ensure_test_tools(yes: bool) {
    for tool in TOOLS.iter().filter(|tool| !tool.is_installed()) {
        let got = if install::is_debian() {
            tool.unpack(yes)
        } else {
            Err(anyhow::anyhow!("xtask fetches it on Debian only"))
        };
        if let Err(error) = got {
            eprintln!(
                "{} is not available: {error:#}; the tests that need it are skipped",
                tool.name
            );
        }
    }
}

impl Tool {
    /// Returns the directory to unpack to. Tests look there before they search `PATH`.
    fn directory(&self) -> PathBuf {
        sh::root().join("target").join(self.name)
    }

    fn is_installed(&self) -> bool {
        let unpacked = self.directory().join("usr/bin");
        let found = |name: &&str| unpacked.join(name).is_file() || sh::find(name).is_some();
        self.programs.iter().all(found)
    }

    fn report(&self) {
        let there = self.is_installed();
        let programs = self.programs.join(" and ");
        println!("{}: {programs}, for tests", if there { "found" } else { "missing" });
        if !there && install::is_debian() {
            println!("would run: apt-get download {}", self.packages.join(" "));
            for package in self.packages {
                println!("would run: dpkg -x {package}_*.deb {}", self.directory().display());
            }
        }
    }

    fn unpack(&self, yes: bool) -> Result<()> {
        let directory = self.directory();
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let packages = self.packages.join(" ");
        eprintln!("unpacking Debian's {packages} for tests into {}", directory.display());
        let download = || {
            let mut apt = Command::new("apt-get");
            sh::succeeds(apt.args(["download", "-q"]).args(self.packages).current_dir(&directory))
        };
        if !download()? {
            // The package lists are missing, or name a version that no longer exists.
            install::update_package_lists(yes)?;
            anyhow::ensure!(download()?, "`apt-get download {packages}` failed");
        }
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                sh::run(Command::new("dpkg").arg("-x").arg(&path).arg(&directory))?;
                fs::remove_file(&path)?;
            }
        }
        anyhow::ensure!(
            self.is_installed(),
            "the packages {packages} do not contain {}",
            self.programs.join(" and ")
        );
        Ok(())
    }
}
