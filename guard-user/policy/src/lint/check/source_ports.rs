//! Finds services with `match: all` on ports that are source ports of other connections, to which
//! replies come back.

use guard_common::port_table::Transport;

use crate::{
    compile::ports::PortClaim,
    syntax::{
        diagnostic::{At, Diagnostic, Report, Severity},
        document::{Match, ServiceDoc},
        rules,
        scalars::PortRange,
    },
};

/// The range from which Linux chooses source ports, and ports for sockets bound to port 0
/// (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: (u16, u16) = (32768, 60999);
/// The range from which resolvers and NAT (`nf_nat_l4proto_unique_tuple`, `net/netfilter/nf_nat_core.c`)
/// choose source ports.
const UNPRIVILEGED: (u16, u16) = (1024, u16::MAX);
/// Number of UDP ports from which a range is reported: one of 600 answers to a resolver meets it.
const MANY_UDP: u16 = 100;
/// Number of TCP ports from which a range is reported. Larger, because NAT keeps the source port of a
/// connection if it can.
const MANY_TCP: u16 = 1000;

pub(super) fn check(out: &mut Report, service: &ServiceDoc, claims: &[PortClaim]) {
    if service.matching.value != Match::All {
        return;
    }
    for port in &service.ports {
        let meets = |(first, last): (u16, u16)| {
            claims.iter().any(|claim| {
                let met = claim.range.intersect(&port.value);
                met.is_some_and(|met| met.first <= last && met.last >= first)
            })
        };
        if meets(EPHEMERAL) {
            ephemeral(out, service, port);
        } else if service.allow.any.is_none() && meets(UNPRIVILEGED) {
            source_ports(out, service, port);
        }
    }
}

fn ephemeral(out: &mut Report, service: &ServiceDoc, port: &At<PortRange>) {
    let (first, last) = EPHEMERAL;
    let message = format!(
        "`{}` overlaps the ephemeral ports {first}-{last}: `match: all` would drop replies to the \
         node's own connections",
        port.value
    );
    let help = if port.value.transport == Transport::Tcp {
        "write `match: new-connections`, or pin the ports outside that range"
    } else {
        "pin the ports outside that range"
    };
    out.push(
        Diagnostic::error(rules::EPHEMERAL, port.place, message)
            .related(service.matching.place, "every packet")
            .help(help),
    );
}

fn source_ports(out: &mut Report, service: &ServiceDoc, port: &At<PortRange>) {
    let range = port.value;
    let (message, help) = match range.transport {
        Transport::Tcp if range.width() >= MANY_TCP - 1 => (
            format!(
                "NAT may take source ports from `{range}`: `match: all` would drop replies to \
                 connections of containers and virtual machines behind this node"
            ),
            "write `match: new-connections`, which refuses unlisted sources as well",
        ),
        Transport::Udp if range.width() >= MANY_UDP - 1 => (
            format!(
                "resolvers and NAT may take source ports from `{range}`: `match: all` would drop \
                 answers of unlisted hosts, unless the socket is connected"
            ),
            "make the range as small as possible, keep resolvers out of it \
             (`outgoing-port-avoid` of unbound, `avoid-v4-udp-ports` of BIND), or admit the hosts \
             that answer",
        ),
        _ => return,
    };
    out.push(
        Diagnostic::new(Severity::Info, rules::SOURCE_PORTS, port.place, message)
            .related(service.matching.place, "every packet")
            .help(help),
    );
}
