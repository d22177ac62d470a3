//! Mounts that nobody else sees, and that end with whoever made them.

use std::{
    fs,
    path::{Path, PathBuf},
};

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

/// Something that was mounted where others see it; not any more when this is dropped.
#[derive(Debug)]
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// Mounts a memory file system of a size in bytes at a directory, which is made.
    pub fn tmpfs(at: &Path, size: usize) -> Result<Self> {
        fs::create_dir_all(at)?;
        let options = format!("size={size},mode=0700");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| at.display().to_string())?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Lets a file system be written to, or not.
pub fn writable(at: &Path, writable: bool) -> Result<()> {
    let flags = if writable { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    mount(NONE, at, NONE, flags | MsFlags::MS_REMOUNT, NONE)
        .with_context(|| at.display().to_string())
}
