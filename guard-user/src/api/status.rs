//! The document of `status`. Its field names are a stable interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::stats::Events;
use crate::{attach_mode::DeviceMode, vocabulary::vocabulary};

/// Value of [`Status::schema`].
pub const STATUS_SCHEMA: &str = "trainguard/status/v1";

/// The state of the guard on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Always [`STATUS_SCHEMA`].
    pub schema: String,
    /// Version of the daemon.
    pub version: String,
    /// Whether a daemon answered. If not, the document is assembled from pins and devices, and no
    /// process follows the files.
    pub daemon: bool,
    /// When the kernel was queried: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Whether at least one service drops packets, on every interface that is to be guarded and
    /// exists. False without a daemon.
    pub enforcing: bool,
    /// Combined mode of the services. Null without a daemon.
    pub mode: Option<NodeMode>,
    /// Number of the generation in force; continues across restarts.
    pub generation: u64,
    /// SHA-256 of the enforced policy, in hexadecimal; empty if no policy is in force. The interfaces
    /// are not part of the hash: see `interfaces`.
    pub policy_hash: String,
    /// SHA-256 of the manifest, policies and lists that the policy was compiled from, in hexadecimal.
    /// Nodes that run the same files have the same hash. Empty if no policy is in force.
    pub files_hash: String,
    /// When the policy came into force: RFC 3339, UTC, milliseconds; null if no policy is in force.
    pub in_force_since: Option<String>,
    /// The policy on trial, which is undone unless it is confirmed; null if there is none.
    pub trial: Option<TrialStatus>,
    /// Override of the modes that the policy sets; null if there is none.
    #[serde(default)]
    pub mode_override: Option<ModeOverride>,
    /// Whether the policy in force is that of the files. If not, `problems` has the reason.
    pub up_to_date: bool,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// Path of the manifest.
    pub manifest: String,
    /// Origin of the policy in force, and the result of loading the files.
    pub source: SourceStatus,
    /// The program of the generation in force, as the kernel reports it; null if the kernel cannot be
    /// queried.
    pub program: Option<ProgramStatus>,
    /// The interfaces that are to be guarded.
    pub interfaces: Vec<InterfaceStatus>,
    /// The services of this node.
    pub services: Vec<ServiceStatus>,
    /// Packets that passed because the node forwards them; null if the counters cannot be read.
    #[serde(default)]
    pub forwarded: Option<ForwardedStatus>,
    /// Sizes of the tables of the generation in force.
    pub tables: TableStatus,
    /// Interfaces that are up, that no pattern selects, and whose frames no guard on another device
    /// evaluates. Loopback is not included.
    pub unguarded: Vec<String>,
    /// Devices that decapsulate tunnels, as `name (kind)` or `name (kind, udp/PORT)`.
    pub tunnels: Vec<String>,
    /// Open ports: they accept packets of any source, and no service guards them. For information
    /// only.
    pub open_ports: OpenPorts,
    /// Number of sampled events of refused frames; null if it cannot be read.
    pub events: Option<Events>,
    /// Number of log records that were not written.
    pub log: LogStatus,
    /// Problems, most important first.
    pub problems: Vec<String>,
}

vocabulary! {
    /// Combined mode of all services of a node.
    pub enum NodeMode, by default Unknown {
        /// All services drop refused packets.
        Enforce = "enforce",
        /// All services only count the packets that they would drop.
        Observe = "observe",
        /// Some services drop, others only count.
        Mixed = "mixed",
        /// The node has no service.
        None = "none",
    }
}

vocabulary! {
    /// What a service does with refused packets.
    pub enum ServiceMode, by default Unknown {
        /// Drops them.
        Enforce = "enforce",
        /// Counts them and lets them pass.
        Observe = "observe",
    }
}

vocabulary! {
    /// Whether an interface is guarded.
    pub enum InterfaceState, by default Unknown {
        /// The interface is guarded.
        Guarded = "guarded",
        /// The interface does not exist.
        Missing = "missing",
        /// The interface is to be guarded, but is not.
        Failed = "failed",
        /// An operator has detached the interface.
        Detached = "detached",
    }
}

vocabulary! {
    /// Origin of a policy in force.
    pub enum SourceKind, by default None {
        /// No policy is in force.
        None = "",
        /// The files that the daemon follows.
        Files = "files",
        /// The copy of the last known good policy.
        LastGood = "last_good",
        /// A policy that was applied and differs from the files.
        Applied = "applied",
        /// A policy on trial.
        Trial = "trial",
    }
}

vocabulary! {
    /// Result of loading the files.
    pub enum LoadResult, by default Unknown {
        /// The files came into force.
        Success = "success",
        /// The files did not come into force.
        Failure = "failure",
    }
}

impl Status {
    /// Appends the problems of the interfaces to those of the node.
    pub(crate) fn add_interface_problems(&mut self) {
        let interfaces = self.interfaces.iter();
        self.problems.extend(interfaces.filter_map(|interface| {
            Some(format!("{}: {}", interface.name, interface.problem.as_deref()?))
        }));
    }
}

/// A policy on trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialStatus {
    /// Path of the manifest that was applied.
    pub manifest: String,
    /// When the policy is undone unless it is confirmed: RFC 3339, UTC, milliseconds.
    pub deadline: String,
    /// Seconds until `deadline`.
    pub seconds_left: u64,
}

impl TrialStatus {
    /// Returns the deadline in seconds since 1970; 0 if it cannot be parsed.
    pub(crate) fn deadline_seconds(&self) -> u64 {
        seconds_of(&self.deadline)
    }
}

/// Converts a time of these documents to seconds since 1970; returns 0 if it cannot be parsed.
fn seconds_of(time: &str) -> u64 {
    let at = humantime::parse_rfc3339(time).ok();
    let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// A mode that an operator has set for services, in place of the mode of their policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeOverride {
    /// `observe` or `enforce`.
    pub mode: ServiceMode,
    /// Names of the services; empty for all.
    pub services: Vec<String>,
    /// When the override began: RFC 3339, UTC, milliseconds.
    pub since: String,
    /// When the override ends, in the same format; null if it has no end.
    pub until: Option<String>,
    /// Seconds until `until`; null if the override has no end.
    pub seconds_left: Option<u64>,
}

impl ModeOverride {
    /// Returns the end of the override in seconds since 1970; 0 if it has no end.
    pub(crate) fn deadline_seconds(&self) -> u64 {
        self.until.as_deref().map_or(0, seconds_of)
    }
}

/// An interface that is to be guarded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name of the interface, or the pattern if no interface matches it.
    pub name: String,
    /// How the program of the guard runs on the interface, as the device reports it; null if it does
    /// not.
    pub mode: Option<DeviceMode>,
    /// Id of the program that the device reports, regardless of which software attached it; null if
    /// none.
    pub program_id: Option<u32>,
    /// Whether the interface is guarded.
    pub state: InterfaceState,
    /// Index of the interface; null if it does not exist in this network namespace.
    pub index: Option<u32>,
    /// Whether the interface is up; null if it does not exist.
    pub up: Option<bool>,
    /// Why the interface is not guarded, or another problem of it.
    pub problem: Option<String>,
    /// How to solve the problem; null if `problem` says so already, or there is no remedy.
    pub remedy: Option<String>,
}

impl InterfaceStatus {
    /// Reports whether the interface is guarded.
    pub fn is_guarded(&self) -> bool {
        self.state == InterfaceState::Guarded
    }
}

/// A service of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name of the service; `policy/service` where two services of this node share a name.
    pub name: String,
    /// Name of the policy of the service.
    pub policy: String,
    /// What the service does with refused packets.
    pub mode: ServiceMode,
    /// Packets that the node forwards, which the service would have refused or charged if they were
    /// for the node. They passed.
    #[serde(default)]
    pub forwarded_packets: u64,
}

impl ServiceStatus {
    /// Reports whether `name` is the name of this service, with or without the prefix `policy/`.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let whole = || name.strip_prefix(&*self.policy)?.strip_prefix('/');
        self.name == name || whole() == Some(&self.name)
    }
}

/// Packets that are not for the node: it sends them on to containers, virtual machines or other
/// hosts. They pass services without `forwarded: guard`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedStatus {
    /// Number of packets that would have been refused or charged if they were for the node. Others
    /// are not counted.
    pub packets: u64,
    /// Since when they are counted: RFC 3339, UTC, milliseconds; null if that is unknown.
    pub since: Option<String>,
    /// Why no packet counts as forwarded at the moment, although the node forwards; null if they do.
    #[serde(default)]
    pub suspended: Option<String>,
}

/// Sizes of the tables of a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Number of IPv4 prefixes, including the addresses of nodes.
    pub prefixes4: usize,
    /// Number of IPv6 prefixes, including the addresses of nodes.
    pub prefixes6: usize,
    /// Number of classes: distinct sets of services that a source may reach.
    pub classes: usize,
    /// Number of bucket states of members.
    pub members: usize,
    /// Size of the source tables in the kernel, in bytes.
    pub source_bytes: usize,
}

/// Origin of the policy in force, and the result of loading the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Kind of the origin.
    pub kind: SourceKind,
    /// Path of the manifest, or of the copy.
    pub path: String,
    /// Serial number of the signed policy; null if the daemon also accepts unsigned policies.
    #[serde(default)]
    pub serial: Option<u64>,
    /// Why the copy is in force instead of the files.
    pub why: Option<String>,
    /// Whether the files differ from those that were last loaded. The daemon loads them as soon as
    /// they have stopped changing, within a second.
    pub changed: bool,
    /// SHA-256 of the last files that were read and did not come into force, in hexadecimal. Nodes
    /// with the same files have the same hash. Null if the files are in force, or cannot be read.
    pub refused_files: Option<String>,
    /// The last attempt to load the files; null if there was none.
    pub last_load: Option<LoadStatus>,
}

/// An attempt to load the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// When the attempt began: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Whether the files came into force.
    pub result: LoadResult,
}

/// A program in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Id of the program, unique on this machine while the program is loaded.
    pub id: u32,
    /// Name of the program.
    pub name: String,
    /// The kernel's hash (tag) of the instructions, in hexadecimal; null if the kernel has none.
    pub tag: Option<String>,
}

/// Open ports: they accept packets of any source, and no service guards them.
///
/// Not included are sockets bound to a loopback address or to a device that is not guarded, and the
/// UDP ports of tunnel devices, which are in [`Status::tunnels`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPorts {
    /// The first ports. UDP ports of the ephemeral range come last; the others are sorted by
    /// transport (TCP, UDP, SCTP) and number.
    pub ports: Vec<OpenPort>,
    /// Number of open ports that are not listed.
    pub more: u64,
    /// Why ports may be missing from the list.
    pub problem: Option<String>,
}

impl OpenPorts {
    /// Returns the inodes of the sockets, without 0.
    pub fn inodes(&self) -> BTreeSet<u32> {
        self.ports.iter().map(|port| port.inode).filter(|inode| *inode != 0).collect()
    }

    /// Sets the command of each port from a map of inodes to process names.
    pub fn set_commands(&mut self, commands: &BTreeMap<u32, String>) {
        for port in &mut self.ports {
            port.command = commands.get(&port.inode).cloned();
        }
    }
}

/// A port with one or more sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPort {
    /// Transport and number as in a policy: `tcp/9091`.
    pub port: String,
    /// Some of the addresses that the sockets are bound to. `::` stands for all addresses, `0.0.0.0`
    /// for all IPv4 addresses.
    pub addresses: Vec<String>,
    /// User id of the owner of the first socket.
    pub uid: u32,
    /// Inode of the first socket; 0 for a socket of the kernel.
    pub inode: u32,
    /// Name of a process that holds the socket, as the process has set it; null if the caller may not
    /// see the process. The daemon leaves it null; the subcommand looks it up with the rights of its
    /// user.
    pub command: Option<String>,
    /// Number of sockets with this port.
    pub sockets: u64,
}

/// Log records that were not written since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Records that exceeded the rate limit of their place in the code.
    pub suppressed: u64,
    /// Records that the journal, or the reader of standard error, did not accept in time.
    pub lost: u64,
}
