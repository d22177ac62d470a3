//! The attachment of a program to an interface: a link, pinned, so that it outlives the daemon.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    error::KernelError,
    mode::Mode,
    refused::refused,
    sys::{self, LinkInfo},
};

/// A pinned link.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    pin: PathBuf,
}

impl Link {
    /// Attaches a program to an interface and pins the link.
    pub fn attach(
        program: BorrowedFd<'_>,
        interface: &str,
        ifindex: u32,
        mode: Mode,
        pin: &Path,
    ) -> Result<Self, KernelError> {
        let fd = sys::link_create(program, ifindex, mode)
            .map_err(|error| refused(interface, mode, error))?;
        // If pinning fails the descriptor is closed, and with it the attachment is gone.
        sys::pin(fd.as_fd(), pin)
            .map_err(|error| KernelError::of(format_args!("pinning `{}`", pin.display()), error))?;
        Ok(Self { fd, pin: pin.to_owned() })
    }

    /// Opens a pinned link.
    pub fn open(pin: &Path) -> Result<Self, KernelError> {
        let fd = sys::open_pinned(pin)
            .map_err(|error| KernelError::of(format_args!("opening `{}`", pin.display()), error))?;
        Ok(Self { fd, pin: pin.to_owned() })
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What the kernel says of it.
    pub fn info(&self) -> Result<LinkInfo, KernelError> {
        sys::link_info(self.fd.as_fd()).map_err(|error| {
            KernelError::of(format_args!("asking for the link `{}`", self.pin.display()), error)
        })
    }

    /// Whether it still attaches something: not when the interface is gone. One that cannot be
    /// asked is taken for alive: whoever takes it for dead ends it.
    pub fn is_alive(&self) -> bool {
        self.info().map_or(true, |info| info.ifindex != 0)
    }

    /// Whether its pin is still there.
    pub fn is_pinned(&self) -> bool {
        self.pin.exists()
    }

    /// Pins it again, after somebody removed the pin.
    pub fn pin_again(&self) -> Result<(), KernelError> {
        sys::pin(self.fd.as_fd(), &self.pin).map_err(|error| {
            KernelError::of(format_args!("pinning `{}`", self.pin.display()), error)
        })
    }

    /// Moves its pin, for an interface that was renamed.
    pub fn move_to(&mut self, pin: &Path) -> Result<(), KernelError> {
        if self.pin != pin {
            fs::rename(&self.pin, pin)
                .map_err(|error| KernelError::of(format_args!("`{}`", pin.display()), error))?;
            pin.clone_into(&mut self.pin);
        }
        Ok(())
    }

    /// Switches to another program in one step.
    pub fn switch(&self, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        sys::link_update(self.fd.as_fd(), program)
            .map_err(|error| KernelError::of("switching the program", error))
    }

    /// Detaches the program and removes the pin.
    pub fn detach(&self) -> Result<(), KernelError> {
        match sys::link_detach(self.fd.as_fd()) {
            Ok(()) => {}
            // The interface has gone before.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(KernelError::of("detaching the program", error)),
        }
        self.forget()
    }

    /// Removes the pin of a link that attaches nothing any more.
    pub fn forget(&self) -> Result<(), KernelError> {
        match fs::remove_file(&self.pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(KernelError::of(self.pin.display(), error))
            }
            _ => Ok(()),
        }
    }
}
