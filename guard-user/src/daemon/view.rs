//! What the daemon tells: the documents of `status` and `stats`. Their field names are a contract.

use std::{collections::BTreeMap, time::SystemTime};

use guard_common::{
    layout::Counter,
    verdict::{Action, Reason, Verdict},
};
use serde::{Deserialize, Serialize};

pub use super::facts::{LoadStatus, LogStatus, OpenPort, OpenPorts, ProgramStatus, SourceStatus};
pub(crate) use crate::event::time;
use crate::{
    kernel::{
        error::KernelError,
        shared::{EventCounts, Shared},
    },
    policy::compiled::service_name,
};

/// `schema` of [`Status`].
pub const STATUS_SCHEMA: &str = "trainguard/status/v1";
/// `schema` of [`Stats`].
pub const STATS_SCHEMA: &str = "trainguard/stats/v1";

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
    /// What the services do: `enforce`, `observe`, `mixed`, or `none` if there is none. Null if
    /// no daemon can tell.
    pub mode: Option<String>,
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
    pub mode: String,
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
    /// How the program runs on it, as the device itself tells: `native`, `tcx` or `generic`; null if
    /// none does.
    pub mode: Option<String>,
    /// Id of the program that the device itself says it runs, whoever attached it; null if none.
    pub program_id: Option<u32>,
    /// `guarded`, `missing`, `failed` or `detached`.
    pub state: String,
    /// Its index; null if there is no such device in this network namespace.
    pub index: Option<u32>,
    /// Whether it is up; null likewise.
    pub up: Option<bool>,
    /// Why it is not guarded, or what else is not as it should be.
    pub problem: Option<String>,
    /// What to do about that; null if the problem says it, or nothing can be done.
    pub remedy: Option<String>,
}

/// A service of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name of the service; `policy/service` where two services of this node share a name.
    pub name: String,
    /// Name of its policy.
    pub policy: String,
    /// `enforce` or `observe`.
    pub mode: String,
}

impl ServiceStatus {
    /// Whether this is its name, or `policy/service`.
    pub(super) fn is_called(&self, name: &str) -> bool {
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

/// What passed and what was dropped, since the counters were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// [`STATS_SCHEMA`].
    pub schema: String,
    /// When they were read: RFC 3339, UTC, to the millisecond.
    pub time: String,
    /// Name of this node; empty if the daemon was not asked.
    pub node: String,
    /// Whether the node is guarded, as [`Status::enforcing`] says it; null if the daemon was not
    /// asked.
    pub enforcing: Option<bool>,
    /// Number of the running generation.
    pub generation: u64,
    /// SHA-256 of what is enforced, in hexadecimal.
    pub policy_hash: String,
    /// Since when it is in force, as [`Stats::time`]; null if the daemon was not asked.
    pub in_force_since: Option<String>,
    /// By interface.
    pub interfaces: Vec<InterfaceStats>,
    /// By service, in the order of their slots.
    pub services: Vec<ServiceStats>,
    /// By reason, all reasons.
    pub reasons: BTreeMap<String, ReasonStats>,
    /// Who was refused most, by sampled events; empty if the daemon was not asked.
    pub top_sources: Vec<TopSource>,
    /// Samples of refused frames.
    pub events: Events,
}

/// Frames by what happened to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStats {
    /// Name of the interface; `others` for all beyond the counter rows.
    pub name: String,
    /// Frames that passed, without those of `would_drop`.
    pub passed: u64,
    /// Frames that were dropped.
    pub dropped: u64,
    /// Frames that passed only because their service observes.
    pub would_drop: u64,
    /// Bytes of the frames that passed.
    pub passed_bytes: u64,
    /// Bytes of the frames that were dropped.
    pub dropped_bytes: u64,
    /// Bytes of the frames of `would_drop`.
    pub would_drop_bytes: u64,
    /// `native`, `tcx` or `generic`; null if not guarded now, or if the daemon was not asked.
    pub mode: Option<String>,
}

/// Frames of a service by what happened to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// Name of the service; `policy/service` where two services of this node share a name.
    pub name: String,
    /// Name of its policy.
    pub policy: String,
    /// Frames that passed, without those of `would_drop`.
    pub passed: u64,
    /// Frames that were dropped.
    pub dropped: u64,
    /// Frames that passed only because the service observes.
    pub would_drop: u64,
    /// `enforce` or `observe`; null if it is not of the running generation, or if the daemon was
    /// not asked.
    pub mode: Option<String>,
    /// The frames by reason.
    pub reasons: BTreeMap<String, u64>,
}

/// What was judged for a reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonStats {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those frames among them that were dropped.
    pub dropped: u64,
    /// Those frames among them that only an observing service let pass.
    pub would_drop: u64,
}

/// A source that was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopSource {
    /// Its address.
    pub address: String,
    /// The node that has this address; null if it is not in the manifest.
    pub node: Option<String>,
    /// Sampled frames; the true number is larger under a flood.
    pub sampled: u64,
    /// Refused frames that the samples stand for: an estimate.
    pub packets: u64,
    /// When it was first seen since the daemon keeps it, as [`Stats::time`].
    pub first_seen: String,
    /// When it was last seen, as [`Stats::time`].
    pub last_seen: String,
    /// Why the last of them was refused.
    pub reason: String,
    /// The service that refused it; null if no service was asked.
    pub service: Option<String>,
    /// Its destination: `tcp/9091`; null if it had no port.
    pub port: Option<String>,
}

/// Samples of refused frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Told.
    pub emitted: u64,
    /// Refused, but beyond the sampling budget.
    pub suppressed: u64,
    /// Nobody read the ring, so they found no room.
    pub lost: u64,
}

impl From<EventCounts> for Events {
    fn from(counts: EventCounts) -> Self {
        let EventCounts { emitted, suppressed, lost } = counts;
        Self { emitted, suppressed, lost }
    }
}

impl Stats {
    /// Reads the counters. Names and top sources are the daemon's to add.
    pub fn read(shared: &Shared) -> Result<Self, KernelError> {
        let labels = shared.service_labels()?;
        let mut stats = Self {
            schema: STATS_SCHEMA.to_owned(),
            time: time(SystemTime::now()),
            generation: shared.generation()?,
            policy_hash: shared.policy_hash()?,
            events: shared.event_counts()?.into(),
            ..Self::default()
        };
        for reason in Reason::ALL {
            stats.reasons.insert(reason.name().to_owned(), ReasonStats::default());
        }
        let mut services: BTreeMap<u8, ServiceStats> = labels
            .iter()
            .map(|(slot, label)| {
                let (policy, _) = label.split_once('/').unwrap_or_default();
                let name = service_name(label, labels.values()).to_owned();
                let policy = policy.to_owned();
                (*slot, ServiceStats { name, policy, ..ServiceStats::default() })
            })
            .collect();
        let mut interfaces: BTreeMap<String, InterfaceStats> = shared
            .interface_labels()?
            .into_values()
            .map(|name| (name.clone(), InterfaceStats { name, ..InterfaceStats::default() }))
            .collect();
        for (interface, verdict, counter) in shared.counters()? {
            stats.add(verdict, counter);
            let entry = interfaces.entry(interface).or_insert_with_key(|name| InterfaceStats {
                name: name.clone(),
                ..Default::default()
            });
            let InterfaceStats { passed, dropped, would_drop, .. } = entry;
            add(verdict, counter.packets, [passed, dropped, would_drop]);
            let InterfaceStats { passed_bytes, dropped_bytes, would_drop_bytes, .. } = entry;
            add(verdict, counter.bytes, [passed_bytes, dropped_bytes, would_drop_bytes]);
            if let Some(entry) = verdict.service.and_then(|slot| services.get_mut(&slot)) {
                let ServiceStats { passed, dropped, would_drop, reasons, .. } = entry;
                add(verdict, counter.packets, [passed, dropped, would_drop]);
                *reasons.entry(verdict.reason.name().to_owned()).or_default() += counter.packets;
            }
        }
        stats.interfaces = interfaces.into_values().collect();
        stats.services = services.into_values().collect();
        Ok(stats)
    }

    fn add(&mut self, verdict: Verdict, counter: Counter) {
        let entry = self.reasons.entry(verdict.reason.name().to_owned()).or_default();
        entry.packets += counter.packets;
        entry.bytes += counter.bytes;
        match verdict.action {
            Action::Pass => {}
            Action::Drop => entry.dropped += counter.packets,
            Action::WouldDrop => entry.would_drop += counter.packets,
        }
    }
}

fn add(verdict: Verdict, count: u64, [passed, dropped, would_drop]: [&mut u64; 3]) {
    *match verdict.action {
        Action::Pass => passed,
        Action::Drop => dropped,
        Action::WouldDrop => would_drop,
    } += count;
}
