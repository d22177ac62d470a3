//! Events of a node: the format that `events` writes and that `replay` and `test --record` read, one
//! JSON object per line. `test --record` also reads the lines of `replay --format json`.

pub mod filter;
pub mod missing;
pub mod replies;

use std::net::IpAddr;

use guard_common::verdict::Action;
use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;

/// Value of [`Event::schema`].
pub const SCHEMA: &str = "trainguard/event/v1";
/// Value of [`Page::schema`].
pub const PAGE_SCHEMA: &str = "trainguard/events/v1";
/// Maximum length of a line in bytes. A longer line is not an event.
pub const MAX_LINE: usize = 1 << 20;

/// Something that happened on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// When the event was recorded: RFC 3339, UTC, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Sequence number of the event in the daemon that recorded it, from 1 without gaps; none if a
    /// reader of events added it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Name of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The kind of the event, with its fields.
    #[serde(flatten)]
    pub what: EventKind,
}

/// The kind of an event, with its fields. `kind` in JSON names it; a line without `kind` is a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum EventKind {
    /// Packets were refused, or would have been refused in enforce mode.
    Packet(Box<Packet>),
    /// The state of a policy changed.
    Policy(Policy),
    /// The state of an interface changed.
    Interface(Interface),
    /// A command was given to the daemon.
    Audit(Box<Audit>),
    /// Events were lost.
    Lost(Lost),
    /// A kind of a newer version of trainguard.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// Wraps a record of refused packets.
    pub fn packet(packet: Packet) -> Self {
        Self::Packet(Box::new(packet))
    }

    /// Returns the value of `kind` in JSON.
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

/// A sampled packet that was refused. A record of several similar packets has the fields of the last
/// one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// `drop` or `would-drop`.
    pub verdict: String,
    /// Name of the reason.
    pub reason: String,
    /// Name of the service that decided; none if the node decided without a service.
    #[serde(default)]
    pub service: Option<String>,
    /// Source address; none if it could not be read.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Name of the node that has the address; none if it is not in the manifest.
    #[serde(default)]
    pub source_node: Option<String>,
    /// `tcp`, `udp` or `sctp`; none if the packet has no ports.
    #[serde(default)]
    pub transport: Option<String>,
    /// Destination port.
    #[serde(default)]
    pub port: Option<u16>,
    /// IP protocol number of a packet without ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// The TCP flags that are set, as the letters S, A, F, R, P, U.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// Whether the packet looks like a reply to a connection of this node, or of a container or virtual
    /// machine behind its NAT; left out if it does not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub looks_like_reply: bool,
    /// Name of the interface that received the packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Length of the frame in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// Number of sampled frames in this record.
    #[serde(default = "one")]
    pub count: u64,
    /// Estimated number of refused frames that the samples represent.
    #[serde(default = "one")]
    pub packets: u64,
    /// When the first frame was seen, if there are several; in the format of [`Event::time`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// When the last frame was seen, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// The headers of the frame in hexadecimal, without payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn one() -> u64 {
    1
}

vocabulary! {
    /// How the state of a policy changed.
    pub enum PolicyChange, by default Unknown {
        /// It came into force.
        InForce = "in_force",
        /// It was already in force.
        Unchanged = "unchanged",
        /// It was refused.
        Refused = "refused",
        /// The last known good policy came into force, because the files could not be loaded.
        LastGood = "last_good",
        /// It is in force on trial: it is undone unless it is confirmed.
        OnTrial = "on_trial",
        /// It was confirmed and stays in force.
        Confirmed = "confirmed",
        /// It was undone after the trial, and the policy before it is in force again.
        Undone = "undone",
        /// It was loaded from the files, and cuts open connections.
        CutsConnections = "cuts_connections",
        /// An operator overrode the mode of its services.
        ModeOverridden = "mode_by_hand",
        /// Its services have the modes of the policy again.
        ModeOfPolicy = "mode_of_policy",
        /// Pins were removed, or cannot be created.
        Pins = "pins",
    }
}

vocabulary! {
    /// How the state of an interface changed.
    pub enum InterfaceChange, by default Unknown {
        /// It is guarded.
        Guarded = "guarded",
        /// Its link, or the interface itself, was removed.
        Lost = "lost",
        /// An operator detached it.
        Detached = "detached",
        /// It is to be guarded, but is not.
        Failed = "failed",
        /// No pattern selects it any more.
        Released = "released",
        /// It was renamed.
        Renamed = "renamed",
        /// It is up, and no pattern selects it.
        Unguarded = "unguarded",
        /// It decapsulates packets.
        Tunnel = "tunnel",
        /// It has another problem.
        Warning = "warning",
    }
}

vocabulary! {
    /// Result of a command.
    pub enum AuditResult, by default Unknown {
        /// The command was carried out.
        Done = "done",
        /// The command was refused.
        Refused = "refused",
    }
}

/// A change of the policy in force, or a failed attempt at one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The change.
    pub what: PolicyChange,
    /// Number of the generation in force afterwards; 0 if there is none.
    pub generation: u64,
    /// SHA-256 of the policy in force afterwards, in hexadecimal; empty if there is none.
    pub policy_hash: String,
    /// When that policy came into force, in the format of [`Event::time`].
    #[serde(default)]
    pub since: Option<String>,
    /// A description; the reason, if the policy was refused.
    #[serde(default)]
    pub text: String,
}

/// A change of the state of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The change.
    pub what: InterfaceChange,
    /// Name of the interface.
    pub interface: String,
    /// A description.
    #[serde(default)]
    pub text: String,
}

/// A command that the daemon received over the control socket or as a signal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// `apply`, `confirm`, `rollback`, `mode`, `detach` or `reload`. If the caller was not
    /// authorised, the request as it was received.
    pub request: String,
    /// A description of the arguments.
    #[serde(default)]
    pub arguments: String,
    /// Whether the command was carried out.
    pub result: AuditResult,
    /// Why the command was refused.
    #[serde(default)]
    pub text: String,
    /// User id of the caller; none if the kernel does not report it.
    pub uid: Option<u32>,
    /// Name of that user, if it is a local user.
    pub user: Option<String>,
    /// Group id of the caller.
    pub gid: Option<u32>,
    /// Process id of the caller.
    pub pid: Option<i32>,
    /// Name of the process, as the process has set it.
    pub command: Option<String>,
    /// User id of the login session (audit login uid); none if the process belongs to no login.
    pub login_uid: Option<u32>,
    /// Name of the login user, if it is a local user.
    pub login: Option<String>,
    /// SHA-256 of the policy in force before, in hexadecimal; empty if there was none.
    #[serde(default)]
    pub old_policy: String,
    /// SHA-256 of the policy in force afterwards, likewise.
    #[serde(default)]
    pub new_policy: String,
    /// Number of the generation in force afterwards.
    #[serde(default)]
    pub generation: u64,
}

/// Numbers of events that were lost since the last record of this kind. The counters of the
/// statistics include their frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Refused frames that were not sampled. The weights of the sampled frames include them.
    #[serde(default)]
    pub suppressed: u64,
    /// Samples for which the ring of the kernel had no room.
    #[serde(default)]
    pub lost: u64,
    /// Samples beyond the number that the daemon keeps per second.
    #[serde(default)]
    pub not_kept: u64,
    /// Records that the daemon had discarded before the client requested them.
    #[serde(default)]
    pub records: u64,
    /// A description.
    #[serde(default)]
    pub text: String,
}

/// A sequence of events of one daemon, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Always [`PAGE_SCHEMA`].
    pub schema: String,
    /// Identifies the daemon process. Each process numbers its events from 1.
    pub instance: String,
    /// Sequence number of the oldest event that the daemon keeps; `next` if it keeps none.
    pub first: u64,
    /// Sequence number of the next event.
    pub next: u64,
    /// The requested events.
    pub events: Vec<Event>,
}

/// Formats the TCP flags as letters: S, A, F, R, P, U.
pub fn letters(flags: u8) -> String {
    let names = [(0x02, 'S'), (0x10, 'A'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x20, 'U')];
    names.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect()
}

/// A frame as `replay --format json` writes it. Other fields are ignored.
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

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// An event.
    Event(Box<Event>),
    /// A frame that was not refused, or that the capture truncated too early to decide.
    NotRefused,
}

/// Parses a line: an event, or a frame of `replay --format json`.
///
/// # Errors
/// The line is neither. The message has the reason.
pub fn read(line: &[u8]) -> Result<Line, String> {
    let mut value: serde_json::Value = serde_json::from_slice(line)
        .map_err(|error| format!("not an event, expected a JSON object of `{SCHEMA}`: {error}"))?;
    let wrong = |error: serde_json::Error| {
        // serde repeats the text that it found, which is untrusted.
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
        return Err(format!("unknown schema `{shown}`, expected `{SCHEMA}`"));
    }
    Ok(Line::Event(Box::new(event)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_a_kind_is_a_packet() {
        let line = br#"{"schema":"trainguard/event/v1","node":"n","verdict":"drop",
            "reason":"not_allowed","service":"scheduler","source":"10.0.0.7","transport":"tcp",
            "port":9091}"#;
        let Ok(Line::Event(event)) = read(line) else { panic!("not an event") };
        let EventKind::Packet(packet) = event.what else { panic!("not a packet") };
        assert_eq!((packet.count, packet.packets, packet.port), (1, 1, Some(9091)));
        assert_eq!(packet.source, Some("10.0.0.7".parse().expect("an address")));
    }

    #[test]
    fn events_that_are_written_and_read_are_equal() {
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
    fn an_unknown_kind_is_not_an_error() {
        let line = br#"{"schema":"trainguard/event/v1","kind":"comet","mass":1}"#;
        let Ok(Line::Event(event)) = read(line) else { panic!("not an event") };
        assert_eq!(event.what, EventKind::Unknown);
    }
}
