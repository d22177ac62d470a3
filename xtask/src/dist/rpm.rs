//! The package for Fedora, SUSE and their derivatives.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};
use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder};

use super::{
    MAINTAINER, Release,
    contents::{Contents, apache},
};
use crate::sh;

/// Returns the package's file name.
pub(super) fn name(release: &Release) -> String {
    format!("trainguard-{}-{}.x86_64.rpm", release.version, revision(release))
}

fn revision(release: &Release) -> u32 {
    release.revision.unwrap_or(1)
}

/// Builds the package.
pub(super) fn package(release: &Release, contents: &Contents) -> Result<Vec<u8>> {
    let script = |name: &str| {
        let path = sh::root().join("guard-user/packaging/rpm").join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let (path, text) = apache()?;
    let contents = &contents.with(&path, text);
    let summary = "Network guard of a training cluster (XDP)";
    let licence = "MIT OR Apache-2.0";
    let mut builder =
        PackageBuilder::new("trainguard", &release.version, licence, "x86_64", summary);
    let config =
        BuildConfig::default().compression(CompressionType::Gzip).source_date(release.time);
    builder
        .using_config(config)
        .release(revision(release).to_string())
        .url("https://github.com/trainguard/trainguard")
        .description(
            "Makes the ports of distributed training reachable only from the hosts that the\n\
             cluster manifest names. Nothing is enabled, started or enforced by\n\
             installation.",
        )
        .packager(MAINTAINER)
        .add_changelog_entry(
            format!("{MAINTAINER} - {}-{}", release.version, revision(release)),
            format!("- trainguard {}, packed from its sources", release.version),
            release.time,
        )
        .build_host("localhost")
        .requires(Dependency::greater_eq("systemd", "252"))
        .post_install_script(script("post")?)
        .pre_uninstall_script(script("preun")?)
        .post_uninstall_script(script("postun")?);
    for path in own_directories(contents) {
        builder.with_dir_entry(FileOptions::dir(format!("/{path}")).permissions(0o755))?;
    }
    for file in &contents.files {
        let mode = u16::try_from(file.mode).context("a file mode")?;
        let options = FileOptions::new(format!("/{}", file.path)).permissions(mode);
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let options = if ["copyright", "LICENSE-APACHE", "third-party.txt"].contains(&name) {
            options.doc().license()
        } else if ["usr/share/doc/", "usr/share/man/"].iter().any(|it| file.path.starts_with(it)) {
            options.doc()
        } else {
            options
        };
        builder.with_file_contents(file.bytes.clone(), options)?;
    }
    let mut bytes = Vec::new();
    builder.build()?.write(&mut bytes)?;
    Ok(bytes)
}

/// Returns the directories that only this package uses; they are removed with it.
fn own_directories(contents: &Contents) -> BTreeSet<String> {
    let of_files = contents.files.iter().flat_map(|file| {
        let ends = file.path.match_indices('/').map(|(at, _)| at);
        ends.filter_map(|at| file.path.get(..at)).map(str::to_owned)
    });
    let ours = |path: &String| path.split('/').any(|name| name == "trainguard");
    let empty = contents.directories.iter().map(|path| (*path).to_owned());
    of_files.filter(ours).chain(empty).collect()
}
