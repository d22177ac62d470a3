//! Private mounts, which end with the process that made them.

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

/// Gives this thread and its children a private mount namespace.
pub fn unshare_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("creating a mount namespace")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("making the mounts private")
}

/// Mounts a new file system of a kind.
pub fn new(kind: &str, at: &Path) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE)
        .with_context(|| format!("mounting a {kind} at {}", at.display()))
}

/// A private bpffs, visible to this thread and its children only.
#[derive(Debug)]
pub struct Bpffs(TempDir);

impl Bpffs {
    /// Mounts a bpffs on a temporary directory.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        unshare_mounts()?;
        new("bpf", directory.path())?;
        Ok(Self(directory))
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // The directory cannot be removed while it is a mount point.
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

/// A mount that other processes see; unmounted on drop.
#[derive(Debug)]
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// Creates a directory and mounts a tmpfs of a size in bytes on it.
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

/// Remounts a file system read-write or read-only.
pub fn writable(at: &Path, writable: bool) -> Result<()> {
    let flags = if writable { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    mount(NONE, at, NONE, flags | MsFlags::MS_REMOUNT, NONE)
        .with_context(|| at.display().to_string())
}
