//! Who could change a file: its owner and mode, and those of every directory and link on the way.
//! The daemon refuses by these rules, and the doctor tells of them.
//!
//! A path is walked from the root directory, name by name, each opened below the directory before
//! it and looked at through its own descriptor: nobody can put something else in its place between
//! the look and the reading. Symbolic links are followed, as a `ConfigMap` of Kubernetes consists of
//! them, but whatever a link leads to, and every directory on the way there, obeys the same rule.

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

/// Links on the way to a file, as many as the kernel follows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Writable by the group, by others.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// In such a directory one only changes what is one's own.
const STICKY: u32 = 0o1000;

/// Owner and mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owned {
    /// Owner.
    pub uid: u32,
    /// Permission bits, the sticky bit among them.
    pub mode: u32,
}

vocabulary! {
    /// What an entry of a directory is.
    pub enum EntryKind, by default Other {
        /// A regular file.
        File = "file",
        /// A directory.
        Directory = "directory",
        /// A symbolic link.
        Link = "link",
        /// Something else.
        Other = "other",
    }
}

/// Something that a walk came by: a directory, a link, or what it led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Its path.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Owner and mode.
    pub owned: Owned,
    /// Its names (hard links).
    pub names: u64,
    /// Of a directory: whether nobody can write to it, whatever its mode is, because of how it is
    /// mounted.
    pub read_only: bool,
}

/// Why something on the way cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is another user's.
    Owner,
    /// Others may write to the file.
    Writable,
    /// Others may put files into the directory.
    Shared,
    /// Neither a file nor a directory nor a link.
    Kind,
    /// A file with other names, which may be where others can write.
    Names,
}

impl Passed {
    fn new(path: PathBuf, found: &FileStat, read_only: bool) -> Self {
        let kind = match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => EntryKind::Link,
            SFlag::S_IFDIR => EntryKind::Directory,
            SFlag::S_IFREG => EntryKind::File,
            _ => EntryKind::Other,
        };
        let owned = Owned { uid: found.st_uid, mode: found.st_mode & 0o7777 };
        Self { path, kind, owned, names: found.st_nlink, read_only }
    }

    /// What an open file is.
    pub(crate) fn file(path: PathBuf, file: &File) -> io::Result<Self> {
        Ok(Self::new(path, &fstat(file)?, false))
    }

    fn directory(path: PathBuf, directory: &OwnedFd) -> io::Result<Self> {
        let read_only = fstatvfs(directory)?.flags().contains(FsFlags::ST_RDONLY);
        Ok(Self::new(path, &fstat(directory)?, read_only))
    }

    /// Why it cannot be trusted, if only root and these users can.
    pub fn fault(&self, trusted: &[u32]) -> Option<Fault> {
        let Owned { uid, mode } = self.owned;
        let is_shared = mode & WRITABLE_BY_OTHERS != 0;
        if uid != 0 && !trusted.contains(&uid) {
            return Some(Fault::Owner);
        }
        match self.kind {
            // The mode of a link means nothing.
            EntryKind::Link => None,
            // In a sticky directory nobody can put something in the place of what is another's, and
            // whose that is is looked at next. A `ConfigMap` is mounted read-only, at a directory of
            // mode 0777.
            EntryKind::Directory => {
                (is_shared && mode & STICKY == 0 && !self.read_only).then_some(Fault::Shared)
            }
            EntryKind::File if is_shared => Some(Fault::Writable),
            EntryKind::File => (self.names != 1).then_some(Fault::Names),
            _ => Some(Fault::Kind),
        }
    }
}

/// What a walk ends at: a name in a directory, no link.
#[derive(Debug)]
pub(crate) struct PathTarget {
    pub(crate) directory: OwnedFd,
    pub(crate) name: OsString,
    pub(crate) path: PathBuf,
}

impl PathTarget {
    /// What it is, as far as one can tell without opening it.
    pub(crate) fn look(&self) -> io::Result<Passed> {
        let found = fstatat(&self.directory, &*self.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(Passed::new(self.path.clone(), &found, false))
    }
}

/// Walks to a file. What it comes by, the root directory first and the end not among it, is shown
/// to `pass`, which may end the walk.
///
/// # Errors
/// There is nothing, it is a directory, or `pass` ended it.
pub(crate) fn walk(
    path: &Path,
    pass: &mut dyn FnMut(Passed) -> io::Result<()>,
) -> io::Result<PathTarget> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut ahead: VecDeque<OsString> = names(&std::path::absolute(path)?).collect();
    let mut behind = PathBuf::from("/");
    let mut directory = open("/", flags, Mode::empty())?;
    pass(Passed::directory(behind.clone(), &directory)?)?;
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        let found = fstatat(&directory, &*name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => {
                pass(Passed::new(behind.join(&name), &found, false))?;
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
                pass(Passed::directory(behind.clone(), &directory)?)?;
            }
            _ if ahead.is_empty() => {
                return Ok(PathTarget { path: behind.join(&name), directory, name });
            }
            _ => return Err(io::ErrorKind::NotADirectory.into()),
        }
    }
    Err(io::ErrorKind::IsADirectory.into())
}

/// The parts of a path, without those that lead nowhere.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

/// Gives what is in a directory to the directory's owner, who is to go on with it. Does nothing if the owner
/// has it already.
///
/// # Errors
/// The directory cannot be read, or this process is not root and something in it is somebody else's.
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

    fn passed(kind: EntryKind, uid: u32, mode: u32) -> Passed {
        Passed { path: "/x".into(), kind, owned: Owned { uid, mode }, names: 1, read_only: false }
    }

    #[test]
    fn one_rule_for_whoever_asks() {
        for (what, fault) in [
            (passed(EntryKind::File, 0, 0o644), None),
            (passed(EntryKind::File, 7, 0o644), None),
            (passed(EntryKind::File, 8, 0o644), Some(Fault::Owner)),
            (passed(EntryKind::File, 0, 0o664), Some(Fault::Writable)),
            (passed(EntryKind::File, 0, 0o1646), Some(Fault::Writable)),
            (
                Passed { read_only: true, ..passed(EntryKind::File, 0, 0o666) },
                Some(Fault::Writable),
            ),
            (Passed { names: 2, ..passed(EntryKind::File, 0, 0o600) }, Some(Fault::Names)),
            (Passed { names: 9, ..passed(EntryKind::Directory, 0, 0o755) }, None),
            (passed(EntryKind::Directory, 0, 0o775), Some(Fault::Shared)),
            (passed(EntryKind::Directory, 0, 0o1777), None),
            (passed(EntryKind::Directory, 8, 0o1777), Some(Fault::Owner)),
            (Passed { read_only: true, ..passed(EntryKind::Directory, 0, 0o777) }, None),
            (passed(EntryKind::Link, 0, 0o777), None),
            (passed(EntryKind::Link, 8, 0o777), Some(Fault::Owner)),
            (passed(EntryKind::Other, 0, 0o600), Some(Fault::Kind)),
        ] {
            assert_eq!(what.fault(&[7]), fault, "{what:?}");
        }
    }
}
