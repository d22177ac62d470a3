//! A refused packet, as `events` tells it and `test --record` reads it: one JSON object a line.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// `schema` of an event.
pub const SCHEMA: &str = "trainguard/event/v1";

/// A packet that was refused, or that enforcing would have refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// [`SCHEMA`].
    pub schema: String,
    /// The node that received it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `drop` or `would-drop`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// The service that decided; none if none was asked.
    #[serde(default)]
    pub service: Option<String>,
    /// Who sent it; none if that could not be read.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// `tcp`, `udp` or `sctp`; none if it has no ports.
    #[serde(default)]
    pub transport: Option<String>,
    /// Destination port.
    #[serde(default)]
    pub port: Option<u16>,
}
