//! Mounts that nobody else sees, and that end with whoever made them.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

const NONE: Option<&str> = None;

/// From here on, what this thread and its children mount is theirs alone.
pub fn keep_to_ourselves() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of our own")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("keeping our mounts to ourselves")
}

/// Mounts a new file system of this kind.
pub fn new(kind: &str, at: &Path) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE)
        .with_context(|| format!("a {kind} of our own at {}", at.display()))
}

/// Something that was mounted where others see it; not any more when this is dropped.
#[derive(Debug)]
pub struct Mounted(pub std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A bpffs that only this thread and its children see.
#[derive(Debug)]
pub struct Bpffs(TempDir);

impl Bpffs {
    /// Mounts one.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        keep_to_ourselves()?;
        new("bpf", directory.path())?;
        Ok(Self(directory))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Or the directory could not be removed.
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}
