//! Keeps programs in the kernel's XDP dispatcher.
//!
//! A test run adds its program to the dispatcher (`bpf_prog_change_xdp`, `net/bpf/test_run.c`) and
//! removes it afterwards. Each change patches code and waits for a grace period: 40 ms, of which 0.25 ms
//! are CPU time of the measuring thread. An attached program is in the dispatcher already, so each
//! program is attached to a device without traffic.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use guard_user::{attach_mode::Mode, sys};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

use super::run::Program;

/// Devices that are down, in a network namespace that ends with this process.
#[derive(Debug)]
pub struct Devices(Vec<u32>);

impl Devices {
    /// Creates at least `count` devices, in pairs. The calling thread stays in their namespace.
    pub fn new(count: usize) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("creating a network namespace")?;
        let mut devices = Vec::new();
        for number in 0..count.div_ceil(2) {
            let names = ["a", "b"].map(|side| format!("hold{number}{side}"));
            let [one, other] = names.each_ref().map(String::as_str);
            let mut ip = Command::new("ip");
            ip.args(["link", "add", one, "type", "veth", "peer", "name", other]);
            let made = ip.stdin(Stdio::null()).status().context("running ip")?;
            ensure!(made.success(), "{ip:?} failed");
            for name in names {
                devices.push(if_nametoindex(name.as_str())?);
            }
        }
        Ok(Self(devices))
    }

    /// Attaches the programs, so that they stay in the dispatcher until the returned descriptors are
    /// closed.
    pub fn hold<'p>(
        &self,
        programs: impl IntoIterator<Item = &'p Program>,
    ) -> Result<Vec<OwnedFd>> {
        let mut links = Vec::new();
        for (at, program) in programs.into_iter().enumerate() {
            let device = self.0.get(at).context("more programs than devices to attach them to")?;
            let link = sys::link_create(program.fd().as_fd(), *device, Mode::Generic);
            links.push(link.context("attaching a program, so that it stays in the dispatcher")?);
        }
        Ok(links)
    }
}
