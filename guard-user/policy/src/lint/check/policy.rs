//! Checks a policy by itself.

use std::{cmp::Reverse, collections::BTreeMap};

use guard_common::port_table::Transport;

use super::{claims::claims_of, source_ports};
use crate::{
    compile::source_table::ends,
    lint::fix,
    syntax::{
        diagnostic::{At, Diagnostic, Location, Report, Severity},
        document::{Match, Mode, PolicyDoc, ServiceDoc},
        rules,
        scalars::{Cidr, MAX_NAME, PortRange},
    },
};

/// Checks a policy by itself.
pub(crate) fn policy(out: &mut Report, doc: &PolicyDoc) {
    let mut names: BTreeMap<&str, Location> = BTreeMap::new();
    for service in &doc.services {
        let name = &service.name;
        if let Some(first) = names.get(name.value.as_str()) {
            let message = format!("the service name `{}` is used twice", name.value);
            out.push(
                Diagnostic::error(rules::DUPLICATE_NAME, name.place, message)
                    .related(*first, "first used here"),
            );
        }
        names.entry(&name.value).or_insert(name.place);
        let bytes = doc.name.value.len() + 1 + name.value.len();
        if bytes > MAX_NAME {
            let message = format!(
                "`{}/{}` has {bytes} bytes, at most {MAX_NAME} fit",
                doc.name.value, name.value
            );
            out.push(Diagnostic::error(rules::NAME, name.place, message));
        }
        check_service(out, service);
    }
}

fn check_service(out: &mut Report, service: &ServiceDoc) {
    let tcp = |port: &At<PortRange>| port.value.transport == Transport::Tcp;
    if service.matching.value == Match::NewConnections {
        for port in service.ports.iter().filter(|port| !tcp(port)) {
            let message = format!(
                "`{}` is not TCP, and `match: new-connections` applies to TCP only",
                port.value
            );
            out.push(
                Diagnostic::error(rules::CONTRADICTION, port.place, message)
                    .related(service.matching.place, "new connections only")
                    .help("put these ports into a service with `match: all`"),
            );
        }
    }
    if !service.ports.iter().any(tcp) {
        let limits = [&service.per_source, &service.total];
        for limit in limits.into_iter().filter_map(|l| l.new_connections.as_ref()) {
            let message = "a limit on new connections at a service without TCP ports";
            out.push(
                Diagnostic::error(rules::CONTRADICTION, limit.place, message)
                    .help("limit `packets` or `bytes` instead"),
            );
        }
    }
    for hole in &service.except {
        if !service.ports.iter().any(|port| port.value.intersect(&hole.value).is_some()) {
            let message = format!("`{}` is not a port of this service", hole.value);
            let finding = Diagnostic::warning(rules::NO_EFFECT, hole.place, message)
                .help("`except` takes ports out of `ports`; remove it");
            // The last item cannot be removed, because an empty list is an error.
            let fix = fix::removal_of_item(&out.sources, hole.place);
            out.push(match fix {
                Some(place) if service.except.len() > 1 => finding.fix(place, ""),
                _ => finding,
            });
        }
    }
    let claims = claims_of(service);
    // A service with nothing but ports that are left alone has a finding of its own.
    if claims.is_empty() && !service.ports.iter().all(|port| guards_nothing(port.value)) {
        let message = format!("`except` leaves no port of `{}`", service.name.value);
        out.push(Diagnostic::error(rules::NO_EFFECT, service.name.place, message));
    }
    open(out, service);
    left_alone(out, service);
    listed_twice(out, &service.allow.cidrs);
    source_ports::check(out, service, &claims);
    if let Some(limit) = &service.per_source.packets {
        let message = "a limit on the packets of each source stalls training";
        out.push(Diagnostic::warning(rules::PACKET_LIMIT, limit.place, message).help(
            "TCP reads a dropped packet as congestion and slows down far below the limit; \
                 limit `newConnections` instead",
        ));
    }
}

/// Reports an enforcing service that admits every source. With a limit, such a service is a public port
/// with a bound, so it is not reported.
fn open(out: &mut Report, service: &ServiceDoc) {
    let limited = service.per_source.is_some() || service.total.is_some();
    let Some(any) = service.allow.any.filter(|_| service.mode == Mode::Enforce && !limited) else {
        return;
    };
    let message = format!(
        "`{}` admits every source and has no limit, so it protects nothing",
        service.name.value
    );
    out.push(Diagnostic::warning(rules::ENFORCES_NOTHING, any, message).help(
        "list the sources to admit (`roles`, `networks`, `cidrs`), or set a limit; a port that is \
         open to every source needs no service",
    ));
}

/// Reports prefixes that another entry of the same list already contains.
pub(crate) fn listed_twice(out: &mut Report, cidrs: &[At<Cidr>]) {
    let mut sorted: Vec<(bool, (u128, u128), &At<Cidr>)> = cidrs
        .iter()
        .map(|cidr| match &cidr.value {
            Cidr::V4(prefix) => (false, ends(prefix), cidr),
            Cidr::V6(prefix) => (true, ends(prefix), cidr),
        })
        .collect();
    // By family and first address, the widest first; equal prefixes in the order in which they are
    // written.
    sorted.sort_by_key(|(six, (first, last), at)| (*six, *first, Reverse(*last), at.place));
    let mut widest: Option<(bool, (u128, u128), &At<Cidr>)> = None;
    for (six, (first, last), at) in sorted {
        match widest {
            Some((of, (_, end), outer)) if of == six && last <= end => {
                let message = format!("`{}` is already in this list", at.value);
                let finding =
                    Diagnostic::new(Severity::Info, rules::LISTED_TWICE, at.place, message)
                        .related(outer.place, "this entry contains it")
                        .help("remove it, or the shorter prefix if that admits too much");
                // Findings beyond the maximum are not shown and need no fix. Finding the ends of an
                // item takes time.
                let fix = (!out.is_full(at.place.file))
                    .then(|| fix::removal_of_item(&out.sources, at.place))
                    .flatten();
                out.push(match fix {
                    Some(place) => finding.fix(place, ""),
                    None => finding,
                });
            }
            _ => widest = Some((six, (first, last), at)),
        }
    }
}

/// Reports whether a range consists of ports that it leaves alone.
fn guards_nothing(range: PortRange) -> bool {
    range.left_alone().count() > usize::from(range.width())
}

/// Reports ranges that contain UDP ports of DHCP or NTP, which ranges leave alone.
fn left_alone(out: &mut Report, service: &ServiceDoc) {
    for port in &service.ports {
        let named = |number: u16| {
            let here = PortRange { first: number, last: number, ..port.value };
            let other = |entry: &At<PortRange>| entry.value == here;
            let hole = |entry: &At<PortRange>| entry.value.intersect(&here).is_some();
            service.ports.iter().any(other) || service.except.iter().any(hole)
        };
        let alone: Vec<(u16, &str)> =
            port.value.left_alone().filter(|(number, _)| !named(*number)).collect();
        let Some((first, _)) = alone.first() else { continue };
        let ports: Vec<String> =
            alone.iter().map(|(number, protocol)| format!("udp/{number} ({protocol})")).collect();
        let ports = ports.join(", ");
        let finding = if guards_nothing(port.value) {
            let message = format!("`{}` guards no port: a range leaves {ports} alone", port.value);
            Diagnostic::warning(rules::LEFT_ALONE, port.place, message)
        } else {
            let message =
                format!("`{}` does not guard {ports}: a range leaves them alone", port.value);
            Diagnostic::new(Severity::Info, rules::LEFT_ALONE, port.place, message)
        };
        out.push(finding.help(format!(
            "to guard such a port, name it by itself: add `udp/{first}` to `ports`; to show that it \
             stays open, add it to `except`"
        )));
    }
}
