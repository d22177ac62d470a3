//! The document of `status`. Its field names are a contract.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::stats::Events;
use crate::{attach_mode::DeviceMode, vocabulary::vocabulary};

/// `schema` of [`Status`].
pub const STATUS_SCHEMA: &str = "trainguard/status/v1";

/// Whether this node is guarded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`STATUS_SCHEMA`].
    pub schema: String,
    /// Version of the daemon.
    pub version: String,
    /// Whether a daemon answered. If not, this is what pins and devices tell, and nobody follows
    /// the files.
    pub daemon: bool,
    /// When all this was asked of the kernel: RFC 3339, UTC, to the millisecond.
    pub time: String,
    /// Whether some service drops, on every interface that is to be guarded and exists. False as
    /// well if no daemon can tell.
    pub enforcing: bool,
    /// What the services do. Null if no daemon can tell.
    pub mode: Option<NodeMode>,
    /// Number of the running generation; counts on over restarts.
    pub generation: u64,
    /// SHA-256 of what is enforced, in hexadecimal; empty if nothing is. Where it is enforced is no
    /// part of it: see `interfaces`.
    pub policy_hash: String,
    /// SHA-256 over manifest, policies and lists that it comes from, in hexadecimal: the same on all
    /// nodes that run the same files. Empty if nothing is in force.
    pub files_hash: String,
    /// Since when it is in force: RFC 3339, UTC, to the millisecond; null if nothing is.
    pub in_force_since: Option<String>,
    /// The policy that is undone unless it is confirmed; null if none is on trial.
    pub trial: Option<TrialStatus>,
    /// Modes by hand, instead of the policy's; null if there are none.
    #[serde(default)]
    pub mode_override: Option<ModeOverride>,
    /// Whether the files say what is running. If not, `problems` says why.
    pub up_to_date: bool,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// The manifest.
    pub manifest: String,
    /// Where the running policy comes from, and what became of the files.
    pub source: SourceStatus,
    /// The program of the running generation, as the kernel tells of it; null if it cannot be
    /// asked.
    pub program: Option<ProgramStatus>,
    /// The interfaces that are to be guarded.
    pub interfaces: Vec<InterfaceStatus>,
    /// The services of this node.
    pub services: Vec<ServiceStatus>,
    /// The tables of the running generation.
    pub tables: TableStatus,
    /// Interfaces that are up and that nobody wants guarded; loopback is left out.
    pub unguarded: Vec<String>,
    /// Devices that unpack tunnels, as `name (kind)` or `name (kind, udp/PORT)`.
    pub tunnels: Vec<String>,
    /// Ports that take what strangers send and that no service guards: for information.
    pub open_ports: OpenPorts,
    /// Samples of refused frames; null if they cannot be read.
    pub events: Option<Events>,
    /// Log records that were not written.
    pub log: LogStatus,
    /// What is wrong, most important first.
    pub problems: Vec<String>,
}

vocabulary! {
    /// What all services of a node do together.
    pub enum NodeMode, by default Unknown {
        /// All drop.
        Enforce = "enforce",
        /// All only count what they would drop.
        Observe = "observe",
        /// Some drop, some do not.
        Mixed = "mixed",
        /// There is no service.
        None = "none",
    }
}

vocabulary! {
    /// What a service does with packets that it refuses.
    pub enum ServiceMode, by default Unknown {
        /// It drops them.
        Enforce = "enforce",
        /// It counts them and lets them pass.
        Observe = "observe",
    }
}

vocabulary! {
    /// Whether an interface is guarded.
    pub enum InterfaceState, by default Unknown {
        /// It is.
        Guarded = "guarded",
        /// There is no such interface.
        Missing = "missing",
        /// It should be, and is not.
        Failed = "failed",
        /// An operator has detached it.
        Detached = "detached",
    }
}

vocabulary! {
    /// Which texts a policy in force comes from.
    pub enum SourceKind, by default None {
        /// Nothing is in force.
        None = "",
        /// The files that the daemon follows.
        Files = "files",
        /// The copy of the policy that was last in force.
        LastGood = "last_good",
        /// A policy that was applied and is not what the files say.
        Applied = "applied",
        /// A policy on trial.
        Trial = "trial",
    }
}

vocabulary! {
    /// Whether files came into force.
    pub enum LoadResult, by default Unknown {
        /// They did.
        Success = "success",
        /// They did not.
        Failure = "failure",
    }
}

impl Status {
    /// Adds the problems of interfaces to those of the node.
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
    /// The manifest that it was applied from.
    pub manifest: String,
    /// When it is undone: RFC 3339, UTC, to the millisecond.
    pub deadline: String,
    /// Seconds until then.
    pub seconds_left: u64,
}

impl TrialStatus {
    /// When it is undone, in seconds since 1970; 0 if the time is none.
    pub(crate) fn deadline_seconds(&self) -> u64 {
        seconds_of(&self.deadline)
    }
}

/// A time of these documents in seconds since 1970; 0 if it is none.
fn seconds_of(time: &str) -> u64 {
    let at = humantime::parse_rfc3339(time).ok();
    let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// Modes of services that are not those of their policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeOverride {
    /// `observe` or `enforce`.
    pub mode: ServiceMode,
    /// Which services; all if there are none.
    pub services: Vec<String>,
    /// Since when: RFC 3339, UTC, to the millisecond.
    pub since: String,
    /// Until when, likewise; null if until somebody changes it.
    pub until: Option<String>,
    /// Seconds until then; null likewise.
    pub seconds_left: Option<u64>,
}

impl ModeOverride {
    /// When they end, in seconds since 1970; 0 if only when somebody changes them.
    pub(crate) fn deadline_seconds(&self) -> u64 {
        self.until.as_deref().map_or(0, seconds_of)
    }
}

/// An interface that is to be guarded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name, or the pattern that matches none.
    pub name: String,
    /// How the program runs on it, as the device itself says; null if none does.
    pub mode: Option<DeviceMode>,
    /// Id of the program that the device itself says it runs, whoever attached it; null if none.
    pub program_id: Option<u32>,
    /// Whether it is guarded.
    pub state: InterfaceState,
    /// Its index; null if there is no such device in this network namespace.
    pub index: Option<u32>,
    /// Whether it is up; null likewise.
    pub up: Option<bool>,
    /// Why it is not guarded, or what else is not as it should be.
    pub problem: Option<String>,
    /// What to do about that; null if the problem says it, or nothing can be done.
    pub remedy: Option<String>,
}

impl InterfaceStatus {
    /// Whether it is guarded.
    pub fn is_guarded(&self) -> bool {
        self.state == InterfaceState::Guarded
    }
}

/// A service of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name of the service; `policy/service` where two services of this node share a name.
    pub name: String,
    /// Name of its policy.
    pub policy: String,
    /// What it does with packets that it refuses.
    pub mode: ServiceMode,
}

impl ServiceStatus {
    /// Whether this is its name, or `policy/service`.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let whole = || name.strip_prefix(&*self.policy)?.strip_prefix('/');
        self.name == name || whole() == Some(&self.name)
    }
}

/// How large the tables of a generation are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// IPv4 prefixes, addresses of nodes included.
    pub prefixes4: usize,
    /// IPv6 prefixes, likewise.
    pub prefixes6: usize,
    /// Sets of services that a source may reach.
    pub classes: usize,
    /// Limiter states of members.
    pub members: usize,
    /// Bytes of the tables by which sources are found, in the kernel.
    pub source_bytes: usize,
}

/// Where the running policy comes from, and what became of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Which texts these are.
    pub kind: SourceKind,
    /// The manifest, or the copy.
    pub path: String,
    /// The serial number that it was signed with; null if the daemon takes unsigned ones, too.
    #[serde(default)]
    pub serial: Option<u64>,
    /// Why the copy is used and not the files.
    pub why: Option<String>,
    /// Whether files differ from those that were last loaded. They are loaded once they stand
    /// still, within a second.
    pub changed: bool,
    /// SHA-256 over the files that were last read and are not in force, in hexadecimal: the same
    /// on all nodes that have the same files. Null if the files are in force, or cannot be read.
    pub refused_files: Option<String>,
    /// The last time that the files were loaded; null if that has not been tried.
    pub last_load: Option<LoadStatus>,
}

/// What became of loading the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// When it began: RFC 3339, UTC, to the millisecond.
    pub time: String,
    /// Whether the files came into force.
    pub result: LoadResult,
}

/// A program in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Its id, which no other program of this machine has while it lives.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The kernel's hash of its instructions, in hexadecimal; null if it keeps none.
    pub tag: Option<String>,
}

/// Ports that take what strangers send and that no service guards. Left out: sockets that are bound
/// to an address of the loopback device, or to a device that is not guarded; the ports of tunnel
/// devices, which are listed as such.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPorts {
    /// The first of them: what has a port of its own before what the kernel gave one, streams
    /// before datagrams, by number.
    pub ports: Vec<OpenPort>,
    /// How many there are besides.
    pub more: u64,
    /// Why some may be missing.
    pub problem: Option<String>,
}

impl OpenPorts {
    /// The sockets, by inode.
    pub fn inodes(&self) -> BTreeSet<u32> {
        self.ports.iter().map(|port| port.inode).filter(|inode| *inode != 0).collect()
    }

    /// Names the processes that have them, by inode.
    pub fn set_commands(&mut self, commands: &BTreeMap<u32, String>) {
        for port in &mut self.ports {
            port.command = commands.get(&port.inode).cloned();
        }
    }
}

/// A port with sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPort {
    /// As policies write it: `tcp/9091`.
    pub port: String,
    /// Some of the addresses that sockets are bound to; `::` if to all, or `0.0.0.0` if to all of
    /// IPv4.
    pub addresses: Vec<String>,
    /// User who made the first of the sockets.
    pub uid: u32,
    /// Inode of that socket; 0 if it is the kernel's own.
    pub inode: u32,
    /// Name of a process that has the socket, as it calls itself; null if it cannot be seen by who
    /// asks. The daemon does not look: the verb does, with the rights of who calls it.
    pub command: Option<String>,
    /// How many sockets have this port.
    pub sockets: u64,
}

/// Log records that were not written since the daemon was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// They were repeated too often.
    pub suppressed: u64,
    /// Nobody took them: the journal or the reader of standard error stands still.
    pub lost: u64,
}
