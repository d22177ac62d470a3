//! Checks which users could change a file, by the owner and mode of the file and of all directories
//! and links on its path. The daemon refuses files by these rules, and `doctor` reports on them.
//!
//! A path is walked from the root directory, name by name. Each directory is opened relative to the
//! one before it and examined through its descriptor, so it cannot be replaced between the check and
//! the read. Symbolic links are followed, because a `ConfigMap` of Kubernetes consists of them; the
//! target of a link and all directories on the way to it are checked by the same rules.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{self, fs::MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{AtFlags, OFlag, open, openat, readlinkat},
    sys::{
        stat::{FileStat, Mode, SFlag, fstat, fstatat},
        statvfs::{FsFlags, fstatvfs},
    },
};
use serde::Serialize;

use crate::vocabulary::vocabulary;

/// Maximum number of links on the path of a file, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Permission bits: writable by the group or by others.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Permission bit: in a sticky directory, users can only rename and remove their own entries.
const STICKY: u32 = 0o1000;

/// Owner and mode of a directory entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ownership {
    /// User id of the owner.
    pub uid: u32,
    /// Permission bits, including the sticky bit.
    pub mode: u32,
}

vocabulary! {
    /// Type of a directory entry.
    pub enum EntryKind, by default Other {
        /// A regular file.
        File = "file",
        /// A directory.
        Directory = "directory",
        /// A symbolic link.
        Link = "link",
        /// Another type.
        Other = "other",
    }
}

/// An entry on the path of a walk: a directory, a link, or the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathEntry {
    /// Path of the entry.
    pub path: PathBuf,
    /// Type of the entry.
    pub kind: EntryKind,
    /// Owner and mode.
    pub owned: Ownership,
    /// Number of hard links.
    pub names: u64,
    /// For a directory: whether it is on a read-only mount, so that no user can write to it whatever
    /// its mode is.
    pub read_only: bool,
}

/// Why an entry cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The owner is not a trusted user.
    Owner,
    /// Other users may write to the file.
    Writable,
    /// Other users may create entries in the directory.
    Shared,
    /// The entry is neither a file nor a directory nor a link.
    Kind,
    /// The file has further hard links, which may be in a directory that other users can write to.
    HardLinks,
}

impl PathEntry {
    fn new(path: PathBuf, found: &FileStat, read_only: bool) -> Self {
        let kind = match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => EntryKind::Link,
            SFlag::S_IFDIR => EntryKind::Directory,
            SFlag::S_IFREG => EntryKind::File,
            _ => EntryKind::Other,
        };
        let owned = Ownership { uid: found.st_uid, mode: found.st_mode & 0o7777 };
        Self { path, kind, owned, names: found.st_nlink, read_only }
    }

    /// Describes an open file.
    pub(crate) fn file(path: PathBuf, file: &File) -> io::Result<Self> {
        Ok(Self::new(path, &fstat(file)?, false))
    }

    fn directory(path: PathBuf, directory: &OwnedFd) -> io::Result<Self> {
        let read_only = fstatvfs(directory)?.flags().contains(FsFlags::ST_RDONLY);
        Ok(Self::new(path, &fstat(directory)?, read_only))
    }

    /// Returns why the entry cannot be trusted, if only root and the users in `trusted` are.
    pub fn fault(&self, trusted: &[u32]) -> Option<Fault> {
        let Ownership { uid, mode } = self.owned;
        let is_shared = mode & WRITABLE_BY_OTHERS != 0;
        if uid != 0 && !trusted.contains(&uid) {
            return Some(Fault::Owner);
        }
        match self.kind {
            // The mode of a link has no effect.
            EntryKind::Link => None,
            // In a sticky directory, users cannot replace entries of other users, and the owner of
            // the next entry is checked as well. A `ConfigMap` is mounted read-only at a directory of
            // mode 0777.
            EntryKind::Directory => {
                (is_shared && mode & STICKY == 0 && !self.read_only).then_some(Fault::Shared)
            }
            EntryKind::File if is_shared => Some(Fault::Writable),
            EntryKind::File => (self.names != 1).then_some(Fault::HardLinks),
            _ => Some(Fault::Kind),
        }
    }
}

/// Target of a walk: an entry in an open directory that is not a link.
#[derive(Debug)]
pub(crate) struct PathTarget {
    pub(crate) directory: OwnedFd,
    pub(crate) name: OsString,
    pub(crate) path: PathBuf,
}

impl PathTarget {
    /// Describes the entry without opening it.
    pub(crate) fn stat(&self) -> io::Result<PathEntry> {
        let found = fstatat(&self.directory, &*self.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(PathEntry::new(self.path.clone(), &found, false))
    }
}

/// Walks along a path to a file. Passes each entry before the target to `pass`, the root directory
/// first. An error of `pass` ends the walk.
///
/// # Errors
/// An entry does not exist, the target is a directory, there are too many links, or `pass` failed.
pub(crate) fn walk(
    path: &Path,
    pass: &mut dyn FnMut(PathEntry) -> io::Result<()>,
) -> io::Result<PathTarget> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut ahead: VecDeque<OsString> = names(&std::path::absolute(path)?).collect();
    let mut behind = PathBuf::from("/");
    let mut directory = open("/", flags, Mode::empty())?;
    pass(PathEntry::directory(behind.clone(), &directory)?)?;
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        let found = fstatat(&directory, &*name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => {
                pass(PathEntry::new(behind.join(&name), &found, false))?;
                let target = PathBuf::from(readlinkat(&directory, &*name)?);
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if target.is_absolute() {
                    directory = open("/", flags, Mode::empty())?;
                    behind = PathBuf::from("/");
                }
                for name in names(&target).rev() {
                    ahead.push_front(name);
                }
            }
            SFlag::S_IFDIR => {
                let next = flags | OFlag::O_NOFOLLOW;
                directory = openat(&directory, &*name, next, Mode::empty())?;
                if name == ".." {
                    behind.pop();
                } else {
                    behind.push(&name);
                }
                pass(PathEntry::directory(behind.clone(), &directory)?)?;
            }
            _ if ahead.is_empty() => {
                return Ok(PathTarget { path: behind.join(&name), directory, name });
            }
            _ => return Err(io::ErrorKind::NotADirectory.into()),
        }
    }
    Err(io::ErrorKind::IsADirectory.into())
}

/// Returns the components of a path without `.` and `/`.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

/// Changes the owner of all entries below a directory to the owner of the directory. Without effect
/// on entries that have that owner already.
///
/// # Errors
/// The directory cannot be read, or this process is not root and an entry has another owner.
pub(crate) fn hand_over(directory: &Path) -> io::Result<()> {
    let owner = fs::metadata(directory)?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if (metadata.uid(), metadata.gid()) != (owner.uid(), owner.gid()) {
            unix::fs::lchown(&path, Some(owner.uid()), Some(owner.gid()))?;
        }
        if metadata.is_dir() {
            hand_over(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind, uid: u32, mode: u32) -> PathEntry {
        PathEntry {
            path: "/x".into(),
            kind,
            owned: Ownership { uid, mode },
            names: 1,
            read_only: false,
        }
    }

    #[test]
    fn faults_depend_on_owner_mode_type_and_links() {
        for (what, fault) in [
            (entry(EntryKind::File, 0, 0o644), None),
            (entry(EntryKind::File, 7, 0o644), None),
            (entry(EntryKind::File, 8, 0o644), Some(Fault::Owner)),
            (entry(EntryKind::File, 0, 0o664), Some(Fault::Writable)),
            (entry(EntryKind::File, 0, 0o1646), Some(Fault::Writable)),
            (
                PathEntry { read_only: true, ..entry(EntryKind::File, 0, 0o666) },
                Some(Fault::Writable),
            ),
            (PathEntry { names: 2, ..entry(EntryKind::File, 0, 0o600) }, Some(Fault::HardLinks)),
            (PathEntry { names: 9, ..entry(EntryKind::Directory, 0, 0o755) }, None),
            (entry(EntryKind::Directory, 0, 0o775), Some(Fault::Shared)),
            (entry(EntryKind::Directory, 0, 0o1777), None),
            (entry(EntryKind::Directory, 8, 0o1777), Some(Fault::Owner)),
            (PathEntry { read_only: true, ..entry(EntryKind::Directory, 0, 0o777) }, None),
            (entry(EntryKind::Link, 0, 0o777), None),
            (entry(EntryKind::Link, 8, 0o777), Some(Fault::Owner)),
            (entry(EntryKind::Other, 0, 0o600), Some(Fault::Kind)),
        ] {
            assert_eq!(what.fault(&[7]), fault, "{what:?}");
        }
    }
}
