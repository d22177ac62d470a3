//! The attachment of a program to an interface: a link, pinned, so that it outlives the daemon.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::attach_error::refused;
use crate::{
    attach_mode::Mode,
    sys::{self, LinkInfo},
    system_error::SystemError,
};

/// A link, pinned wherever that is possible.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    /// Where it is to be pinned.
    pin: PathBuf,
    /// Which entry there is its pin; none if it is not pinned.
    pinned: Option<Entry>,
}

/// An entry of a file system: its device and inode. A path alone says nothing: another file system
/// may be mounted over it, or another link be pinned there.
type Entry = (u64, u64);

fn entry_at(path: &Path) -> Option<Entry> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Link {
    /// Attaches a program to an interface and pins the link. One that cannot be pinned is attached
    /// all the same, for as long as it is held: better than an open interface. See
    /// [`Self::is_pinned`].
    pub fn attach(
        program: BorrowedFd<'_>,
        interface: &str,
        ifindex: u32,
        mode: Mode,
        pin: &Path,
    ) -> Result<Self, SystemError> {
        let fd = sys::link_create(program, ifindex, mode)
            .map_err(|error| refused(interface, mode, error))?;
        let mut link = Self { fd, pin: pin.to_owned(), pinned: None };
        // Why not is asked by whoever pins it later.
        let _ = link.pin_again();
        Ok(link)
    }

    /// Opens a pinned link.
    pub fn open(pin: &Path) -> Result<Self, SystemError> {
        let fd = sys::open_pinned(pin)
            .map_err(|error| SystemError::of(format_args!("opening `{}`", pin.display()), error))?;
        Ok(Self { fd, pin: pin.to_owned(), pinned: entry_at(pin) })
    }

    /// Where it is to be pinned.
    pub fn pin(&self) -> &Path {
        &self.pin
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What the kernel says of it.
    pub fn info(&self) -> Result<LinkInfo, SystemError> {
        sys::link_info(self.fd.as_fd()).map_err(|error| {
            SystemError::of(format_args!("asking for the link `{}`", self.pin.display()), error)
        })
    }

    /// Whether it still attaches something: not when the interface is gone. One that cannot be
    /// asked is taken for alive: whoever takes it for dead ends it.
    pub fn is_alive(&self) -> bool {
        self.info().map_or(true, |info| info.ifindex != 0)
    }

    /// Whether its pin is there.
    pub fn is_pinned(&self) -> bool {
        self.pinned.is_some() && self.pinned == entry_at(&self.pin)
    }

    /// Pins it, after that failed or somebody removed the pin. What else is pinned there gives way
    /// only if it attaches nothing any more.
    pub fn pin_again(&mut self) -> Result<(), SystemError> {
        let pinning =
            |error| SystemError::of(format_args!("pinning `{}`", self.pin.display()), error);
        match sys::pin(self.fd.as_fd(), &self.pin) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = Self::open(&self.pin)?;
                let id = |link: &Self| sys::link_info(link.fd.as_fd()).map(|info| info.id);
                // A mount that hid its pin may have gone.
                if id(&there).map_err(pinning)? != id(self).map_err(pinning)? {
                    if there.is_alive() {
                        let what = format!(
                            "pinning `{}`: another link is pinned there",
                            self.pin.display()
                        );
                        return Err(SystemError::new(what)
                            .hint("find out whose it is with `bpftool link show`"));
                    }
                    there.forget()?;
                    sys::pin(self.fd.as_fd(), &self.pin).map_err(pinning)?;
                }
            }
            pinned => pinned.map_err(pinning)?,
        }
        self.pinned = entry_at(&self.pin);
        Ok(())
    }

    /// Moves its pin, for an interface that was renamed. One that is not there is left to
    /// [`Self::pin_again`].
    pub fn move_to(&mut self, pin: &Path) -> Result<(), SystemError> {
        if self.pin != pin {
            if self.is_pinned() {
                self.rename(pin)?;
            }
            pin.clone_into(&mut self.pin);
        }
        Ok(())
    }

    /// Renames the pin. The pin of another link that is there takes the name that this one had: a link
    /// without a pin would end with the daemon.
    fn rename(&self, pin: &Path) -> Result<(), SystemError> {
        let with = |flags| renameat_with(CWD, &self.pin, CWD, pin, flags).map_err(io::Error::from);
        let failed = |error| SystemError::of(format_args!("`{}`", pin.display()), error);
        match with(RenameFlags::NOREPLACE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            renamed => return renamed.map_err(failed),
        }
        with(RenameFlags::EXCHANGE).map_err(failed)?;
        match Self::open(&self.pin) {
            Ok(there) if !there.is_alive() => there.forget(),
            _ => Ok(()),
        }
    }

    /// Switches to another program in one step.
    pub fn switch(&self, program: BorrowedFd<'_>) -> Result<(), SystemError> {
        sys::link_update(self.fd.as_fd(), program)
            .map_err(|error| SystemError::of("switching the program", error))
    }

    /// Detaches the program and removes the pin.
    pub fn detach(&self) -> Result<(), SystemError> {
        match sys::link_detach(self.fd.as_fd()) {
            Ok(()) => {}
            // The interface has gone before.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(SystemError::of("detaching the program", error)),
        }
        self.forget()
    }

    /// Removes the pin of a link that attaches nothing any more. What else is there stays.
    pub fn forget(&self) -> Result<(), SystemError> {
        if !self.is_pinned() {
            return Ok(());
        }
        match fs::remove_file(&self.pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SystemError::of(self.pin.display(), error))
            }
            _ => Ok(()),
        }
    }
}
