//! Events as JSON lines, or as one line of text each.

use std::{fmt::Write as _, net::SocketAddr, time::SystemTime};

use clap::{
    ValueEnum,
    builder::styling::{AnsiColor, Style},
};

use crate::{
    api::events::{Audit, Event, EventKind, Packet},
    output::Lines,
    policy::syntax::text::visible,
    text::counted,
};

/// Format of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EventsFormat {
    /// A line of text per event
    #[value(alias = "text")]
    Compact,
    /// A JSON object per line
    #[value(alias = "json")]
    Ndjson,
}

/// Writer of events.
#[derive(Debug)]
pub struct Output {
    format: EventsFormat,
    colour: bool,
    lines: Lines,
    /// The date of the last line.
    day: String,
}

impl Output {
    /// Creates a writer; nothing has been written yet.
    pub fn new(format: EventsFormat, colour: bool) -> Self {
        Self { format, colour, lines: Lines::new(), day: String::new() }
    }

    /// Adds an event; returns false as [`crate::output::answer`] does.
    pub fn add(&mut self, event: &Event) -> bool {
        if self.format == EventsFormat::Ndjson {
            return self.lines.add(event);
        }
        let (day, _) =
            event.time.as_deref().and_then(|time| time.split_once('T')).unwrap_or_default();
        if day != self.day {
            day.clone_into(&mut self.day);
            if !self.lines.add_text(&format!("-- {}, times are UTC --", visible(day))) {
                return false;
            }
        }
        self.lines.add_text(&compact(event, self.colour))
    }

    /// Writes the pending lines; returns false as [`crate::output::answer`] does.
    pub fn flush(&mut self) -> bool {
        self.lines.flush()
    }
}

/// Formats an event on one line, without its date.
fn compact(event: &Event, colour: bool) -> String {
    let time = event.time.as_deref().and_then(|time| time.split_once('T'));
    let time = time.map_or("--:--:--.---", |(_, time)| time.trim_end_matches('Z'));
    let (interface, rest) = match &event.what {
        EventKind::Packet(packet) => (packet.interface.as_deref(), of_packet(packet, colour)),
        EventKind::Policy(policy) => {
            let hash = policy.policy_hash.get(..12).unwrap_or(&policy.policy_hash);
            let what = policy.what.name().replace('_', " ");
            (
                None,
                join_parts(
                    "policy",
                    &what,
                    &format!("generation {} {hash}", policy.generation),
                    &policy.text,
                ),
            )
        }
        EventKind::Interface(interface) => (
            Some(interface.interface.as_str()),
            join_parts("interface", interface.what.name(), "", &interface.text),
        ),
        EventKind::Audit(audit) => (None, of_command(audit)),
        EventKind::Lost(lost) => (None, join_parts("lost", "", "", &lost.text)),
        EventKind::Unknown => (None, "an event that this version does not know".to_owned()),
    };
    format!("{} {} {rest}", visible(time), visible(interface.unwrap_or("-")))
}

/// Joins the parts of an event that are not empty.
fn join_parts(kind: &str, what: &str, facts: &str, text: &str) -> String {
    // A text of several lines becomes one line.
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let text = visible(&lines.join("; "));
    let (what, facts) = (visible(what), visible(facts));
    let parts = [kind, &what, &facts, &text];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

/// Formats a request with the user and process that sent it.
fn of_command(audit: &Audit) -> String {
    let named = |name: &Option<String>, uid: u32| {
        name.as_deref().map_or_else(|| format!("uid {uid}"), visible)
    };
    let mut caller = match audit.uid {
        Some(uid) => format!("by {}", named(&audit.user, uid)),
        None => "by an unknown user".to_owned(),
    };
    // Writing to a `String` cannot fail.
    if let Some(uid) = audit.login_uid.filter(|uid| Some(*uid) != audit.uid) {
        let _ = write!(caller, ", logged in as {}", named(&audit.login, uid));
    }
    if let Some(command) = &audit.command {
        let _ = write!(caller, ", `{}`", visible(command));
    }
    if let Some(pid) = audit.pid {
        let _ = write!(caller, " (pid {pid})");
    }
    let request = format!("{} {}", visible(&audit.request), visible(&audit.arguments));
    let facts = format!("{} {caller}", request.trim_end());
    join_parts("audit", audit.result.name(), &facts, &audit.text)
}

fn of_packet(packet: &Packet, colour: bool) -> String {
    let style = match packet.verdict.as_str() {
        _ if !colour => Style::new(),
        "drop" => AnsiColor::Red.on_default().bold(),
        _ => AnsiColor::Yellow.on_default(),
    };
    let verdict = visible(&packet.verdict.to_ascii_uppercase());
    let mut line = format!("{style}{verdict}{style:#} {}", visible(&packet.reason));
    // Writing to a `String` cannot fail.
    let _ = match (packet.source, packet.source_port) {
        (Some(addr), Some(port)) => write!(line, " {}", SocketAddr::new(addr, port)),
        (Some(addr), None) => write!(line, " {addr}"),
        (None, _) => write!(line, " from an unreadable source"),
    };
    if packet.source.is_some() {
        let node =
            packet.source_node.as_deref().map_or_else(|| "not in the manifest".to_owned(), visible);
        let _ = write!(line, " ({node})");
    }
    let _ = match (packet.destination, packet.port) {
        (Some(addr), Some(port)) => write!(line, " -> {}", SocketAddr::new(addr, port)),
        (Some(addr), None) => write!(line, " -> {addr}"),
        (None, Some(port)) => write!(line, " -> port {port}"),
        (None, None) => Ok(()),
    };
    let protocol = packet.protocol.map(|number| format!("protocol {number}"));
    let length = packet.length.map(|length| format!("len {length}"));
    let words =
        [&packet.transport, &protocol, &packet.flags, &packet.service, &length, &folded(packet)];
    for word in words.into_iter().flatten().filter(|word| !word.is_empty()) {
        let _ = write!(line, " {}", visible(word));
    }
    if packet.looks_like_reply {
        line.push_str(" (looks like a reply)");
    }
    line
}

/// Describes what a record summarizes; none if it is a single frame.
fn folded(packet: &Packet) -> Option<String> {
    let about = format!("about {}", counted(packet.packets, "frame"));
    let estimated = packet.packets > packet.count;
    if packet.count <= 1 {
        return estimated.then(|| format!("({about})"));
    }
    let at = |time: &Option<String>| -> Option<SystemTime> {
        humantime::parse_rfc3339(time.as_deref()?).ok()
    };
    let lasted = at(&packet.last).zip(at(&packet.first));
    let lasted = lasted.and_then(|(last, first)| last.duration_since(first).ok());
    let lasted = lasted.map(|lasted| format!(" in {:.1} s", lasted.as_secs_f64()));
    let about = if estimated { format!(", {about},") } else { String::new() };
    Some(format!("(x{}{about}{})", packet.count, lasted.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::events::{
        AuditResult, Interface, InterfaceChange, Lost, Policy, PolicyChange, SCHEMA,
    };

    #[test]
    fn a_command_is_one_line_with_its_caller() {
        let audit = Audit {
            request: "apply".to_owned(),
            arguments: "/etc/c.yaml".to_owned(),
            result: AuditResult::Refused,
            text: "no".to_owned(),
            uid: Some(0),
            user: Some("root".to_owned()),
            pid: Some(7),
            command: Some("trainguard".to_owned()),
            login_uid: Some(1000),
            login: Some("ann".to_owned()),
            ..Audit::default()
        };
        assert_eq!(
            line(EventKind::Audit(Box::new(audit))),
            "14:02:11.204 - audit refused apply /etc/c.yaml by root, logged in as ann, `trainguard` \
             (pid 7) no"
        );
        let signal = Audit { request: "reload".to_owned(), ..Audit::default() };
        let line = line(EventKind::Audit(Box::new(signal)));
        assert!(line.contains("by an unknown user"), "{line}");
    }

    fn line(what: EventKind) -> String {
        let event = Event {
            schema: SCHEMA.to_owned(),
            time: Some("2026-01-31T14:02:11.204Z".to_owned()),
            seq: Some(1),
            node: Some("n".to_owned()),
            what,
        };
        compact(&event, false)
    }

    fn packet() -> Packet {
        Packet {
            verdict: "drop".to_owned(),
            reason: "not_allowed".to_owned(),
            service: Some("scheduler".to_owned()),
            source: Some("10.20.48.9".parse().expect("an address")),
            transport: Some("tcp".to_owned()),
            port: Some(9091),
            source_port: Some(51514),
            destination: Some("10.20.4.17".parse().expect("an address")),
            flags: Some("S".to_owned()),
            interface: Some("eth0".to_owned()),
            length: Some(74),
            count: 61,
            packets: 61,
            first: Some("2026-01-31T14:02:10.204Z".to_owned()),
            last: Some("2026-01-31T14:02:11.204Z".to_owned()),
            ..Packet::default()
        }
    }

    #[test]
    fn a_packet_is_one_line() {
        assert_eq!(
            line(EventKind::packet(packet())),
            "14:02:11.204 eth0 DROP not_allowed 10.20.48.9:51514 (not in the manifest) -> \
             10.20.4.17:9091 tcp S scheduler len 74 (x61 in 1.0 s)"
        );
        let estimated =
            Packet { count: 1, packets: 32, source_node: Some("gpu-1".to_owned()), ..packet() };
        let line = line(EventKind::packet(estimated));
        assert!(line.contains("(gpu-1)") && line.ends_with("(about 32 frames)"), "{line}");
        let reply = Packet { count: 1, packets: 1, looks_like_reply: true, ..packet() };
        let line = self::line(EventKind::packet(reply));
        assert!(line.ends_with("len 74 (looks like a reply)"), "{line}");
    }

    #[test]
    fn only_verdicts_are_coloured_and_only_on_request() {
        let coloured = of_packet(&packet(), true);
        assert!(
            coloured.starts_with("\u{1b}[1m\u{1b}[31mDROP\u{1b}[0m not_allowed"),
            "{coloured:?}"
        );
        assert!(!of_packet(&packet(), false).contains('\u{1b}'));
    }

    #[test]
    fn other_kinds_are_one_line_each_and_hostile_names_are_escaped() {
        let policy = Policy {
            what: PolicyChange::InForce,
            generation: 5,
            policy_hash: "0123456789abcdef".to_owned(),
            ..Policy::default()
        };
        assert_eq!(
            line(EventKind::Policy(policy)),
            "14:02:11.204 - policy in force generation 5 0123456789ab"
        );
        let lost = Lost { text: "7 refused frames were not sampled".to_owned(), ..Lost::default() };
        assert_eq!(
            line(EventKind::Lost(lost)),
            "14:02:11.204 - lost 7 refused frames were not sampled"
        );
        let hostile = "\u{1b}[2J\u{202e}\nx";
        for what in [
            EventKind::packet(Packet {
                source_node: Some(hostile.to_owned()),
                interface: Some(hostile.to_owned()),
                service: Some(hostile.to_owned()),
                reason: hostile.to_owned(),
                verdict: hostile.to_owned(),
                transport: Some(hostile.to_owned()),
                flags: Some(hostile.to_owned()),
                ..packet()
            }),
            EventKind::Interface(Interface {
                what: InterfaceChange::Unknown,
                interface: hostile.to_owned(),
                text: hostile.to_owned(),
            }),
            EventKind::Policy(Policy {
                what: PolicyChange::Unknown,
                policy_hash: hostile.to_owned(),
                text: hostile.to_owned(),
                ..Policy::default()
            }),
            EventKind::Audit(Box::new(Audit {
                request: hostile.to_owned(),
                arguments: hostile.to_owned(),
                text: hostile.to_owned(),
                uid: Some(1),
                user: Some(hostile.to_owned()),
                login_uid: Some(2),
                login: Some(hostile.to_owned()),
                command: Some(hostile.to_owned()),
                ..Audit::default()
            })),
            EventKind::Lost(Lost { text: hostile.to_owned(), ..Lost::default() }),
        ] {
            let line = line(what);
            assert!(!line.contains(['\u{1b}', '\u{202e}', '\n']), "{line:?}");
        }
    }
}
