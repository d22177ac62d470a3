//! What was found on a machine. Plain data: a test makes up any machine it wants.

use std::{fmt::Display, path::PathBuf};

use serde::Serialize;

use crate::{
    api::status::{OpenPorts, Status},
    attach_mode::DeviceMode,
    netlink::ethtool::XdpSupport,
    system_error::SystemError,
};

pub use crate::file_permissions::{Owned, Passed as PolicyFile};

/// Something that may be hidden from who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MaybeHidden<T> {
    /// It is this.
    Known(T),
    /// It could not be seen, for this reason.
    Hidden(String),
}

impl<T> MaybeHidden<T> {
    /// If it was seen.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Hidden(_) => None,
        }
    }
}

impl<T, E: Display> From<Result<T, E>> for MaybeHidden<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Known(value),
            Err(error) => Self::Hidden(error.to_string()),
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Number of the system's error; null if it was none.
    pub errno: Option<i32>,
    /// What was tried, and how it failed.
    pub message: String,
}

impl From<SystemError> for Refusal {
    fn from(error: SystemError) -> Self {
        Self { errno: error.errno(), message: error.to_string() }
    }
}

/// An attempt.
pub type Attempt = Result<(), Refusal>;

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct MachineFacts {
    /// The kernel.
    pub kernel: Kernel,
    /// Who asks.
    pub rights: Rights,
    /// What the kernel does when asked to.
    pub abilities: KernelFeatures,
    /// Where pins are.
    pub bpffs: BpfFs,
    /// The manifest and what it names; null if there is none.
    pub policy: Option<Policy>,
    /// The interfaces to guard, or that could be.
    pub interfaces: Vec<Interface>,
    /// What was asked for and is no device, or none that can be guarded.
    pub unmet: Unmet,
    /// Whether a manifest, a flag or a daemon says which interfaces to guard. If not, all that are
    /// up were looked at.
    pub interfaces_chosen: bool,
    /// Interfaces that are up and that nobody wants guarded.
    pub unguarded: Vec<String>,
    /// Devices that unpack tunnels.
    pub tunnels: Vec<String>,
    /// Devices for RDMA, each with the network devices that share its card.
    pub rdma: MaybeHidden<Vec<Rdma>>,
    /// Settings of the network.
    pub network: Network,
    /// Ports that take what strangers send and that no service guards.
    pub open_ports: OpenPorts,
    /// Sockets of processes that run as root and look like a training framework.
    pub root_services: Vec<RootService>,
    /// Where the last good policy is kept.
    pub state_dir: Directory,
    /// Where sockets are.
    pub run_dir: Directory,
    /// The unit of systemd; null if this machine has no systemd.
    pub unit: Option<MaybeHidden<Unit>>,
    /// What the daemon says; why it does not, otherwise.
    pub daemon: MaybeHidden<Box<Status>>,
    /// Processors that are online.
    pub cpus: usize,
}

/// The kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// As `uname -r` has it.
    pub release: String,
    /// As `uname -v` has it: it names `PREEMPT_RT`.
    pub version: String,
    /// What the processor is.
    pub architecture: &'static str,
    /// `bpf_jit_harden`: 0 off, 1 for unprivileged programs, 2 for all.
    pub jit_harden: MaybeHidden<i64>,
    /// Lockdown as the kernel writes it: `[none] integrity confidentiality`.
    pub lockdown: MaybeHidden<String>,
    /// `unprivileged_bpf_disabled`: 0 anybody may load programs, 1 and 2 nobody without rights.
    pub unprivileged_bpf_disabled: MaybeHidden<i64>,
}

/// Who asks.
#[derive(Debug, Clone, Serialize)]
pub struct Rights {
    /// Effective user.
    pub uid: u32,
    /// Effective capabilities, a bit each (`CAP_...`, include/uapi/linux/capability.h).
    pub capabilities: u64,
}

/// `CAP_NET_ADMIN`.
pub const CAP_NET_ADMIN: u32 = 12;
/// `CAP_SYS_ADMIN`.
pub const CAP_SYS_ADMIN: u32 = 21;
/// `CAP_PERFMON`.
pub const CAP_PERFMON: u32 = 38;
/// `CAP_BPF`.
pub const CAP_BPF: u32 = 39;

/// The rights that the daemon needs.
pub const NEEDED: [(u32, &str); 3] =
    [(CAP_BPF, "CAP_BPF"), (CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_PERFMON, "CAP_PERFMON")];

impl Rights {
    /// Whether this capability is effective. The two younger ones are part of `CAP_SYS_ADMIN`.
    pub fn has(&self, capability: u32) -> bool {
        let bit = |number: u32| self.capabilities >> number & 1 != 0;
        bit(capability) || (capability >= CAP_PERFMON && bit(CAP_SYS_ADMIN))
    }

    /// Names of those that the daemon needs and that are missing.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = NEEDED.iter().filter(|(number, _)| !self.has(*number));
        missing.map(|(_, name)| *name).collect()
    }
}

/// What the kernel does when asked to.
#[derive(Debug, Clone, Serialize)]
pub struct KernelFeatures {
    /// Making maps, by kind.
    pub maps: Vec<(&'static str, Attempt)>,
    /// Loading a program.
    pub xdp: Attempt,
    /// The same for frames of several buffers.
    pub frags: Attempt,
    /// Bytes of machine code that became of it; 0 if the kernel interprets programs.
    pub compiled: MaybeHidden<u32>,
    /// Whether there was a network namespace to attach in.
    #[serde(skip)]
    pub has_namespace: bool,
    /// Attaching it by a link to a virtual device of MTU 9000, in its driver.
    pub native: Attempt,
    /// The same in the network stack.
    pub generic: Attempt,
    /// Switching the program of a link.
    pub switch: Attempt,
    /// Loading the guard itself; null if this binary carries none.
    pub guard: Option<Attempt>,
}

/// Where pins are.
#[derive(Debug, Clone, Serialize)]
pub struct BpfFs {
    /// The pin directory.
    pub path: PathBuf,
    /// The part of the path that exists.
    pub existing: PathBuf,
    /// Whether that is on a bpf file system.
    pub is_bpf: MaybeHidden<bool>,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Whether who asks may make files in it.
    pub writable: bool,
    /// Owner and mode of the pin directory itself; null if it does not exist.
    pub directory: Option<MaybeHidden<Owned>>,
}

/// A directory.
#[derive(Debug, Clone, Serialize)]
pub struct Directory {
    /// Its path.
    pub path: PathBuf,
    /// Owner and mode; null if it does not exist.
    pub owned: Option<MaybeHidden<Owned>>,
    /// Bytes that are free there; null if it does not exist, or does not tell.
    pub free: Option<u64>,
}

/// The manifest and what it names.
#[derive(Debug, Clone, Serialize)]
pub struct Policy {
    /// The manifest.
    pub manifest: PathBuf,
    /// Errors that lint finds; the first of them.
    pub errors: (usize, Option<String>),
    /// Warnings that lint finds.
    pub warnings: usize,
    /// Name of this node; null if it was not found.
    pub node: Option<String>,
    /// Why it was not found.
    pub node_problem: Option<String>,
    /// Ranges of ports that services of this node listen on.
    pub ports: Vec<ServicePorts>,
    /// The files, and the directories and links on the way to them.
    pub files: MaybeHidden<Vec<PolicyFile>>,
    /// Users who may own them, besides root: the daemon's.
    pub trusted: Vec<u32>,
}

/// Ports of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServicePorts {
    /// `policy/service`.
    pub service: String,
    /// `tcp`, `udp` or `sctp`.
    pub transport: &'static str,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// An interface.
#[derive(Debug, Clone, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// In bytes, without the Ethernet header.
    pub mtu: u32,
    /// Its kind as `ip -d link` shows it; null for hardware.
    pub kind: Option<String>,
    /// Name of its driver; null if it has none, or does not tell.
    pub driver: Option<String>,
    /// What its driver supports.
    pub xdp: MaybeHidden<XdpSupport>,
    /// The program on it.
    pub program: Option<Program>,
    /// Offloads that are switched on.
    pub offloads: MaybeHidden<Vec<String>>,
    /// Queues that receive; null if the driver does not tell.
    pub queues: Option<u32>,
    /// Virtual functions that were made of it.
    pub virtual_functions: u32,
    /// The bond, team or bridge that it is a port of, and the kind of that.
    pub controller: Option<(String, String)>,
    /// Whether that is guarded as well.
    pub controller_guarded: bool,
    /// Other ports of the same that nobody wants guarded.
    pub siblings_unguarded: Vec<String>,
    /// The device that it lies on.
    pub lower: Option<String>,
    /// Whether that is guarded as well.
    pub lower_guarded: bool,
    /// `rp_filter` of this interface alone.
    pub rp_filter: MaybeHidden<i64>,
    /// `route_localnet` of this interface alone.
    pub route_localnet: MaybeHidden<i64>,
}

/// A program on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Its id.
    pub id: u32,
    /// `native`, `generic`, `offloaded` or `several`.
    pub mode: DeviceMode,
    /// Whether it is trainguard's, by its pins; why that is not known.
    pub ours: MaybeHidden<bool>,
}

/// What was asked for and cannot be had.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Unmet {
    /// Patterns without a device.
    pub missing: Vec<String>,
    /// Devices whose frames have no Ethernet header.
    pub not_ethernet: Vec<String>,
}

/// A device for RDMA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rdma {
    /// Its name, such as `mlx5_0`.
    pub name: String,
    /// The network devices that it belongs to.
    pub netdevs: Vec<String>,
    /// `InfiniBand` or `Ethernet`; null if it does not tell.
    pub link_layer: Option<String>,
}

/// Settings of the network.
#[derive(Debug, Clone, Serialize)]
pub struct Network {
    /// `tcp_syncookies`.
    pub syncookies: MaybeHidden<i64>,
    /// `rp_filter` of all interfaces.
    pub rp_filter: MaybeHidden<i64>,
    /// `route_localnet` of all interfaces.
    pub route_localnet: MaybeHidden<i64>,
    /// `ip_local_port_range`.
    pub ephemeral: MaybeHidden<(u16, u16)>,
    /// `ip_local_reserved_ports`, as ranges.
    pub reserved: MaybeHidden<Vec<(u16, u16)>>,
}

/// A socket of a process that runs as root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootService {
    /// As policies write it: `tcp/9091`.
    pub port: String,
    /// Name of the process, as it calls itself.
    pub command: String,
}

/// The unit of systemd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// `loaded`, `not-found`, `masked` ...
    pub load: String,
    /// `active`, `inactive`, `failed` ...
    pub active: String,
    /// `enabled`, `disabled` ...; empty if it is not installed.
    pub file: String,
}
