//! Facts about a machine. Plain data, so that a test can construct any machine.

use std::{fmt::Display, path::PathBuf};

use serde::Serialize;

use crate::{
    api::status::{OpenPorts, Status},
    attach_mode::DeviceMode,
    netlink::ethtool::XdpSupport,
    system_error::SystemError,
};

pub use super::traffic::Traffic;
pub use crate::file_permissions::{Ownership, PathEntry as PolicyFile};

/// A value that the caller may lack the rights to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MaybeHidden<T> {
    /// The value.
    Known(T),
    /// The value could not be read, for this reason.
    Hidden(String),
}

impl<T> MaybeHidden<T> {
    /// Returns the value, if it could be read.
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

/// The reason why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// `errno` of the failed system call; null if no system call failed.
    pub errno: Option<i32>,
    /// The attempted operation, and how it failed.
    pub message: String,
}

impl From<SystemError> for Refusal {
    fn from(error: SystemError) -> Self {
        Self { errno: error.errno(), message: error.to_string() }
    }
}

/// The result of an attempt.
pub type Attempt = Result<(), Refusal>;

/// All facts about a machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineFacts {
    /// The kernel.
    pub kernel: Kernel,
    /// User and capabilities of the caller.
    pub rights: Rights,
    /// Kernel features that were tried.
    pub abilities: KernelFeatures,
    /// The bpf file system and the pin directory.
    pub bpffs: BpfFs,
    /// The manifest and the files that it names; null if there is none.
    pub policy: Option<Policy>,
    /// The interfaces to guard; without a selection, all interfaces that could be guarded.
    pub interfaces: Vec<Interface>,
    /// Requested interfaces that do not exist or cannot be guarded.
    pub unmet: Unmet,
    /// Whether a manifest, a flag or a daemon selects the interfaces to guard. If not, all
    /// interfaces that are up were examined.
    pub interfaces_chosen: bool,
    /// Interfaces that are up and not selected for guarding.
    pub unguarded: Vec<String>,
    /// Tunnel devices that decapsulate packets.
    pub tunnels: Vec<String>,
    /// RDMA devices, each with the network devices that share its card.
    pub rdma: MaybeHidden<Vec<Rdma>>,
    /// Settings of the network.
    pub network: Network,
    /// Forwarding, and translation of addresses.
    pub traffic: Traffic,
    /// Open ports that accept packets from unlisted sources and that no service guards.
    pub open_ports: OpenPorts,
    /// Sockets of processes that run as root and look like a training framework.
    pub root_services: Vec<RootService>,
    /// The directory of the last known good policy.
    pub state_dir: Directory,
    /// The directory of the daemon's sockets.
    pub run_dir: Directory,
    /// The systemd unit; null if this machine does not run systemd.
    pub unit: Option<MaybeHidden<Unit>>,
    /// Status of the daemon, or the reason why it did not respond.
    pub daemon: MaybeHidden<Box<Status>>,
    /// Number of processors that are online.
    pub cpus: usize,
}

/// Facts about the kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// Release, as in `uname -r`.
    pub release: String,
    /// Version, as in `uname -v`; it contains `PREEMPT_RT` on real-time kernels.
    pub version: String,
    /// Architecture of the processor.
    pub architecture: &'static str,
    /// `bpf_jit_harden`: 0 off, 1 for unprivileged programs, 2 for all.
    pub jit_harden: MaybeHidden<i64>,
    /// Lockdown as the kernel writes it: `[none] integrity confidentiality`.
    pub lockdown: MaybeHidden<String>,
    /// `unprivileged_bpf_disabled`: 0 if any user may load programs, 1 or 2 if only privileged
    /// users may.
    pub unprivileged_bpf_disabled: MaybeHidden<i64>,
}

/// User and capabilities of the caller.
#[derive(Debug, Clone, Serialize)]
pub struct Rights {
    /// Effective user ID.
    pub uid: u32,
    /// Effective capabilities, one bit each (`CAP_...`, include/uapi/linux/capability.h).
    pub capabilities: u64,
}

/// Number of `CAP_NET_ADMIN`.
pub const CAP_NET_ADMIN: u32 = 12;
/// Number of `CAP_SYS_ADMIN`.
pub const CAP_SYS_ADMIN: u32 = 21;
/// Number of `CAP_PERFMON`.
pub const CAP_PERFMON: u32 = 38;
/// Number of `CAP_BPF`.
pub const CAP_BPF: u32 = 39;

/// Capabilities that the daemon needs.
pub const NEEDED: [(u32, &str); 3] =
    [(CAP_BPF, "CAP_BPF"), (CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_PERFMON, "CAP_PERFMON")];

impl Rights {
    /// Reports whether a capability is effective. `CAP_SYS_ADMIN` includes `CAP_PERFMON` and
    /// `CAP_BPF`.
    pub fn has(&self, capability: u32) -> bool {
        let bit = |number: u32| self.capabilities >> number & 1 != 0;
        bit(capability) || (capability >= CAP_PERFMON && bit(CAP_SYS_ADMIN))
    }

    /// Returns the names of the capabilities that the daemon needs and the caller lacks.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = NEEDED.iter().filter(|(number, _)| !self.has(*number));
        missing.map(|(_, name)| *name).collect()
    }
}

/// Kernel features that were tried.
#[derive(Debug, Clone, Serialize)]
pub struct KernelFeatures {
    /// Creating maps, by kind.
    pub maps: Vec<(&'static str, Attempt)>,
    /// Loading an XDP program.
    pub xdp: Attempt,
    /// Loading an XDP program for frames of several buffers.
    pub frags: Attempt,
    /// Size of the program's machine code in bytes; 0 if the kernel interprets programs.
    pub compiled: MaybeHidden<u32>,
    /// Whether there was a network namespace for the attempts to attach.
    #[serde(skip)]
    pub has_namespace: bool,
    /// Attaching the program by a link to a virtual device of MTU 9000, in native mode.
    pub native: Attempt,
    /// The same in generic mode.
    pub generic: Attempt,
    /// Replacing the program of a link.
    pub switch: Attempt,
    /// Loading the guard itself; null if this binary does not contain it.
    pub guard: Option<Attempt>,
}

/// The bpf file system and the pin directory.
#[derive(Debug, Clone, Serialize)]
pub struct BpfFs {
    /// Path of the pin directory.
    pub path: PathBuf,
    /// The longest part of the path that exists.
    pub existing: PathBuf,
    /// Whether the existing part is on a bpf file system.
    pub is_bpf: MaybeHidden<bool>,
    /// Whether the file system is mounted read-only.
    pub read_only: bool,
    /// Whether the caller may create files in it.
    pub writable: bool,
    /// Owner and mode of the pin directory itself; null if it does not exist.
    pub directory: Option<MaybeHidden<Ownership>>,
}

/// A directory of the daemon.
#[derive(Debug, Clone, Serialize)]
pub struct Directory {
    /// Path of the directory.
    pub path: PathBuf,
    /// Owner and mode; null if it does not exist.
    pub owned: Option<MaybeHidden<Ownership>>,
    /// Free space in bytes; null if the directory does not exist, or the space is unknown.
    pub free: Option<u64>,
}

/// The manifest and the files that it names.
#[derive(Debug, Clone, Serialize)]
pub struct Policy {
    /// Path of the manifest.
    pub manifest: PathBuf,
    /// Number of lint errors, and the first of them.
    pub errors: (usize, Option<String>),
    /// Number of lint warnings.
    pub warnings: usize,
    /// Name of this node; null if it was not found.
    pub node: Option<String>,
    /// The reason why the node was not found.
    pub node_problem: Option<String>,
    /// Port ranges of the services of this node.
    pub ports: Vec<ServicePorts>,
    /// The files, and the directories and links on the way to them.
    pub files: MaybeHidden<Vec<PolicyFile>>,
    /// Users besides root that may own the files: the daemon's.
    pub trusted: Vec<u32>,
}

/// A port range of a service.
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
    /// Whether the service judges every packet (`match: all`), not only segments that open a
    /// connection.
    pub every_packet: bool,
}

/// Facts about an interface.
#[derive(Debug, Clone, Serialize)]
pub struct Interface {
    /// Name of the interface.
    pub name: String,
    /// Whether the interface is up.
    pub up: bool,
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Kind, as shown by `ip -d link`; null for hardware.
    pub kind: Option<String>,
    /// Name of the driver; null if there is none, or it is unknown.
    pub driver: Option<String>,
    /// XDP features of the driver.
    pub xdp: MaybeHidden<XdpSupport>,
    /// The attached XDP program.
    pub program: Option<Program>,
    /// Enabled offloads.
    pub offloads: MaybeHidden<Vec<String>>,
    /// Number of receive queues; null if the driver does not report it.
    pub queues: Option<u32>,
    /// Number of its virtual functions (SR-IOV).
    pub virtual_functions: u32,
    /// The bond, team or bridge that it is a port of: its name and kind.
    pub controller: Option<(String, String)>,
    /// Why it cannot be guarded and what to write instead, if it is a port of a bridge that is not
    /// selected.
    pub bridged: Option<(String, String)>,
    /// VLAN devices on it that are ports of bridges, each with its bridge.
    pub bridged_vlans: Vec<(String, String)>,
    /// Whether the controller is guarded as well.
    pub controller_guarded: bool,
    /// Other ports of the same controller that are not selected for guarding.
    pub siblings_unguarded: Vec<String>,
    /// The device that it is stacked on, such as the parent of a VLAN.
    pub lower: Option<String>,
    /// Whether the lower device is guarded as well.
    pub lower_guarded: bool,
    /// `rp_filter` of this interface, without `all`.
    pub rp_filter: MaybeHidden<i64>,
    /// `route_localnet` of this interface, without `all`.
    pub route_localnet: MaybeHidden<i64>,
}

/// An XDP program attached to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// ID of the program.
    pub id: u32,
    /// `native`, `generic`, `offloaded` or `several`.
    pub mode: DeviceMode,
    /// Whether it is trainguard's, according to its pins; or why that is unknown.
    pub ours: MaybeHidden<bool>,
}

/// Requested interfaces that cannot be guarded.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Unmet {
    /// Patterns that match no device.
    pub missing: Vec<String>,
    /// Devices whose frames have no Ethernet header.
    pub not_ethernet: Vec<String>,
}

/// An RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rdma {
    /// Name, such as `mlx5_0`.
    pub name: String,
    /// Network devices that share its card.
    pub netdevs: Vec<String>,
    /// `InfiniBand` or `Ethernet`; null if it is unknown.
    pub link_layer: Option<String>,
}

/// Network settings (sysctls below `net.ipv4`).
#[derive(Debug, Clone, Serialize)]
pub struct Network {
    /// `tcp_syncookies`.
    pub syncookies: MaybeHidden<i64>,
    /// `rp_filter` of `all`.
    pub rp_filter: MaybeHidden<i64>,
    /// `route_localnet` of `all`.
    pub route_localnet: MaybeHidden<i64>,
    /// `ip_local_port_range`.
    pub ephemeral: MaybeHidden<(u16, u16)>,
    /// `ip_local_reserved_ports`, as ranges.
    pub reserved: MaybeHidden<Vec<(u16, u16)>>,
}

/// A listening socket of a process that runs as root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootService {
    /// Port as written in policies: `tcp/9091`.
    pub port: String,
    /// Name of the process (`comm`).
    pub command: String,
}

/// State of the systemd unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// `LoadState`: `loaded`, `not-found`, `masked` ...
    pub load: String,
    /// `ActiveState`: `active`, `inactive`, `failed` ...
    pub active: String,
    /// `UnitFileState`: `enabled`, `disabled` ...; empty if it is not installed.
    pub file: String,
}
