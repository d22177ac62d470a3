//! Attachment of a program to an interface with a link. The link is pinned, so it outlives the
//! daemon.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::attach_error::attach_error;
use crate::{
    attach_mode::Mode,
    sys::{self, LinkInfo},
    system_error::SystemError,
};

/// A link of a program to an interface, pinned if possible.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    /// Path at which it is to be pinned.
    pin: PathBuf,
    /// The directory entry of its pin; none if it is not pinned.
    pinned: Option<Entry>,
}

/// Device and inode of a directory entry. The path alone does not identify a pin: another file system
/// may be mounted over it, or another link may be pinned there.
type Entry = (u64, u64);

fn entry_at(path: &Path) -> Option<Entry> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Link {
    /// Attaches a program to an interface, and pins the link. If pinning fails, the program stays
    /// attached while the `Link` exists, because that is better than an open interface. See
    /// [`Self::is_pinned`].
    ///
    /// # Errors
    /// The kernel or the driver rejects the program; the message has a hint.
    pub fn attach(
        program: BorrowedFd<'_>,
        interface: &str,
        ifindex: u32,
        mode: Mode,
        pin: &Path,
    ) -> Result<Self, SystemError> {
        let fd = sys::link_create(program, ifindex, mode)
            .map_err(|error| attach_error(interface, mode, error))?;
        let mut link = Self { fd, pin: pin.to_owned(), pinned: None };
        // The caller gets the reason from a later call of `pin_again`.
        let _ = link.pin_again();
        Ok(link)
    }

    /// Opens a pinned link.
    pub fn open(pin: &Path) -> Result<Self, SystemError> {
        let fd = sys::open_pinned(pin)
            .map_err(|error| SystemError::of(format_args!("opening `{}`", pin.display()), error))?;
        Ok(Self { fd, pin: pin.to_owned(), pinned: entry_at(pin) })
    }

    /// Returns the path at which it is to be pinned.
    pub fn pin(&self) -> &Path {
        &self.pin
    }

    /// Returns the descriptor of the link.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns the information of the kernel about the link.
    pub fn info(&self) -> Result<LinkInfo, SystemError> {
        sys::link_info(self.fd.as_fd()).map_err(|error| {
            SystemError::of(format_args!("querying the link `{}`", self.pin.display()), error)
        })
    }

    /// Reports whether the link still attaches a program: not if the interface is gone. A link that
    /// cannot be queried counts as alive, because callers remove dead links.
    pub fn is_alive(&self) -> bool {
        self.info().map_or(true, |info| info.ifindex != 0)
    }

    /// Reports whether the link is pinned at its path.
    pub fn is_pinned(&self) -> bool {
        self.pinned.is_some() && self.pinned == entry_at(&self.pin)
    }

    /// Pins the link again, after pinning failed or the pin was removed. Another link at the path is
    /// replaced only if it attaches nothing any more.
    ///
    /// # Errors
    /// Another link at the path is still attached, or pinning fails.
    pub fn pin_again(&mut self) -> Result<(), SystemError> {
        let pinning =
            |error| SystemError::of(format_args!("pinning `{}`", self.pin.display()), error);
        match sys::pin(self.fd.as_fd(), &self.pin) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = Self::open(&self.pin)?;
                let id = |link: &Self| sys::link_info(link.fd.as_fd()).map(|info| info.id);
                // The ids are equal if a mount that hid the pin has gone.
                if id(&there).map_err(pinning)? != id(self).map_err(pinning)? {
                    if there.is_alive() {
                        let what = format!(
                            "pinning `{}`: another link is pinned at this path",
                            self.pin.display()
                        );
                        return Err(
                            SystemError::new(what).hint("inspect it with `bpftool link show`")
                        );
                    }
                    there.remove_pin()?;
                    sys::pin(self.fd.as_fd(), &self.pin).map_err(pinning)?;
                }
            }
            pinned => pinned.map_err(pinning)?,
        }
        self.pinned = entry_at(&self.pin);
        Ok(())
    }

    /// Moves the pin, after the interface was renamed. If the link is not pinned, only the path
    /// changes, and [`Self::pin_again`] pins it there.
    pub fn move_to(&mut self, pin: &Path) -> Result<(), SystemError> {
        if self.pin != pin {
            if self.is_pinned() {
                self.rename(pin)?;
            }
            pin.clone_into(&mut self.pin);
        }
        Ok(())
    }

    /// Renames the pin. If another link is pinned at the new path, the two pins swap their names,
    /// because a link without a pin would end with the daemon.
    fn rename(&self, pin: &Path) -> Result<(), SystemError> {
        let with = |flags| renameat_with(CWD, &self.pin, CWD, pin, flags).map_err(io::Error::from);
        let failed = |error| SystemError::of(format_args!("`{}`", pin.display()), error);
        match with(RenameFlags::NOREPLACE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            renamed => return renamed.map_err(failed),
        }
        with(RenameFlags::EXCHANGE).map_err(failed)?;
        match Self::open(&self.pin) {
            Ok(there) if !there.is_alive() => there.remove_pin(),
            _ => Ok(()),
        }
    }

    /// Replaces the program of the link atomically: each frame is evaluated by the old or by the new
    /// one.
    ///
    /// # Errors
    /// The interface is gone (`ENOLINK`), or the kernel rejects the program.
    pub fn switch(&self, program: BorrowedFd<'_>) -> Result<(), SystemError> {
        sys::link_update(self.fd.as_fd(), program)
            .map_err(|error| SystemError::of("replacing the program of the link", error))
    }

    /// Detaches the program and removes the pin. Succeeds if the interface is already gone.
    ///
    /// # Errors
    /// The program cannot be detached, or the pin cannot be removed.
    pub fn detach(&self) -> Result<(), SystemError> {
        match sys::link_detach(self.fd.as_fd()) {
            Ok(()) => {}
            // The interface was removed before.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(SystemError::of("detaching the program", error)),
        }
        self.remove_pin()
    }

    /// Removes the pin of a link that attaches nothing any more. A pin of another link at the path
    /// stays.
    pub fn remove_pin(&self) -> Result<(), SystemError> {
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
