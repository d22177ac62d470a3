//! What happened on a node, as `events` tells it and `replay` and `test --record` read it: one JSON
//! object a line. `test --record` reads lines of `replay --format json` as well.

pub mod filter;
pub mod missing;

use std::net::IpAddr;

use guard_common::verdict::Action;
use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;

/// `schema` of an event.
pub const SCHEMA: &str = "trainguard/event/v1";
/// `schema` of a page of events.
pub const PAGE_SCHEMA: &str = "trainguard/events/v1";
/// Bytes of a line; one that is longer is none of ours.
pub const MAX_LINE: usize = 1 << 20;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// [`SCHEMA`].
    pub schema: String,
    /// When it was told: RFC 3339, UTC, to the millisecond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Its number with the daemon that told it, from 1 on without a gap; none if a reader added it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The node that it happened on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub what: EventKind,
}

/// What happened. `kind` says which; a line without one is a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum EventKind {
    /// Packets were refused, or enforcing would have refused them.
    Packet(Box<Packet>),
    /// Something became of a policy.
    Policy(Policy),
    /// Something became of an interface.
    Interface(Interface),
    /// Somebody commanded something.
    Audit(Box<Audit>),
    /// Events were not told.
    Lost(Lost),
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// Refused packets.
    pub fn packet(packet: Packet) -> Self {
        Self::Packet(Box::new(packet))
    }

    /// Its name: that of `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Packet(_) => "packet",
            Self::Policy(_) => "policy",
            Self::Interface(_) => "interface",
            Self::Audit(_) => "audit",
            Self::Lost(_) => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// One sampled packet that was refused, or several that were alike: then it is the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
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
    /// The node of the manifest that has this address; none if no node has.
    #[serde(default)]
    pub source_node: Option<String>,
    /// `tcp`, `udp` or `sctp`; none if it has no ports.
    #[serde(default)]
    pub transport: Option<String>,
    /// Destination port.
    #[serde(default)]
    pub port: Option<u16>,
    /// IP protocol of a packet without ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// TCP flags that are set: letters of S, A, F, R, P, U.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// The interface that received it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Length of the frame in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// Sampled frames that this record sums up.
    #[serde(default = "one")]
    pub count: u64,
    /// Refused frames that those stand for: an estimate.
    #[serde(default = "one")]
    pub packets: u64,
    /// When the first of them was seen, if there are several; as [`Event::time`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// When the last of them was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// The headers of the frame in hexadecimal; never what they carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
}

fn one() -> u64 {
    1
}

vocabulary! {
    /// What became of a policy.
    pub enum PolicyChange, by default Unknown {
        /// It is in force.
        InForce = "in_force",
        /// It is in force already.
        Unchanged = "unchanged",
        /// It did not come into force.
        Refused = "refused",
        /// It is in force, because the files could not be loaded.
        LastGood = "last_good",
        /// It is in force, and undone unless it is confirmed.
        OnTrial = "on_trial",
        /// It was on trial and stays in force.
        Confirmed = "confirmed",
        /// It was on trial; what was in force before is again.
        Undone = "undone",
        /// It came from the files, and cuts open connections.
        CutsConnections = "cuts_connections",
        /// An operator changed the modes of its services.
        ModeByHand = "mode_by_hand",
        /// Its services have the modes of its text again.
        ModeOfPolicy = "mode_of_policy",
        /// Pins were removed, or cannot be made.
        Pins = "pins",
    }
}

vocabulary! {
    /// What became of an interface.
    pub enum InterfaceChange, by default Unknown {
        /// It is guarded.
        Guarded = "guarded",
        /// Its link is gone, or the interface is.
        Lost = "lost",
        /// An operator detached it.
        Detached = "detached",
        /// It should be guarded, and is not.
        Failed = "failed",
        /// No pattern selects it any more.
        Released = "released",
        /// It has another name.
        Renamed = "renamed",
        /// It is up, and no pattern selects it.
        Unguarded = "unguarded",
        /// It unpacks packets.
        Tunnel = "tunnel",
        /// Something else about it is not as it should be.
        Warning = "warning",
    }
}

vocabulary! {
    /// What came of a command.
    pub enum AuditResult, by default Unknown {
        /// It was carried out.
        Done = "done",
        /// It was not.
        Refused = "refused",
    }
}

/// Something became of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What became of it.
    pub what: PolicyChange,
    /// The generation in force afterwards; 0 if there is none.
    pub generation: u64,
    /// SHA-256 of what is in force afterwards, in hexadecimal; empty if nothing is.
    pub policy_hash: String,
    /// Since when that is in force; as [`Event::time`].
    #[serde(default)]
    pub since: Option<String>,
    /// In words; why, if it was refused.
    #[serde(default)]
    pub text: String,
}

/// Something became of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// What became of it.
    pub what: InterfaceChange,
    /// Its name.
    pub interface: String,
    /// In words.
    #[serde(default)]
    pub text: String,
}

/// Somebody commanded something, over the control socket or by a signal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// `apply`, `confirm`, `rollback`, `mode`, `detach` or `reload`; of one who may not, what was
    /// asked for.
    pub request: String,
    /// What was asked, in words.
    #[serde(default)]
    pub arguments: String,
    /// Whether it was done.
    pub result: AuditResult,
    /// Why it was refused.
    #[serde(default)]
    pub text: String,
    /// The user; none if the kernel does not tell.
    pub uid: Option<u32>,
    /// Its name, if it is a local user.
    pub user: Option<String>,
    /// The group.
    pub gid: Option<u32>,
    /// The process.
    pub pid: Option<i32>,
    /// What the process calls itself.
    pub command: Option<String>,
    /// As whom the person logged in, if anybody did.
    pub login_uid: Option<u32>,
    /// The name of that user, if it is a local one.
    pub login: Option<String>,
    /// SHA-256 of what was in force before, in hexadecimal; empty if nothing was.
    #[serde(default)]
    pub old_policy: String,
    /// The same of what was in force afterwards.
    #[serde(default)]
    pub new_policy: String,
    /// Number of the generation afterwards.
    #[serde(default)]
    pub generation: u64,
}

/// Events that were not told, since the last record of this kind. The counters of the statistics
/// have them all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Refused frames that were not sampled: the weights of those that were stand for them.
    #[serde(default)]
    pub suppressed: u64,
    /// Samples for which the kernel found no room.
    #[serde(default)]
    pub lost: u64,
    /// Samples that were more than a daemon keeps of a second.
    #[serde(default)]
    pub not_kept: u64,
    /// Records that were gone when they were asked for.
    #[serde(default)]
    pub records: u64,
    /// In words.
    #[serde(default)]
    pub text: String,
}

/// Some events of a daemon, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// [`PAGE_SCHEMA`].
    pub schema: String,
    /// Which daemon: another one counts from 1 again.
    pub instance: String,
    /// Number of the oldest event that is kept; `next` if none is.
    pub first: u64,
    /// Number that the next event will have.
    pub next: u64,
    /// Those that were asked for.
    pub events: Vec<Event>,
}

/// TCP flags as their letters.
pub fn letters(flags: u8) -> String {
    let names = [(0x02, 'S'), (0x10, 'A'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x20, 'U')];
    names.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect()
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
    /// Something that happened.
    Event(Box<Event>),
    /// A frame that was not refused, or that the capture cut too short to say.
    NotRefused,
}

/// Reads a line.
///
/// # Errors
/// It is neither; why.
pub fn read(line: &[u8]) -> Result<Line, String> {
    let mut value: serde_json::Value = serde_json::from_slice(line)
        .map_err(|error| format!("not an event, expected a JSON object of `{SCHEMA}`: {error}"))?;
    let wrong = |error: serde_json::Error| {
        // serde repeats what it found, which may be anything.
        let shown = crate::policy::syntax::text::shown(&error.to_string());
        format!("not an event of `{SCHEMA}`: {shown}")
    };
    if value.get("schema").is_none() && value.get("frame").is_some() {
        let frame: Frame = serde_json::from_value(value).map_err(wrong)?;
        if frame.truncated || (frame.action == "pass" && !frame.would_drop) {
            return Ok(Line::NotRefused);
        }
        return Ok(Line::Event(Box::new(Event {
            schema: SCHEMA.to_owned(),
            time: None,
            seq: None,
            node: None,
            what: EventKind::packet(Packet {
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
                count: 1,
                packets: 1,
                ..Packet::default()
            }),
        })));
    }
    if let Some(fields) = value.as_object_mut()
        && !fields.contains_key("kind")
    {
        fields.insert("kind".to_owned(), "packet".into());
    }
    let event: Event = serde_json::from_value(value).map_err(wrong)?;
    if event.schema != SCHEMA {
        let shown = crate::policy::syntax::text::shown(&event.schema);
        return Err(format!("`{shown}` is not understood, expected `{SCHEMA}`"));
    }
    Ok(Line::Event(Box::new(event)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_before_there_were_kinds_is_a_packet() {
        let line = br#"{"schema":"trainguard/event/v1","node":"n","verdict":"drop",
            "reason":"not_allowed","service":"scheduler","source":"10.0.0.7","transport":"tcp",
            "port":9091}"#;
        let Ok(Line::Event(event)) = read(line) else { panic!("no event") };
        let EventKind::Packet(packet) = event.what else { panic!("no packet") };
        assert_eq!((packet.count, packet.packets, packet.port), (1, 1, Some(9091)));
        assert_eq!(packet.source, Some("10.0.0.7".parse().expect("an address")));
    }

    #[test]
    fn events_are_read_as_they_were_written() {
        let whats = [
            EventKind::packet(Packet {
                verdict: "would-drop".to_owned(),
                reason: "not_allowed".to_owned(),
                flags: Some("SA".to_owned()),
                protocol: Some(0),
                count: u64::MAX,
                ..Packet::default()
            }),
            EventKind::Policy(Policy {
                generation: 7,
                text: "a\nb".to_owned(),
                ..Policy::default()
            }),
            EventKind::Interface(Interface {
                interface: "\u{1b}[31m".to_owned(),
                ..Interface::default()
            }),
            EventKind::Lost(Lost { suppressed: u64::MAX, ..Lost::default() }),
        ];
        for what in whats {
            let event = Event {
                schema: SCHEMA.to_owned(),
                time: Some("2026-01-01T00:00:00.000Z".to_owned()),
                seq: Some(3),
                node: None,
                what,
            };
            let line = serde_json::to_vec(&event).expect("JSON");
            assert_eq!(read(&line), Ok(Line::Event(Box::new(event))));
        }
    }

    #[test]
    fn a_kind_of_a_newer_version_is_no_error() {
        let line = br#"{"schema":"trainguard/event/v1","kind":"comet","mass":1}"#;
        let Ok(Line::Event(event)) = read(line) else { panic!("no event") };
        assert_eq!(event.what, EventKind::Unknown);
    }
}
