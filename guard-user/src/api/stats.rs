//! The document of `stats`. Its field names are a contract.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::status::ServiceMode;
use crate::attach_mode::DeviceMode;

/// `schema` of [`Stats`].
pub const STATS_SCHEMA: &str = "trainguard/stats/v1";

/// What passed and what was dropped, since the counters were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// [`STATS_SCHEMA`].
    pub schema: String,
    /// When they were read: RFC 3339, UTC, to the millisecond.
    pub time: String,
    /// Name of this node; empty if the daemon was not asked.
    pub node: String,
    /// Whether the node is guarded, as [`Status::enforcing`](super::status::Status::enforcing) says it; null if the daemon was not
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
    /// How its program runs; null if it is not guarded now, or if the daemon was not asked.
    pub mode: Option<DeviceMode>,
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
    /// What it does with packets that it refuses; null if it is not of the running generation, or if
    /// the daemon was not asked.
    pub mode: Option<ServiceMode>,
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
