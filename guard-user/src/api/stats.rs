//! The document of `stats`. Its field names are a stable interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::status::ServiceMode;
use crate::attach_mode::DeviceMode;

/// Value of [`Stats::schema`].
pub const STATS_SCHEMA: &str = "trainguard/stats/v1";

/// Passed and dropped frames since the counters were created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Always [`STATS_SCHEMA`].
    pub schema: String,
    /// When the counters were read: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Name of this node; empty if the counters were read without the daemon.
    pub node: String,
    /// Whether the node is guarded, as in [`Status::enforcing`](super::status::Status::enforcing);
    /// null without the daemon.
    pub enforcing: Option<bool>,
    /// Number of the generation in force.
    pub generation: u64,
    /// SHA-256 of the enforced policy, in hexadecimal.
    pub policy_hash: String,
    /// When the policy came into force, in the format of [`Stats::time`]; null without the daemon.
    pub in_force_since: Option<String>,
    /// Counters of each interface.
    pub interfaces: Vec<InterfaceStats>,
    /// Counters of each service, in the order of the service slots.
    pub services: Vec<ServiceStats>,
    /// Counters of each reason, those with zero frames included.
    pub reasons: BTreeMap<String, ReasonStats>,
    /// The sources with the most refused frames, estimated from sampled events; empty without the
    /// daemon.
    pub top_sources: Vec<TopSource>,
    /// Number of sampled events of refused frames.
    pub events: Events,
}

/// Frames of an interface, by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStats {
    /// Name of the interface; `others` for all interfaces without a counter row of their own.
    pub name: String,
    /// Frames that passed, except those in `would_drop`.
    pub passed: u64,
    /// Frames that were dropped.
    pub dropped: u64,
    /// Frames that passed only because their service is in observe mode.
    pub would_drop: u64,
    /// Bytes of the frames in `passed`.
    pub passed_bytes: u64,
    /// Bytes of the frames in `dropped`.
    pub dropped_bytes: u64,
    /// Bytes of the frames in `would_drop`.
    pub would_drop_bytes: u64,
    /// How the program runs on the interface; null if the interface is not guarded now, or without
    /// the daemon.
    pub mode: Option<DeviceMode>,
}

/// Frames of a service, by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// Name of the service; `policy/service` where two services of this node share a name.
    pub name: String,
    /// Name of the policy of the service.
    pub policy: String,
    /// Frames that passed, except those in `would_drop`.
    pub passed: u64,
    /// Frames that were dropped.
    pub dropped: u64,
    /// Frames that passed only because the service is in observe mode.
    pub would_drop: u64,
    /// What the service does with refused packets; null if the service is not part of the generation
    /// in force, or without the daemon.
    pub mode: Option<ServiceMode>,
    /// Frames by reason.
    pub reasons: BTreeMap<String, u64>,
}

/// Frames with one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonStats {
    /// Number of frames.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Frames among them that were dropped.
    pub dropped: u64,
    /// Frames among them that passed only because their service is in observe mode.
    pub would_drop: u64,
}

/// A source of refused frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopSource {
    /// Address of the source.
    pub address: String,
    /// Name of the node that has the address; null if it is not in the manifest.
    pub node: Option<String>,
    /// Number of sampled frames, which is less than the number of refused frames under a flood.
    pub sampled: u64,
    /// Estimated number of refused frames: each sampled frame counts with its weight.
    pub packets: u64,
    /// When the daemon added the source to its table, in the format of [`Stats::time`].
    pub first_seen: String,
    /// When the source was last seen, in the format of [`Stats::time`].
    pub last_seen: String,
    /// Why its last frame was refused.
    pub reason: String,
    /// The service that refused the last frame; null if the node refused it before any service was
    /// evaluated.
    pub service: Option<String>,
    /// Destination of the last frame, such as `tcp/9091`; null if it had no port.
    pub port: Option<String>,
}

/// Number of sampled events of refused frames, since the counters were created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Events that the kernel program emitted.
    pub emitted: u64,
    /// Refused frames without an event: not sampled, beyond the sampling budget, or without a
    /// listening daemon.
    pub suppressed: u64,
    /// Events that were lost because the ring was full.
    pub lost: u64,
}
