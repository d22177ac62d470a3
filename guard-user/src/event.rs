//! A refused packet, as `events` tells it and `test --record` reads it: one JSON object a line.
//! Lines of `replay --format json` can be read as well.

use std::net::IpAddr;

use guard_common::verdict::Action;
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

/// A frame as `replay --format json` tells it; more fields are there than are read.
#[derive(Debug, Deserialize)]
struct Frame {
    action: String,
    reason: String,
    service: Option<String>,
    #[serde(default)]
    would_drop: bool,
    #[serde(default)]
    truncated: bool,
    source: Option<IpAddr>,
    transport: Option<String>,
    destination_port: Option<u16>,
}

/// What a line holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A refused packet.
    Event(Event),
    /// A frame that was not refused, or that the capture cut too short to say.
    NotRefused,
}

/// Reads a line.
///
/// # Errors
/// It is neither; why.
pub fn read(line: &[u8]) -> Result<Line, String> {
    let value: serde_json::Value = serde_json::from_slice(line)
        .map_err(|error| format!("not an event, expected a JSON object of `{SCHEMA}`: {error}"))?;
    let wrong = |error: serde_json::Error| format!("not an event of `{SCHEMA}`: {error}");
    if value.get("schema").is_none() && value.get("frame").is_some() {
        let frame: Frame = serde_json::from_value(value).map_err(wrong)?;
        if frame.truncated || (frame.action == "pass" && !frame.would_drop) {
            return Ok(Line::NotRefused);
        }
        return Ok(Line::Event(Event {
            schema: SCHEMA.to_owned(),
            node: None,
            verdict: if frame.would_drop {
                Action::WouldDrop.name().to_owned()
            } else {
                frame.action
            },
            reason: frame.reason,
            service: frame.service,
            source: frame.source,
            transport: frame.transport,
            port: frame.destination_port,
        }));
    }
    let event: Event = serde_json::from_value(value).map_err(wrong)?;
    if event.schema != SCHEMA {
        let shown = crate::policy::text::shown(&event.schema);
        return Err(format!("`{shown}` is not understood, expected `{SCHEMA}`"));
    }
    Ok(Line::Event(event))
}
