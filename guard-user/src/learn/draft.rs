//! Writes services for ports that are not guarded, with the evidence for each line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use guard_common::{Addr, port_table::Transport};

use super::{
    classify::{Disposition, EPHEMERAL, KeptContact, LeftOut},
    connection_tracker::Port,
};
use crate::{
    policy::{Cluster, Node, syntax::scalars::PortRange},
    text::{counted, time},
};

/// Factor between observed and allowed rates, because jobs start all at once, and grow.
const HEADROOM: u64 = 4;
/// Default limit of new connections per source in policies: rate per second, and burst.
const DEFAULT_LIMIT: (u64, u64) = (200, 1000);
/// Maximum number of sources listed per line; further ones are counted.
const MAX_LISTED: usize = 8;

/// Prefix lengths for combining several observed sources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aggregate {
    /// Length of IPv4 prefixes in bits; none for exact hosts.
    pub v4: Option<u8>,
    /// Length of IPv6 prefixes in bits; none for exact hosts.
    pub v6: Option<u8>,
}

/// A proposed service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Name of the service.
    pub name: String,
    /// Ports of the service.
    pub ports: Vec<PortRange>,
    /// Whether only packets that open a connection are evaluated.
    pub opening_only: bool,
    /// Roles that it admits.
    pub roles: BTreeSet<String>,
    /// Prefixes of the sources that are not nodes, for a network with the service's name in the
    /// manifest.
    pub prefixes: BTreeSet<(IpAddr, u8)>,
    /// The contacts that it is based on.
    pub evidence: Vec<KeptContact>,
    /// Number of other nodes that the roles admit, although they were not observed.
    pub unseen: usize,
}

impl Service {
    /// Returns the name and prefixes of its network in the manifest; none if every source is a
    /// node.
    pub fn network(&self) -> Option<(&str, Vec<String>)> {
        let prefixes = self.prefixes.iter().map(|(address, len)| format!("{address}/{len}"));
        (!self.prefixes.is_empty()).then(|| (self.name.as_str(), prefixes.collect()))
    }
}

/// Returns the services for the contacts that need one. Ports with the same sources share a
/// service.
pub fn services(
    kept: &[KeptContact],
    left_out: &[LeftOut],
    cluster: &Cluster,
    aggregate: Aggregate,
) -> Vec<Service> {
    let mut by_port: BTreeMap<Option<Port>, Vec<&KeptContact>> = BTreeMap::new();
    for contact in kept.iter().filter(|contact| contact.disposition == Disposition::Service) {
        // Ports that the kernel assigns change from run to run, so they are one service.
        let random = contact.port.0 == Transport::Tcp && EPHEMERAL.contains(&contact.port.1);
        by_port.entry((!random).then_some(contact.port)).or_default().push(contact);
    }
    let excluded: BTreeSet<Addr> = left_out.iter().map(|left| left.source).collect();
    let mut services: Vec<Service> = Vec::new();
    for (port, contacts) in by_port {
        let service = service(port, &contacts, &excluded, cluster, aggregate);
        let same = services.iter_mut().find(|other| {
            port.is_some()
                && !other.opening_only
                && (&other.roles, &other.prefixes) == (&service.roles, &service.prefixes)
        });
        match same {
            Some(other) => {
                other.ports.extend(service.ports);
                other.evidence.extend(service.evidence);
            }
            None => services.push(service),
        }
    }
    services
}

fn service(
    port: Option<Port>,
    contacts: &[&KeptContact],
    excluded: &BTreeSet<Addr>,
    cluster: &Cluster,
    aggregate: Aggregate,
) -> Service {
    let range = port.map_or(
        PortRange { transport: Transport::Tcp, first: *EPHEMERAL.start(), last: *EPHEMERAL.end() },
        |(transport, port)| PortRange { transport, first: port, last: port },
    );
    let name = match port {
        Some((transport, port)) => format!("learned-{}-{port}", transport.name()),
        None => "learned-random-ports".to_owned(),
    };
    let (mut roles, mut unlisted) = (BTreeSet::new(), BTreeSet::new());
    for contact in contacts {
        match cluster.node_at(&contact.source).and_then(|node| rarest_role(cluster, node)) {
            Some(role) => {
                roles.insert(role.to_owned());
            }
            None => {
                unlisted.insert(contact.source);
            }
        }
    }
    let seen: BTreeSet<&str> = contacts
        .iter()
        .filter_map(|contact| cluster.node_at(&contact.source))
        .map(|node| node.name.as_str())
        .collect();
    let admitted = |node: &&Node| node.roles.iter().any(|role| roles.contains(role));
    let unseen = cluster.nodes.iter().filter(admitted).filter(|node| !seen.contains(&*node.name));
    let unseen = unseen.count();
    Service {
        name,
        ports: vec![range],
        opening_only: port.is_none(),
        roles,
        prefixes: prefixes(&unlisted, excluded, aggregate),
        evidence: contacts.iter().map(|contact| (*contact).clone()).collect(),
        unseen,
    }
}

/// Returns the role of a node that the fewest other nodes have, because it admits the fewest
/// unobserved nodes.
pub fn rarest_role<'c>(cluster: &Cluster, node: &'c Node) -> Option<&'c str> {
    let having =
        |role: &String| cluster.nodes.iter().filter(|node| node.roles.contains(role)).count();
    node.roles.iter().min_by_key(|role| (having(role), role.as_str())).map(String::as_str)
}

/// Returns exact hosts, or a prefix for hosts that share one, unless it contains a source that was
/// left out.
fn prefixes(
    sources: &BTreeSet<Addr>,
    excluded: &BTreeSet<Addr>,
    aggregate: Aggregate,
) -> BTreeSet<(IpAddr, u8)> {
    let prefix = |addr: Addr| match addr {
        Addr::V4(bits) => {
            let len = aggregate.v4.unwrap_or(32).min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            (Addr::V4(bits & mask), len)
        }
        Addr::V6([high, low]) => {
            let len = aggregate.v6.unwrap_or(128).min(128);
            let bits = u128::from(high) << 64 | u128::from(low);
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            (Addr::from(IpAddr::V6((bits & mask).into())), len)
        }
    };
    let mut groups: BTreeMap<(Addr, u8), Vec<Addr>> = BTreeMap::new();
    for source in sources {
        groups.entry(prefix(*source)).or_default().push(*source);
    }
    let mut found = BTreeSet::new();
    for ((network, len), members) in groups {
        let has_excluded = excluded.iter().any(|other| prefix(*other) == (network, len));
        if members.len() > 1 && !has_excluded {
            found.insert((IpAddr::from(network), len));
        } else {
            found.extend(members.into_iter().map(|addr| {
                (IpAddr::from(addr), if matches!(addr, Addr::V4(_)) { 32 } else { 128 })
            }));
        }
    }
    found
}

/// Describes the times and counts of a contact, on one line.
pub fn evidence(kept: &KeptContact, cluster: &Cluster) -> String {
    let contact = &kept.contact;
    let source = IpAddr::from(kept.source);
    let source = match cluster.node_at(&kept.source) {
        Some(node) => format!("{} ({source})", node.name),
        None => format!("{source}, not in the manifest"),
    };
    let when = match (contact.first_ns, contact.last_ns) {
        (Some(first), Some(last)) => format!(", {} to {}", time_of(first), time_of(last)),
        _ => String::new(),
    };
    format!(
        "{source}: {} to {}/{}, {}{when}, first in frame {}",
        counted(contact.completed, "connection"),
        kept.port.0.name(),
        kept.port.1,
        counted(contact.packets, "packet"),
        contact.first_frame
    )
}

/// Formats a timestamp of a capture, in nanoseconds since the Unix epoch.
pub fn time_of(ns: u64) -> String {
    time(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(ns))
}

/// The warning at the top of a policy and of the output.
pub const CAUTION: &str = "Observed traffic is no proof of membership: find out which host has each \
                           address, and which other hosts must be able to connect.";

/// Returns the text of a policy with these services; `own_role` is the role of the node that runs
/// them.
pub fn policy(
    name: &str,
    services: &[Service],
    own_role: &str,
    cluster: &Cluster,
    watched: &str,
) -> String {
    let mut text = String::new();
    let mut add_line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    add_line(format!("# Proposed by `trainguard learn`: {watched}."));
    add_line(format!("# {CAUTION}"));
    add_line("apiVersion: trainguard/v1".to_owned());
    add_line("kind: Policy".to_owned());
    add_line(format!("name: {name}"));
    add_line("services:".to_owned());
    for service in services {
        let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
        add_line(format!("  - name: {}", service.name));
        add_line(format!("    roles: [{own_role}]"));
        if service.opening_only {
            let seen: BTreeSet<u16> = service.evidence.iter().map(|kept| kept.port.1).collect();
            let seen: Vec<String> = seen.iter().take(MAX_LISTED).map(u16::to_string).collect();
            add_line(format!("    # The kernel's ephemeral ports; observed: {}", seen.join(", ")));
        }
        add_line(format!("    ports: [{}]", ports.join(", ")));
        let matching = if service.opening_only { "new-connections" } else { "all" };
        add_line(format!("    match: {matching}"));
        add_line("    allow:".to_owned());
        for kept in service.evidence.iter().take(MAX_LISTED) {
            add_line(format!("      # {}", evidence(kept, cluster)));
        }
        if service.evidence.len() > MAX_LISTED {
            add_line(format!("      # and {} more", service.evidence.len() - MAX_LISTED));
        }
        if !service.roles.is_empty() {
            let roles: Vec<&str> = service.roles.iter().map(String::as_str).collect();
            if service.unseen > 0 {
                let unseen = counted(service.unseen, "other node");
                add_line(format!(
                    "      # The roles also allow {unseen} without observed connections."
                ));
            }
            add_line(format!("      roles: [{}]", roles.join(", ")));
        }
        if !service.prefixes.is_empty() {
            add_line(format!("      networks: [{}]", service.name));
        }
        add_line(
            "    # Change to `enforce` once `trainguard stats` counts no packets of members here."
                .to_owned(),
        );
        add_line("    mode: observe".to_owned());
        let peak = service.evidence.iter().map(|kept| kept.contact.peak).max().unwrap_or(0);
        let rate = (peak * HEADROOM).max(DEFAULT_LIMIT.0);
        let burst = (rate * 5).max(DEFAULT_LIMIT.1);
        add_line(format!(
            "    # One source opened at most {peak} connections per second; {HEADROOM} times that, at \
             least {}.",
            DEFAULT_LIMIT.0
        ));
        add_line("    limits:".to_owned());
        add_line("      perSource:".to_owned());
        add_line(format!("        newConnections: {{ rate: {rate}/s, burst: {burst} }}"));
    }
    text
}
