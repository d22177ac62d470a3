//! Checks of what is for this node: forwarding, address translation, and replies that meet guarded
//! ports.

use super::{Check, State, listed, quoted};
use crate::{
    api::status::ServiceStatus,
    doctor::facts::{MachineFacts, ServicePorts},
    text::counted,
};

/// First port of those that NAT gives to connections without a free port of their own
/// (`nf_nat_l4proto_unique_tuple`, `net/netfilter/nf_nat_core.c`).
const FIRST_NAT_PORT: u16 = 1024;
/// Number of ports from which on a range is likely to meet the source ports of clients.
const WIDE: u16 = 64;

pub(super) fn all(facts: &MachineFacts) -> Vec<Check> {
    let mut checks = vec![forwarding(facts)];
    checks.extend(mixed_forwarding(facts));
    checks.extend(masquerade(facts));
    checks.extend(published_ports(facts));
    checks.extend(udp_replies(facts));
    checks.extend(bound_listeners(facts));
    checks
}

/// Returns the families that the node forwards, as in `IPv4 and IPv6`; none if it forwards nothing.
fn families(facts: &MachineFacts) -> Option<&'static str> {
    match (facts.traffic.forwards_ipv4, facts.traffic.forwards_ipv6) {
        (true, true) => Some("IPv4 and IPv6"),
        (true, false) => Some("IPv4"),
        (false, true) => Some("IPv6"),
        (false, false) => None,
    }
}

fn forwarding(facts: &MachineFacts) -> Check {
    const ID: &str = "forwarding";
    let traffic = &facts.traffic;
    let Some(families) = families(facts) else {
        return Check::ok(ID, "the node forwards nothing: all packets are for it");
    };
    if !traffic.obstacles.is_empty() {
        let found = format!(
            "the node forwards {families}, but no packet counts as forwarded: {}",
            listed(&traffic.obstacles)
        );
        return Check::new(ID, State::Warning, found)
            .why(
                "such a rule delivers to this node what its routes would send on, and the kernel's route \
                 look-up knows neither marks nor netfilter; so that nothing gets in by it, services also \
                 judge what the node forwards for containers, virtual machines and other hosts",
            )
            .fix(
                "allow these networks in the services, leave their ports out of `ports`, or do without \
                 the rule",
            );
    }
    let passed = facts.daemon.known().map(|status| passed(&status.services)).unwrap_or_default();
    let found =
        format!("the node forwards {families}: services judge only packets for the node{passed}");
    let not_read = if traffic.incomplete.is_empty() {
        String::new()
    } else {
        format!("; not read: {}", listed(&traffic.incomplete))
    };
    Check::new(ID, State::Note, found)
        .why(format!(
            "packets that it sends on, to containers, virtual machines and other hosts, pass and count \
             as `forwarded`{not_read}"
        ))
        .fix("write `forwarded: guard` in a service that guards what is behind this node, too")
}

/// Describes the forwarded packets of the services, to be appended.
fn passed(services: &[ServiceStatus]) -> String {
    let named: Vec<String> = services
        .iter()
        .filter(|service| service.forwarded_packets > 0)
        .map(|service| {
            let packets = counted(service.forwarded_packets, "packet");
            format!("{packets} past {}", service.name)
        })
        .collect();
    if named.is_empty() { String::new() } else { format!("; passed so far: {}", listed(&named)) }
}

fn mixed_forwarding(facts: &MachineFacts) -> Option<Check> {
    const ID: &str = "ipv6-forwarding";
    let mixed = &facts.traffic.mixed_ipv6;
    let first = mixed.first()?;
    let names = listed(mixed);
    if !facts.traffic.forwards_ipv6 {
        return Some(
            Check::new(ID, State::Note, format!("on for {names}, but off for `all`"))
                .why("the kernel forwards IPv6 only with `all`: nothing counts as forwarded")
                .fix("sysctl -w net.ipv6.conf.all.forwarding=1  # if the node should forward IPv6"),
        );
    }
    Some(
        Check::new(ID, State::Warning, format!("on, but with another setting on {names}"))
            .why(
                "the kernel forwards by the setting of `all`, and its route look-up asks that of the \
                 interface: services also judge IPv6 packets that arrive there and are sent on",
            )
            .fix(format!("sysctl -w net.ipv6.conf.{}.forwarding=1", quoted(first))),
    )
}

/// Returns the services with wide ranges in which a client's source port may lie, each with its range.
fn wide(facts: &MachineFacts, is_meant: impl Fn(&ServicePorts) -> bool) -> Vec<String> {
    let policy = facts.policy.iter();
    let ports = policy.flat_map(|policy| &policy.ports).filter(|ports| {
        let first = ports.first.max(FIRST_NAT_PORT);
        is_meant(ports) && ports.last.checked_sub(first).is_some_and(|more| more >= WIDE)
    });
    ports.map(|it| format!("{} ({}/{}-{})", it.service, it.transport, it.first, it.last)).collect()
}

fn masquerade(facts: &MachineFacts) -> Option<Check> {
    const ID: &str = "nat-replies";
    if !facts.traffic.masquerade {
        return None;
    }
    let wide = wide(facts, |ports| ports.every_packet && ports.transport != "sctp");
    if wide.is_empty() {
        let found = "the node translates source addresses; no service with `match: all` has a wide \
                     range of ports";
        return Some(Check::ok(ID, found));
    }
    let found = format!(
        "the node translates source addresses, and every packet to a wide range is judged: {}",
        listed(&wide)
    );
    Some(
        Check::new(ID, State::Warning, found)
            .why(
                "replies to connections of containers and virtual machines come back to a port of this \
                 node that NAT has chosen, and no socket here owns them; in such a range they are \
                 refused unless their sender is allowed",
            )
            .fix(
                "use `match: new-connections` for wide TCP ranges; for UDP, name the ports, or allow the \
                 servers that containers ask",
            ),
    )
}

fn published_ports(facts: &MachineFacts) -> Option<Check> {
    const ID: &str = "published-ports";
    if !facts.traffic.dnat {
        return None;
    }
    Some(
        Check::new(ID, State::Note, "rules translate destinations (DNAT): ports are published")
            .why(
                "the guard sees a packet before its destination changes: it is judged by the port that it \
                 was sent to, so a published port that no service guards leads past the services of the \
                 port behind it",
            )
            .fix("name published ports in `ports` of a service, too; `nft list ruleset` shows them"),
    )
}

fn udp_replies(facts: &MachineFacts) -> Option<Check> {
    const ID: &str = "udp-replies";
    let (first, last) = facts.network.ephemeral.known().copied()?;
    let wide = wide(facts, |ports| {
        ports.transport == "udp" && ports.first.max(first) <= ports.last.min(last)
    });
    if wide.is_empty() {
        return None;
    }
    let found = format!("UDP ranges that meet the source ports of this node: {}", listed(&wide));
    Some(
        Check::new(ID, State::Note, found)
            .why(
                "an answer to a UDP socket of this node passes only if the socket is connected to its \
                 sender; those to others, such as some resolvers and NTP daemons, are refused unless the \
                 sender is allowed. UDP ports 67, 68, 123, 546 and 547 are guarded only if a service \
                 names them by themselves",
            )
            .fix("allow the resolvers and time servers in these services, or name fewer ports"),
    )
}

fn bound_listeners(facts: &MachineFacts) -> Option<Check> {
    const ID: &str = "bound-listeners";
    let listeners = &facts.traffic.bound_listeners;
    if listeners.is_empty() {
        return None;
    }
    let found = format!("bound to a device on top of a guarded one: {}", listed(listeners));
    Some(
        Check::new(ID, State::Note, found)
            .why(
                "the guard cannot see from the lower device which socket owns a segment; at these ports \
                 `match: new-connections` also refuses segments in the middle of connections from \
                 sources that are not allowed",
            )
            .fix("bind them to an address instead of the device, or guard the upper device"),
    )
}
