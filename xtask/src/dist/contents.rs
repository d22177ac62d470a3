//! The files of the packages, and their paths.

use std::{fs, io::Write as _, path::Path, process::Command};

use anyhow::Result;
use flate2::{Compression, GzBuilder};

use super::notices;
use crate::{
    files::{files_in, read},
    sh,
};

/// Directory of the documentation.
pub(super) const DOC: &str = "usr/share/doc/trainguard";

/// A file of a package.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Its path, relative to the root.
    pub(super) path: String,
    /// Its mode (`chmod(2)`).
    pub(super) mode: u32,
    /// Its content.
    pub(super) bytes: Vec<u8>,
}

/// The files of every package, sorted by path, and directories that are created without a file.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    pub(super) files: Vec<File>,
    pub(super) directories: Vec<&'static str>,
}

impl Contents {
    /// Gathers the files from the sources, and those that the binary writes itself: completions and
    /// manual pages.
    pub(super) fn gather(binary: &Path) -> Result<Self> {
        let mut contents = Self { files: Vec::new(), directories: vec!["etc/trainguard"] };
        contents.add("usr/bin/trainguard", 0o755, read(binary)?);
        contents.services()?;
        contents.shared()?;
        contents.documentation()?;
        contents.pages(binary)?;
        for (shell, path) in [
            ("bash", "usr/share/bash-completion/completions/trainguard"),
            ("zsh", "usr/share/zsh/site-functions/_trainguard"),
            ("fish", "usr/share/fish/vendor_completions.d/trainguard.fish"),
        ] {
            let script = sh::read(Command::new(binary).args(["completions", shell]))?;
            contents.add(path, 0o644, script.into_bytes());
        }
        contents.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(contents)
    }

    /// Returns the same contents with one more file, for one kind of package.
    pub(super) fn with(&self, path: &str, bytes: Vec<u8>) -> Self {
        let mut contents = self.clone();
        contents.add(path, 0o644, bytes);
        contents.files.sort_by(|a, b| a.path.cmp(&b.path));
        contents
    }

    fn add(&mut self, path: impl Into<String>, mode: u32, bytes: Vec<u8>) {
        self.files.push(File { path: path.into(), mode, bytes });
    }

    /// Adds a file of the repository.
    fn copy(&mut self, from: &str, to: impl Into<String>) -> Result<()> {
        self.add(to, 0o644, read(&sh::root().join(from))?);
        Ok(())
    }

    /// Adds the files of a directory of the repository; subdirectories are left out.
    fn copy_directory(&mut self, from: &str, to: &str) -> Result<()> {
        for path in files_in(&sh::root().join(from))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.add(format!("{to}/{name}"), 0o644, read(&path)?);
        }
        Ok(())
    }

    fn services(&mut self) -> Result<()> {
        for (from, to) in [
            ("trainguard.service", "usr/lib/systemd/system/trainguard.service"),
            ("trainguard-pins.service", "usr/lib/systemd/system/trainguard-pins.service"),
            ("sysusers.conf", "usr/lib/sysusers.d/trainguard.conf"),
            ("tmpfiles.conf", "usr/lib/tmpfiles.d/trainguard.conf"),
        ] {
            self.copy(&format!("guard-user/packaging/systemd/{from}"), to)?;
        }
        Ok(())
    }

    /// Adds profiles, schemas, alerts and the dashboard.
    fn shared(&mut self) -> Result<()> {
        for (from, to) in [
            ("policies", "policies"),
            ("guard-user/schema", "schema"),
            ("guard-user/packaging", "monitoring"),
            ("guard-user/packaging/container", "container"),
        ] {
            self.copy_directory(from, &format!("usr/share/trainguard/{to}"))?;
        }
        Ok(())
    }

    fn documentation(&mut self) -> Result<()> {
        let doc = DOC;
        // These are examples. A manifest in /etc/trainguard would be in force.
        self.copy("policies/cluster.yaml", format!("{doc}/examples/cluster.yaml"))?;
        self.copy("policies/mxnet.yaml", format!("{doc}/examples/mxnet.yaml"))?;
        // At the same relative paths as in the repository, so that the links between them work.
        for name in
            ["README", "ARCHITECTURE", "BENCHMARKS", "CHANGELOG", "CONTRIBUTING", "SECURITY"]
        {
            self.copy(&format!("{name}.md"), format!("{doc}/{name}.md"))?;
        }
        for directory in ["docs", "docs/guide", "docs/reference", "docs/decisions"] {
            self.copy_directory(directory, &format!("{doc}/{directory}"))?;
        }
        let licence = fs::read_to_string(sh::root().join("LICENSE-MIT"))?;
        let copyright = format!(
            "trainguard is licensed under the MIT licence, which follows, or the Apache License,\n\
             version 2.0, at your option. On Debian its text is in\n\
             /usr/share/common-licenses/Apache-2.0, elsewhere beside this file. The licences of\n\
             the linked libraries are in third-party.txt.\n\n{licence}"
        );
        self.add(format!("{doc}/copyright"), 0o644, copyright.into_bytes());
        self.add(format!("{doc}/third-party.txt"), 0o644, notices::gather()?.into_bytes());
        Ok(())
    }

    fn pages(&mut self, binary: &Path) -> Result<()> {
        let directory = tempfile::tempdir()?;
        sh::read(Command::new(binary).args(["man", "--output"]).arg(directory.path()))?;
        for page in files_in(directory.path())? {
            let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = gzip(&read(&page)?)?;
            self.add(format!("usr/share/man/man1/{name}.gz"), 0o644, bytes);
        }
        Ok(())
    }
}

/// Returns path and text of the Apache licence, for machines without Debian's collection of licences.
pub(super) fn apache() -> Result<(String, Vec<u8>)> {
    Ok((format!("{DOC}/LICENSE-APACHE"), read(&sh::root().join("LICENSE-APACHE"))?))
}

/// Compresses without a file name or time in the header.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}
