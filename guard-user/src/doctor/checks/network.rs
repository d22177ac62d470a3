//! Checks of the network settings, and of listening sockets.

use super::{Check, State, listed};
use crate::doctor::facts::{Interface, MachineFacts, MaybeHidden, ServicePorts};

pub(super) fn all(facts: &MachineFacts) -> Vec<Check> {
    let mut checks = vec![syncookies(facts), reverse_path(facts), route_localnet(facts)];
    checks.extend(port_range(facts));
    checks.extend(open_ports(facts));
    checks.push(root_services(facts));
    checks
}

fn syncookies(facts: &MachineFacts) -> Check {
    const ID: &str = "syncookies";
    match &facts.network.syncookies {
        MaybeHidden::Known(0) => {
            Check::new(ID, State::Warning, "SYN cookies are off (tcp_syncookies = 0)")
                .why(
                    "forged SYNs from a member's address can fill the queue of a listening port. With \
                     cookies on, no segment with a guessed cookie opens a connection for a source that \
                     is not allowed: the guard refuses what would reach a listening socket",
                )
                .fix("sysctl -w net.ipv4.tcp_syncookies=1")
        }
        MaybeHidden::Known(_) => Check::ok(
            ID,
            "SYN cookies are on; a guessed one opens no connection for a source that is not allowed",
        ),
        MaybeHidden::Hidden(why) => Check::new(ID, State::Note, format!("not visible: {why}")),
    }
}

/// Returns the interfaces whose effective setting is `wanted`. The kernel uses the larger one of
/// the interface's own value and that of `all`.
fn with<'a>(
    facts: &'a MachineFacts,
    all: &MaybeHidden<i64>,
    own: impl Fn(&Interface) -> &MaybeHidden<i64>,
    wanted: i64,
) -> Vec<&'a str> {
    let all = all.known().copied().unwrap_or(0);
    let is = |interface: &&Interface| {
        own(interface).known().is_some_and(|own| (*own).max(all) == wanted)
    };
    facts.interfaces.iter().filter(is).map(|interface| interface.name.as_str()).collect()
}

fn reverse_path(facts: &MachineFacts) -> Check {
    const ID: &str = "rp-filter";
    let of = |value| with(facts, &facts.network.rp_filter, |interface| &interface.rp_filter, value);
    let (off, loose) = (of(0), of(2));
    let fix = "sysctl -w net.ipv4.conf.all.rp_filter=1  # not with asymmetric routes";
    if !off.is_empty() {
        return Check::new(ID, State::Warning, format!("off on {}", listed(&off)))
            .why(
                "packets of a source are accepted on any interface: an attacker in one network can forge \
                  the address of a member in another",
            )
            .fix(fix);
    }
    if !loose.is_empty() {
        return Check::new(ID, State::Note, format!("loose on {}", listed(&loose)))
            .why("packets of a source are accepted on any interface if there is some route to it: the \
                  address of a member can be forged from the network of another interface")
            .fix(fix);
    }
    if let MaybeHidden::Hidden(why) = &facts.network.rp_filter {
        return Check::new(ID, State::Note, format!("not visible: {why}"));
    }
    Check::ok(ID, "packets of a source are accepted only on the interface of the route to it")
}

fn route_localnet(facts: &MachineFacts) -> Check {
    const ID: &str = "route-localnet";
    let own = |interface: &Interface| interface.route_localnet.known() == Some(&1);
    let mut on: Vec<&str> = facts
        .interfaces
        .iter()
        .filter(|i| own(i))
        .map(|interface| interface.name.as_str())
        .collect();
    if facts.network.route_localnet.known() == Some(&1) {
        on = vec!["all"];
    }
    if on.is_empty() {
        return match &facts.network.route_localnet {
            MaybeHidden::Known(_) => Check::ok(ID, "127.0.0.0/8 is not reachable from the network"),
            MaybeHidden::Hidden(why) => Check::new(ID, State::Note, format!("not visible: {why}")),
        };
    }
    Check::new(ID, State::Warning, format!("on for {}", listed(&on)))
        .why(
            "hosts on the same link reach services that listen on 127.0.0.1, on ports that policies \
              usually do not name",
        )
        .fix(
            "sysctl -w net.ipv4.conf.all.route_localnet=0, and for each interface; some CNI and \
              kube-proxy setups need it: then guard those ports",
        )
}

/// Checks for service ports in the kernel's ephemeral range, which the kernel may give to other
/// sockets. A service whose ports include the whole range is intended, and not reported.
fn port_range(facts: &MachineFacts) -> Option<Check> {
    const ID: &str = "port-range";
    let policy = facts.policy.as_ref()?;
    let (first, last) = match &facts.network.ephemeral {
        MaybeHidden::Known(range) => *range,
        MaybeHidden::Hidden(why) => {
            return Some(Check::new(ID, State::Note, format!("not visible: {why}")));
        }
    };
    let reserved = facts.network.reserved.known().map(Vec::as_slice).unwrap_or_default();
    let overlaps = |ports: &&ServicePorts| {
        let (from, to) = (ports.first.max(first), ports.last.min(last));
        let whole = ports.first <= first && ports.last >= last;
        let kept = reserved.iter().any(|(low, high)| *low <= from && to <= *high);
        ports.transport != "sctp" && from <= to && !whole && !kept
    };
    let overlapping: Vec<&ServicePorts> = policy.ports.iter().filter(overlaps).collect();
    if overlapping.is_empty() {
        return Some(Check::ok(
            ID,
            format!("no service has a port in the ephemeral range {first}-{last}"),
        ));
    }
    let range = |ports: &ServicePorts| {
        if ports.first == ports.last {
            ports.first.to_string()
        } else {
            format!("{}-{}", ports.first, ports.last)
        }
    };
    let named: Vec<String> = overlapping
        .iter()
        .map(|ports| format!("{} ({}/{})", ports.service, ports.transport, range(ports)))
        .collect();
    let mut keep: Vec<String> = reserved
        .iter()
        .map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") })
        .collect();
    keep.extend(overlapping.iter().map(|ports| range(ports)));
    keep.dedup();
    let found = format!("in the ephemeral range {first}-{last}: {}", listed(&named));
    Some(
        Check::new(ID, State::Warning, found)
            .why(
                "the kernel may assign the port to another program first; ps-lite then listens on a \
                  random port without a message",
            )
            .fix(format!("sysctl -w net.ipv4.ip_local_reserved_ports={}", keep.join(","))),
    )
}

fn open_ports(facts: &MachineFacts) -> Option<Check> {
    const ID: &str = "open-ports";
    let open = &facts.open_ports;
    if let Some(problem) = &open.problem {
        return Some(Check::new(ID, State::Note, problem.as_str()));
    }
    facts
        .policy
        .as_ref()
        .and_then(|policy| policy.node.as_ref())
        .or_else(|| facts.daemon.known().map(|status| &status.node))?;
    if open.ports.is_empty() {
        let found = "every listening port of this network namespace is guarded";
        return Some(Check::ok(ID, found));
    }
    let mut names: Vec<String> = open
        .ports
        .iter()
        .map(|port| match &port.command {
            Some(command) => format!("{} ({command})", port.port),
            None => port.port.clone(),
        })
        .collect();
    names.extend((open.more > 0).then(|| format!("{} more", open.more)));
    Some(
        Check::new(
            ID,
            State::Note,
            format!(
                "listening in this network namespace, but no service guards them: {}",
                listed(&names)
            ),
        )
        .why("trainguard does not restrict access to them")
        .fix("add a service to the policy for each port that only members need"),
    )
}

fn root_services(facts: &MachineFacts) -> Check {
    const ID: &str = "root-services";
    if facts.root_services.is_empty() {
        return Check::ok(ID, "no visible process of a training framework listens as root");
    }
    let named: Vec<String> = facts
        .root_services
        .iter()
        .map(|service| format!("{} ({})", service.port, service.command))
        .collect();
    Check::new(ID, State::Warning, format!("listening as root: {}", listed(&named)))
        .why(
            "the name is that of a training framework; these execute code that a peer sends, so a \
              peer gets root on this machine",
        )
        .fix("run jobs as an unprivileged user: the guard does not protect against members")
}
