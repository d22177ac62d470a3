//! Explains why a service admits a source or does not: the lines of manifest and policy that admit it,
//! and the lines that could be changed. Used for display only; decisions are made elsewhere.

use std::net::IpAddr;

use guard_common::Addr;

use super::{
    cluster::{Cluster, Network, Node, PrefixSet, Service},
    loaded::Loaded,
};
use crate::{
    compiled::Prefix,
    syntax::{
        diagnostic::{Location, Sources},
        scalars::Cidr,
        source_map::Position,
    },
};

/// An entry of a policy that admits a source to a service.
#[derive(Debug, Clone, Copy)]
pub enum Admission<'a> {
    /// The service admits every source.
    Any {
        /// Where the service is defined.
        service: Location,
    },
    /// The source is a node with a role that the service lists.
    Role {
        /// The role.
        role: &'a str,
        /// The node that has the address.
        node: &'a Node,
        /// Where the service lists the role.
        allowed: Location,
    },
    /// The source is in a network that the service lists.
    Network {
        /// The network.
        network: &'a Network,
        /// The longest prefix of the network that contains the source.
        prefix: Cidr,
        /// Where the service lists the network.
        allowed: Location,
    },
    /// The service lists a prefix that contains the source.
    Cidr {
        /// The prefix.
        prefix: Cidr,
        /// Where the service lists it.
        allowed: Location,
    },
}

impl Admission<'_> {
    /// Returns the kind of the entry as a word for JSON output.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Any { .. } => "any",
            Self::Role { .. } => "role",
            Self::Network { .. } => "network",
            Self::Cidr { .. } => "cidr",
        }
    }

    /// Returns the name of the role or network, or the prefix; none for `any`.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Any { .. } => None,
            Self::Role { role, .. } => Some((*role).to_owned()),
            Self::Network { network, .. } => Some(network.name.value.clone()),
            Self::Cidr { prefix, .. } => Some(prefix.to_string()),
        }
    }

    /// Returns the manifest entry of the node, as written; none unless a role admits the source.
    pub fn entry<'s>(&self, sources: &'s Sources) -> Option<&'s str> {
        match self {
            Self::Role { node, .. } => entry_text(node, sources),
            _ => None,
        }
    }

    /// Returns where the source is defined: in the manifest for nodes and networks, else in the policy.
    pub fn place(&self) -> Location {
        match self {
            Self::Any { service } => *service,
            Self::Role { node, .. } => node.place,
            Self::Network { network, .. } => network.name.place,
            Self::Cidr { allowed, .. } => *allowed,
        }
    }

    /// Describes the entry with its locations, for display.
    pub fn describe(&self, sources: &Sources) -> String {
        match self {
            Self::Any { service } => {
                format!("`any: true` of the service at {}", sources.describe(*service))
            }
            Self::Role { role, node, allowed } => format!(
                "role `{role}` (allowed at {}): {}",
                sources.describe(*allowed),
                entry(node, sources)
            ),
            Self::Network { network, prefix, allowed } => format!(
                "network `{}` (allowed at {}): {} at {}",
                network.name.value,
                sources.describe(*allowed),
                prefix,
                sources.describe(network.name.place)
            ),
            Self::Cidr { prefix, allowed } => {
                format!("prefix {} at {}", prefix, sources.describe(*allowed))
            }
        }
    }
}

/// What the manifest defines about an address.
#[derive(Debug, Default)]
pub struct KnownAddress<'a> {
    /// The node that has the address.
    pub node: Option<&'a Node>,
    /// The networks that contain the address, each with its longest prefix that does.
    pub networks: Vec<(&'a Network, Cidr)>,
}

impl<'a> KnownAddress<'a> {
    /// Looks an address up in a cluster.
    pub fn of(cluster: &'a Cluster, addr: &Addr) -> Self {
        let holds = |network: &'a Network| Some((network, covering(&network.prefixes, addr)?));
        Self {
            node: cluster.node_at(addr),
            networks: cluster.networks.iter().filter_map(holds).collect(),
        }
    }

    /// Describes the address with the locations, for display.
    pub fn describe(&self, sources: &Sources) -> String {
        let node = self.node.map(|node| format!("`{}`, {}", node.name, entry(node, sources)));
        let networks = self.networks.iter().map(|(network, prefix)| {
            let place = sources.describe(network.name.place);
            format!("in network `{}`, {} at {place}", network.name.value, prefix)
        });
        let known: Vec<String> = node.into_iter().chain(networks).collect();
        if known.is_empty() { "not in the manifest".to_owned() } else { known.join("; ") }
    }
}

/// Returns every entry that admits a source to a service.
pub fn admissions<'a>(
    cluster: &'a Cluster,
    service: &'a Service,
    addr: &Addr,
) -> Vec<Admission<'a>> {
    let allow = &service.allow;
    let known = KnownAddress::of(cluster, addr);
    let any = allow.any.then_some(Admission::Any { service: service.place });
    let roles = allow.roles.iter().zip(&allow.role_places).filter_map(|(role, place)| {
        let node = known.node.filter(|node| node.roles.contains(role))?;
        Some(Admission::Role { role, node, allowed: *place })
    });
    let networks = allow.networks.iter().filter_map(|name| {
        let (network, prefix) =
            known.networks.iter().find(|(network, _)| network.name.value == name.value)?;
        Some(Admission::Network { network, prefix: *prefix, allowed: name.place })
    });
    let cidrs = allow.cidrs.iter().filter(|cidr| holds(&cidr.value, addr));
    let cidrs = cidrs.map(|cidr| Admission::Cidr { prefix: cidr.value, allowed: cidr.place });
    any.into_iter().chain(roles).chain(networks).chain(cidrs).collect()
}

/// Returns the changes that would admit a source to a service that does not admit it, each with its
/// location.
pub fn ways_in(loaded: &Loaded, service: &Service, addr: &Addr) -> Vec<String> {
    let (cluster, sources) = (&loaded.cluster, &loaded.report.sources);
    let allow = &service.allow;
    let known = KnownAddress::of(cluster, addr);
    let at = format!("`allow` of `{}` ({})", service.label, sources.describe(service.place));
    let mut ways = Vec::new();
    let with_role = |role: &String| {
        let node = cluster.nodes.iter().find(|node| node.roles.contains(role))?;
        Some(format!("`{role}` ({})", entry(node, sources)))
    };
    if let Some(node) = known.node {
        ways.push(format!("list a role of `{}` ({}) in {at}", node.name, node.roles.join(", ")));
        if !allow.roles.is_empty() {
            let roles = list(allow.roles.iter().map(|role| format!("`{role}`")));
            ways.push(format!("give {} the role {roles}", entry(node, sources)));
        }
    } else {
        let roles: Vec<String> = allow.roles.iter().filter_map(with_role).collect();
        if !roles.is_empty() {
            ways.push(format!("add the address to a node of role {}", list(roles)));
        }
    }
    for (network, prefix) in &known.networks {
        let place = sources.describe(network.name.place);
        let name = &network.name.value;
        ways.push(format!("list network `{name}` ({prefix} at {place}) in {at}"));
    }
    let listed =
        |network: &&Network| allow.networks.iter().any(|name| name.value == network.name.value);
    let networks = cluster.networks.iter().filter(listed).map(|network| {
        format!("`{}` ({})", network.name.value, sources.describe(network.name.place))
    });
    let networks = list(networks);
    if !networks.is_empty() {
        ways.push(format!("add the address to network {networks}"));
    }
    ways.push(format!("list the address under `cidrs` in {at}"));
    ways
}

/// Returns the path and the position of a location.
pub fn position(sources: &Sources, place: Location) -> (String, Position) {
    let file = sources.get(place.file).map(|source| source.path.display().to_string());
    (file.unwrap_or_default(), sources.position(place))
}

/// Returns the manifest entry of a node, as written.
fn entry_text<'a>(node: &Node, sources: &'a Sources) -> Option<&'a str> {
    let span = node.place.span;
    let text = &sources.get(node.place.file)?.text;
    let text = text.get(span.start as usize..span.end as usize)?;
    Some(text.trim_matches(['"', '\'']))
}

fn entry(node: &Node, sources: &Sources) -> String {
    let written = entry_text(node, sources).unwrap_or(&node.name);
    format!("`{written}` at {}", sources.describe(node.place))
}

/// Joins items as `a`, `a or b`, or `a, b or c`.
fn list(items: impl IntoIterator<Item = String>) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    let last = items.pop().unwrap_or_default();
    if items.is_empty() { last } else { format!("{} or {last}", items.join(", ")) }
}

/// Returns the prefix that consists of the first `len` bits of an address.
fn cut4(addr: u32, len: u8) -> Prefix<[u8; 4]> {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(len.into())).unwrap_or(0);
    Prefix { addr: (addr & mask).to_be_bytes(), len }
}

fn cut6(addr: u128, len: u8) -> Prefix<[u8; 16]> {
    let mask = u128::MAX.checked_shl(128_u32.saturating_sub(len.into())).unwrap_or(0);
    Prefix { addr: (addr & mask).to_be_bytes(), len }
}

/// Reports whether a prefix contains an address.
pub fn holds(cidr: &Cidr, addr: &Addr) -> bool {
    match (cidr, IpAddr::from(*addr)) {
        (Cidr::V4(prefix), IpAddr::V4(addr)) => cut4(addr.to_bits(), prefix.len) == *prefix,
        (Cidr::V6(prefix), IpAddr::V6(addr)) => cut6(addr.to_bits(), prefix.len) == *prefix,
        _ => false,
    }
}

/// Returns the longest prefix of a set that contains an address. Uses a binary search for each length,
/// because sets may be long.
pub fn covering(set: &PrefixSet, addr: &Addr) -> Option<Cidr> {
    match IpAddr::from(*addr) {
        IpAddr::V4(addr) => (0..=32)
            .rev()
            .map(|len| cut4(addr.to_bits(), len))
            .find(|prefix| set.v4.binary_search(prefix).is_ok())
            .map(Cidr::V4),
        IpAddr::V6(addr) => (0..=128)
            .rev()
            .map(|len| cut6(addr.to_bits(), len))
            .find(|prefix| set.v6.binary_search(prefix).is_ok())
            .map(Cidr::V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().expect("an address"))
    }

    #[test]
    fn the_longest_prefix_is_found_in_either_family() {
        let four = |len| Cidr::V4(cut4(0x0a09_0000, len));
        let six = |len| Cidr::V6(cut6(0xfd00_u128 << 112, len));
        let set: PrefixSet = [four(8), four(24), four(32), six(16), six(64)].into_iter().collect();
        for (text, expected) in [
            ("10.9.0.0", Some("10.9.0.0/32")),
            ("10.9.0.255", Some("10.9.0.0/24")),
            ("10.9.1.0", Some("10.0.0.0/8")),
            ("11.0.0.0", None),
            ("fd00::9", Some("fd00::/64")),
            ("fd00:0:0:1::", Some("fd00::/16")),
            ("fe00::", None),
        ] {
            let found = covering(&set, &addr(text));
            assert_eq!(found.map(|cidr| cidr.to_string()).as_deref(), expected, "{text}");
        }
        let all: PrefixSet = [four(0)].into_iter().collect();
        assert_eq!(covering(&all, &addr("203.0.113.7")), Some(four(0)));
        assert_eq!(covering(&all, &addr("::1")), None, "families do not mix");
        assert!(holds(&four(24), &addr("10.9.0.7")) && !holds(&four(24), &addr("10.9.1.7")));
    }

    #[test]
    fn choices_are_joined_with_commas_and_or() {
        let list = |items: &[&str]| list(items.iter().map(|item| (*item).to_owned()));
        assert_eq!(list(&[]), "");
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b", "c"]), "a, b or c");
    }
}
