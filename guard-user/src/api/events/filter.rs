//! Filters for events. Values of one kind are alternatives, and different kinds must all match. A
//! value with the prefix `!` excludes what it matches.

use std::net::IpAddr;

use guard_common::{
    Addr,
    verdict::{Action, Reason},
};

use super::{Event, EventKind, Packet};
use crate::policy::{
    nearest,
    resolve::provenance,
    syntax::{
        scalars::{Cidr, PortRange},
        text::shown,
    },
};

/// A value of a filter, with or without the prefix `!`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterValue<T> {
    value: T,
    /// Whether the value excludes what it matches.
    not: bool,
}

/// The source of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An address.
    Address(IpAddr),
    /// The addresses of a prefix.
    Prefix(Cidr),
    /// A node of the manifest, by its name.
    Node(String),
    /// Any address that belongs to no node of the manifest.
    Unknown,
}

/// A filter for events. An empty filter selects all events.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Sources of packets.
    pub sources: Vec<FilterValue<Source>>,
    /// Names of services, as `service` or `policy/service`.
    pub services: Vec<FilterValue<String>>,
    /// Reasons.
    pub reasons: Vec<FilterValue<Reason>>,
    /// Verdicts.
    pub verdicts: Vec<FilterValue<Action>>,
    /// Names of interfaces.
    pub interfaces: Vec<FilterValue<String>>,
    /// Destination ports with their transport.
    pub ports: Vec<FilterValue<PortRange>>,
    /// Kinds of events: values of [`KINDS`].
    pub kinds: Vec<FilterValue<&'static str>>,
}

/// The kinds of events, as [`EventKind::kind`] returns them.
pub const KINDS: [&str; 5] = ["packet", "policy", "interface", "audit", "lost"];

fn parse_value<T>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<FilterValue<T>, String> {
    let (not, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    Ok(FilterValue { value: parse(text)?, not })
}

/// Parses a source: an address, a prefix, the name of a node, or `unknown`.
///
/// # Errors
/// The text is none of these.
pub fn source(text: &str) -> Result<FilterValue<Source>, String> {
    parse_value(text, |text| {
        if text == "unknown" {
            return Ok(Source::Unknown);
        }
        if let Ok(address) = text.parse() {
            return Ok(Source::Address(address));
        }
        if text.contains('/') {
            return text.parse().map(Source::Prefix);
        }
        let is_address =
            text.contains(':') || text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if is_address || !is_name(text) {
            let shown = shown(text);
            return Err(format!(
                "`{shown}` is not a source: expected an address, a prefix, the name of a node, or \
                 `unknown`"
            ));
        }
        Ok(Source::Node(text.to_owned()))
    })
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}

/// Parses the name of a service.
///
/// # Errors
/// The text has a character that no name of a service has.
pub fn service(text: &str) -> Result<FilterValue<String>, String> {
    parse_value(text, |text| {
        let is_name = is_name(text);
        is_name
            .then(|| text.to_owned())
            .ok_or_else(|| format!("`{}` cannot be the name of a service", shown(text)))
    })
}

/// Parses the name of an interface.
///
/// # Errors
/// The text is empty.
pub fn interface(text: &str) -> Result<FilterValue<String>, String> {
    parse_value(text, |text| match text {
        "" => Err("expected the name of an interface".to_owned()),
        name => Ok(name.to_owned()),
    })
}

/// Parses a reason for refusing a packet.
///
/// # Errors
/// There is no such reason. The message suggests a similar one.
pub fn reason(text: &str) -> Result<FilterValue<Reason>, String> {
    let refusals = || Reason::ALL.into_iter().filter(|reason| reason.is_refusal());
    parse_value(text, |text| {
        refusals().find(|reason| reason.name() == text).ok_or_else(|| {
            unknown(
                "reason to refuse a packet",
                text,
                &refusals().map(Reason::name).collect::<Vec<_>>(),
            )
        })
    })
}

/// Parses a verdict: `drop` or `would-drop`.
///
/// # Errors
/// The text is neither.
pub fn verdict(text: &str) -> Result<FilterValue<Action>, String> {
    let refusals = [Action::Drop, Action::WouldDrop];
    parse_value(text, |text| {
        let found = refusals.into_iter().find(|action| action.name() == text);
        found.ok_or_else(|| unknown("verdict", text, &refusals.map(Action::name)))
    })
}

/// Parses a kind of event: one of [`KINDS`].
///
/// # Errors
/// There is no such kind.
pub fn kind(text: &str) -> Result<FilterValue<&'static str>, String> {
    parse_value(text, |text| {
        let found = KINDS.into_iter().find(|kind| *kind == text);
        found.ok_or_else(|| unknown("kind of event", text, &KINDS))
    })
}

/// Parses ports as policies write them, such as `tcp/9091` or `udp/any`.
///
/// # Errors
/// The text is not a transport with ports. The message has what was expected.
pub fn port(text: &str) -> Result<FilterValue<PortRange>, String> {
    parse_value(text, str::parse)
}

/// Describes an unknown value, with a suggestion and all known values.
fn unknown(what: &str, text: &str, known: &[&str]) -> String {
    let suggestion = nearest(text, known.iter().copied())
        .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    format!("`{}` is not a {what}{suggestion} (known: {})", shown(text), known.join(", "))
}

/// Reports whether the values of one kind select an event: at least one value without `!` matches, if
/// there are such values, and no value with `!` matches.
fn values_select<T>(values: &[FilterValue<T>], matches: impl Fn(&T) -> bool) -> bool {
    let (not, only): (Vec<_>, Vec<_>) = values.iter().partition(|value| value.not);
    (only.is_empty() || only.iter().any(|value| matches(&value.value)))
        && !not.iter().any(|value| matches(&value.value))
}

impl Filter {
    /// Reports whether the filter selects an event. Events of the kind `lost` are always selected,
    /// except with `!lost`: without them, lost events would look like a quiet network.
    pub fn selects(&self, event: &Event) -> bool {
        let kind = event.what.kind();
        if let EventKind::Lost(_) = event.what {
            return !self.kinds.iter().any(|value| value.not && value.value == kind);
        }
        let packet = match &event.what {
            EventKind::Packet(packet) => Some(packet),
            _ => None,
        };
        let interface = match &event.what {
            EventKind::Packet(packet) => packet.interface.as_deref(),
            EventKind::Interface(interface) => Some(interface.interface.as_str()),
            _ => None,
        };
        values_select(&self.kinds, |value| *value == kind)
            && values_select(&self.sources, |value| {
                packet.is_some_and(|packet| is_from(value, packet))
            })
            && values_select(&self.services, |value| {
                packet.is_some_and(|packet| is_of(value, packet))
            })
            && values_select(&self.reasons, |value| {
                packet.is_some_and(|p| p.reason == value.name())
            })
            && values_select(&self.verdicts, |value| {
                packet.is_some_and(|p| p.verdict == value.name())
            })
            && values_select(&self.interfaces, |value| interface == Some(value))
            && values_select(&self.ports, |value| {
                packet.is_some_and(|packet| is_to(*value, packet))
            })
    }
}

fn is_from(source: &Source, packet: &Packet) -> bool {
    match source {
        Source::Address(address) => packet.source == Some(*address),
        Source::Prefix(prefix) => {
            packet.source.is_some_and(|source| provenance::holds(prefix, &Addr::from(source)))
        }
        Source::Node(name) => packet.source_node.as_deref() == Some(name),
        Source::Unknown => packet.source_node.is_none(),
    }
}

fn is_of(service: &str, packet: &Packet) -> bool {
    let Some(name) = &packet.service else { return false };
    name == service || name.split_once('/').is_some_and(|(_, own)| own == service)
}

fn is_to(ports: PortRange, packet: &Packet) -> bool {
    packet.transport.as_deref() == Some(ports.transport.name())
        && packet.port.is_some_and(|port| (ports.first..=ports.last).contains(&port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::events::{Interface, Lost, Policy, SCHEMA};

    fn event(what: EventKind) -> Event {
        Event { schema: SCHEMA.to_owned(), time: None, seq: None, node: None, what }
    }

    fn packet() -> impl Strategy<Value = EventKind> {
        let source = prop_oneof![
            Just(None),
            Just(Some(("10.0.0.7", None))),
            Just(Some(("10.0.1.7", Some("gpu-1")))),
            Just(Some(("fd00::7", Some("gpu-2")))),
        ];
        let reasons = prop_oneof![Just("not_allowed"), Just("martian")];
        let verdicts = prop_oneof![Just("drop"), Just("would-drop")];
        let services = prop_oneof![Just(None), Just(Some("a")), Just(Some("p/a"))];
        let ports = prop_oneof![Just(None), Just(Some(("tcp", 22))), Just(Some(("udp", 22)))];
        (source, reasons, verdicts, services, ports).prop_map(
            |(source, reason, verdict, service, port)| {
                EventKind::packet(Packet {
                    verdict: verdict.to_owned(),
                    reason: reason.to_owned(),
                    service: service.map(str::to_owned),
                    source: source.map(|(addr, _)| addr.parse().expect("an address")),
                    source_node: source.and_then(|(_, node)| node.map(str::to_owned)),
                    transport: port.map(|(transport, _)| transport.to_owned()),
                    port: port.map(|(_, port)| port),
                    interface: Some("eth0".to_owned()),
                    count: 1,
                    packets: 1,
                    ..Packet::default()
                })
            },
        )
    }

    fn what() -> impl Strategy<Value = EventKind> {
        prop_oneof![
            4 => packet(),
            1 => Just(EventKind::Policy(Policy::default())),
            1 => Just(EventKind::Interface(Interface { interface: "eth1".to_owned(), ..Interface::default() })),
        ]
    }

    /// Returns a filter with one value of one kind; see [`VALUES`] for the numbers.
    fn filter_with(flag: usize, value: &str) -> Filter {
        let mut filter = Filter::default();
        match flag {
            0 => filter.sources.push(source(value).expect("a source")),
            1 => filter.services.push(service(value).expect("a service")),
            2 => filter.reasons.push(reason(value).expect("a reason")),
            3 => filter.verdicts.push(verdict(value).expect("a verdict")),
            4 => filter.interfaces.push(interface(value).expect("an interface")),
            5 => filter.ports.push(port(value).expect("a port")),
            _ => filter.kinds.push(kind(value).expect("a kind")),
        }
        filter
    }

    /// Values of filters, with the number of their kind.
    const VALUES: [(usize, &str); 17] = [
        (0, "10.0.0.7"),
        (0, "10.0.0.0/16"),
        (0, "fd00::/64"),
        (0, "gpu-1"),
        (0, "unknown"),
        (1, "a"),
        (1, "p/a"),
        (2, "not_allowed"),
        (2, "martian"),
        (3, "drop"),
        (3, "would-drop"),
        (4, "eth0"),
        (5, "tcp/22"),
        (5, "udp/any"),
        (6, "packet"),
        (6, "policy"),
        (6, "interface"),
    ];

    proptest! {
        #[test]
        fn a_value_and_its_negation_select_complementary_events(at in 0..VALUES.len(), what in what()) {
            let (flag, value) = VALUES[at];
            let event = event(what);
            let (with, without) = (filter_with(flag, value), filter_with(flag, &format!("!{value}")));
            prop_assert!(with.selects(&event) != without.selects(&event));
        }

        #[test]
        fn values_of_one_flag_are_alternatives_and_flags_restrict(
            one in 0..VALUES.len(), two in 0..VALUES.len(), what in what(),
        ) {
            let ((flag, value), (other_flag, other_value)) = (VALUES[one], VALUES[two]);
            let event = event(what);
            let (first, second) = (filter_with(flag, value), filter_with(other_flag, other_value));
            let both = Filter {
                sources: [first.sources.clone(), second.sources.clone()].concat(),
                services: [first.services.clone(), second.services.clone()].concat(),
                reasons: [first.reasons.clone(), second.reasons.clone()].concat(),
                verdicts: [first.verdicts.clone(), second.verdicts.clone()].concat(),
                interfaces: [first.interfaces.clone(), second.interfaces.clone()].concat(),
                ports: [first.ports.clone(), second.ports.clone()].concat(),
                kinds: [first.kinds.clone(), second.kinds.clone()].concat(),
            };
            let expected = if flag == other_flag {
                first.selects(&event) || second.selects(&event)
            } else {
                first.selects(&event) && second.selects(&event)
            };
            prop_assert_eq!(both.selects(&event), expected);
        }
    }

    #[test]
    fn lost_events_are_shown_unless_excluded() {
        let lost = event(EventKind::Lost(Lost::default()));
        for (flag, value) in VALUES {
            assert!(filter_with(flag, value).selects(&lost), "{value}");
        }
        assert!(!filter_with(6, "!lost").selects(&lost));
    }

    #[test]
    fn invalid_values_are_refused_and_a_similar_one_is_suggested() {
        let error = reason("not_alowed").expect_err("no reason");
        assert!(error.contains("did you mean `not_allowed`?"), "{error}");
        // No packet is refused for this reason.
        assert!(reason("allowed").is_err());
        for bad in
            ["", "!", "10.0.0.300", "10.0.0.0/33", "10.0.0.1/8", "fd00::/129", "a b", "\u{1b}"]
        {
            assert!(source(bad).is_err(), "{bad}");
        }
        assert!(verdict("pass").is_err());
        assert!(kind("packets").expect_err("no kind").contains("`packet`"));
        for bad in ["9091", "tcp/0", "tcp/70000", "icmp/1", "tcp/9-1"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }
}
