//! Tar archives: the package for machines without a package manager, and the archives inside a Debian
//! package.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;
use tar::{Builder, EntryType, Header};

use super::{
    Release,
    contents::{Contents, apache, gzip},
};

/// Returns the archive's file name.
pub(super) fn name(release: &Release) -> String {
    format!("{}.tar.gz", top(release))
}

/// Returns the name of the directory that contains all files of the archive.
fn top(release: &Release) -> String {
    format!("trainguard-{}-{}", release.version, super::TARGET)
}

/// Packs all files below one directory, with their paths relative to the root of a machine.
pub(super) fn package(release: &Release, contents: &Contents) -> Result<Vec<u8>> {
    let (path, text) = apache()?;
    tree(release, &contents.with(&path, text), &top(release))
}

/// Packs all files below this directory, and compresses the archive.
pub(super) fn tree(release: &Release, contents: &Contents, top: &str) -> Result<Vec<u8>> {
    let mut tar = Tar::new(release.time);
    let empty = contents.directories.iter().map(|path| (*path).to_owned() + "/");
    let paths: Vec<String> =
        contents.files.iter().map(|file| file.path.clone()).chain(empty).collect();
    let parents = paths
        .iter()
        .flat_map(|path| path.match_indices('/').map(|(at, _)| path.get(..at).unwrap_or_default()));
    for directory in parents.collect::<BTreeSet<_>>() {
        tar.directory(&format!("{top}/{directory}/"))?;
    }
    for file in &contents.files {
        tar.file(&format!("{top}/{}", file.path), file.mode, &file.bytes)?;
    }
    tar.finish()
}

/// An archive whose entries belong to root and have the same time of modification.
pub(super) struct Tar {
    builder: Builder<Vec<u8>>,
    time: u32,
}

impl Tar {
    pub(super) fn new(time: u32) -> Self {
        Self { builder: Builder::new(Vec::new()), time }
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(path, EntryType::Regular, mode, bytes)
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, EntryType::Directory, 0o755, &[])
    }

    fn entry(&mut self, path: &str, kind: EntryType, mode: u32, bytes: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        header.set_mtime(u64::from(self.time));
        header.set_size(bytes.len() as u64);
        self.builder.append_data(&mut header, Path::new(path), bytes)?;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        gzip(&self.builder.into_inner()?)
    }
}
