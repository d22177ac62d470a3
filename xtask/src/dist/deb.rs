//! The package for Debian and its derivatives (deb(5)): an `ar` archive of two tar archives.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use md5::{Digest as _, Md5};

use super::{
    MAINTAINER, Release,
    archive::{self, Tar},
    contents::{Contents, DOC, gzip},
    hexadecimal,
};
use crate::sh;

/// The scripts that the package manager runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Returns the package's file name.
pub(super) fn name(release: &Release) -> String {
    format!("trainguard_{}_amd64.deb", version(release))
}

fn version(release: &Release) -> String {
    match release.revision {
        Some(revision) => format!("{}-{revision}", release.version),
        None => release.version.clone(),
    }
}

/// Builds the package.
pub(super) fn package(release: &Release, contents: &Contents) -> Result<Vec<u8>> {
    let contents = &contents
        .with("usr/share/lintian/overrides/trainguard", source("lintian-overrides")?.into_bytes())
        .with(&format!("{DOC}/{}", changelog_name(release)), gzip(changelog(release)?.as_bytes())?);
    let mut ar = ar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", control(release, contents)?),
        ("data.tar.gz", archive::tree(release, contents, ".")?),
    ] {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        header.set_mtime(u64::from(release.time));
        header.set_mode(0o100_644);
        ar.append(&header, &bytes[..])?;
    }
    Ok(ar.into_inner()?)
}

/// Reads a file of `guard-user/packaging/deb`.
fn source(name: &str) -> Result<String> {
    let path = sh::root().join("guard-user/packaging/deb").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Returns the changelog's file name. A package with a revision has the version of sources from
/// elsewhere.
fn changelog_name(release: &Release) -> &'static str {
    if release.revision.is_some() { "changelog.Debian.gz" } else { "changelog.gz" }
}

/// Returns the changelog that Debian's tools require (deb-changelog(5)).
fn changelog(release: &Release) -> Result<String> {
    let version = version(release);
    let mut date = Command::new("date");
    let date = sh::read(date.args(["-u", "-R", "-d"]).arg(format!("@{}", release.time)))?;
    Ok(format!(
        "trainguard ({version}) unstable; urgency=medium\n\n  * trainguard {version}, packed from its \
         sources.\n\n -- {MAINTAINER}  {}\n",
        date.trim()
    ))
}

fn control(release: &Release, contents: &Contents) -> Result<Vec<u8>> {
    let mut tar = Tar::new(release.time);
    // In KiB, each file rounded up (deb-substvars(5)).
    let size: usize = contents.files.iter().map(|file| file.bytes.len().div_ceil(1024)).sum();
    let text = source("control")?
        .replace("@VERSION@", &version(release))
        .replace("@SIZE@", &size.to_string())
        .replace("@MAINTAINER@", MAINTAINER);
    tar.file("./control", 0o644, text.as_bytes())?;
    let sums: Vec<String> = contents
        .files
        .iter()
        .map(|file| format!("{}  {}\n", hexadecimal(&Md5::digest(&file.bytes)), file.path))
        .collect();
    tar.file("./md5sums", 0o644, sums.concat().as_bytes())?;
    for name in SCRIPTS {
        tar.file(&format!("./{name}"), 0o755, source(name)?.as_bytes())?;
    }
    tar.finish()
}
