//! Probing of kernel features by using them. Version numbers are not reliable, because features are
//! backported or disabled.
//!
//! A probe leaves nothing behind and does not affect the devices of the machine: programs are
//! attached to a virtual device in a temporary network namespace.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    thread,
};

use aya_obj::generated::bpf_map_type::{
    self, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_RINGBUF,
};
use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkUnspec, LinkVeth, packet_route::link::LinkMessage};

use crate::{attach_mode::Mode, sys, system_error::SystemError};

/// `r0 = 2 (XDP_PASS); exit`.
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
/// Size of a ring in bytes: a multiple of the page size on every architecture.
const RING: u32 = 64 * 1024;
/// An MTU at which frames of a virtual device need several buffers.
const JUMBO: u32 = 9000;

/// Result of a probe. The error names what was tried, and has the errno.
pub type Attempt = Result<(), SystemError>;

/// Results of the probes.
#[derive(Debug)]
pub struct KernelFeatures {
    /// Creating each type of map that the program uses.
    pub maps: Vec<(&'static str, Attempt)>,
    /// Loading an XDP program of two instructions.
    pub xdp: Attempt,
    /// Loading it as a program that accepts frames of several buffers.
    pub frags: Attempt,
    /// Size of the machine code of the program, in bytes; 0 if the kernel interprets it. An error if
    /// the program was not loaded.
    pub compiled: Result<u32, SystemError>,
    /// Whether a network namespace could be created to attach in.
    pub has_namespace: bool,
    /// Attaching the program to a virtual device of MTU 9000 with a link, in native mode.
    pub native: Attempt,
    /// Attaching it in generic mode.
    pub generic: Attempt,
    /// Replacing the program of such a link.
    pub switch: Attempt,
}

impl KernelFeatures {
    /// Runs all probes.
    pub fn probe() -> Self {
        let map = |(name, kind, key, value, entries): (_, bpf_map_type, _, _, _)| {
            let made = sys::map_create(kind, key, value, entries);
            (name, outcome(format_args!("creating a map of type {name}"), made))
        };
        let maps = [
            ("array", BPF_MAP_TYPE_ARRAY, 4, 8, 1),
            ("hash", BPF_MAP_TYPE_HASH, 8, 4, 1),
            ("per-CPU array", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1),
            ("ring buffer", BPF_MAP_TYPE_RINGBUF, 0, 0, RING),
        ];
        let plain = sys::xdp_load(&PASS, false);
        let frags = sys::xdp_load(&PASS, true);
        let program = frags.as_ref().or(plain.as_ref());
        let compiled = match program {
            Ok(program) => sys::compiled_len(program.as_fd())
                .map_err(|error| SystemError::of("querying a program", error)),
            Err(error) => Err(SystemError::of("loading a program", copy_of(error))),
        };
        let (has_namespace, [native, generic, switch]) = match program {
            Ok(program) => attach(program.as_fd()),
            Err(error) => {
                (true, [(); 3].map(|()| Err(SystemError::of("loading a program", copy_of(error)))))
            }
        };
        Self {
            maps: maps.map(map).into(),
            xdp: outcome("loading an XDP program", plain),
            frags: outcome("loading an XDP program for frames of several buffers", frags),
            compiled,
            has_namespace,
            native,
            generic,
            switch,
        }
    }
}

fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn outcome(what: impl std::fmt::Display, result: io::Result<OwnedFd>) -> Attempt {
    result.map(drop).map_err(|error| SystemError::of(what, error))
}

/// Attaches the program to a virtual device in a temporary network namespace. Returns whether the
/// namespace could be created, and the results of native mode, generic mode and replacing the
/// program.
fn attach(program: BorrowedFd<'_>) -> (bool, [Attempt; 3]) {
    // The namespace belongs to a thread and is deleted when the thread ends.
    let found = thread::scope(|scope| {
        let tried = scope.spawn(|| {
            let index = veth()?;
            Ok([Mode::Native, Mode::Generic].map(|mode| try_on(program, index, mode)))
        });
        tried.join().unwrap_or_else(|_panic| Err(SystemError::new("the probe panicked")))
    });
    match found {
        Ok([native, generic]) => {
            let switch = [&native, &generic].into_iter().find_map(|tried| tried.as_ref().ok());
            let switch = switch.cloned().unwrap_or_else(|| {
                Err(SystemError::new("no link was created, so its program could not be replaced"))
            });
            (true, [native.map(drop), generic.map(drop), switch])
        }
        Err(error) => (false, [(); 3].map(|()| Err(error.clone()))),
    }
}

/// Attaches the program, replaces it by itself, and detaches it. Returns the result of the
/// replacement.
fn try_on(program: BorrowedFd<'_>, index: u32, mode: Mode) -> Result<Attempt, SystemError> {
    let what = format!("attaching a link to a virtual device of MTU {JUMBO} ({})", mode.name());
    let link =
        sys::link_create(program, index, mode).map_err(|error| SystemError::of(what, error))?;
    let switched = sys::link_update(link.as_fd(), program);
    Ok(switched.map_err(|error| SystemError::of("replacing the program of a link", error)))
}

/// Moves this thread into a new network namespace, and creates a pair of virtual devices there.
/// Returns the index of one of them.
fn veth() -> Result<u32, SystemError> {
    const NAME: &str = "probe0";
    let failed =
        |error: rtnetlink::Error| SystemError::of("creating a virtual device (veth)", error);
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
        SystemError::of("creating a network namespace for the probe", io::Error::from(error))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| SystemError::of("opening a netlink socket", error))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| SystemError::of("opening a netlink socket", error))?;
        tokio::spawn(connection);
        let pair = LinkVeth::new(NAME, "probe1").mtu(JUMBO).build();
        handle.link().add(pair).execute().await.map_err(failed)?;
        let mut links = handle.link().get().match_name(NAME.to_owned()).execute();
        let link: Option<LinkMessage> = links.try_next().await.map_err(failed)?;
        let index = link
            .map(|link| link.header.index)
            .ok_or_else(|| SystemError::new("the new virtual device was not found"))?;
        // Some kernels set the MTU of a new pair at one end only.
        let change = LinkUnspec::new_with_index(index).mtu(JUMBO).build();
        handle.link().set(change).execute().await.map_err(failed)?;
        Ok(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_no_devices_behind() {
        let devices = || crate::netlink::devices::devices_now().expect("devices").len();
        let before = devices();
        let KernelFeatures { maps, xdp, native, switch, .. } = KernelFeatures::probe();
        // With or without the permissions: each error names what was tried.
        let errors = maps.into_iter().map(|(_, made)| made).chain([xdp, native, switch]);
        for error in errors.filter_map(Result::err) {
            assert!(error.to_string().contains(": "), "{error}");
        }
        assert_eq!(devices(), before);
    }
}
