//! Finds addresses outside the cluster's own prefixes: mostly typing errors, which admit an unlisted
//! host as a member.

use std::{collections::HashMap, net::IpAddr};

use guard_common::Addr;

use super::cluster_view::ClusterView;
use crate::{
    compile::source_table::{ends, holds, merged},
    resolve::cluster::{Node, PrefixSet},
    syntax::{
        diagnostic::{Diagnostic, Location, Report},
        document::ClusterDoc,
        rules,
    },
};

/// Name of the network that contains the cluster's own prefixes.
const CLUSTER_NETWORK: &str = "cluster";
/// Minimum number of nodes in one prefix before a single node elsewhere is reported.
const MIN_TOGETHER: usize = 3;

pub(crate) fn check(out: &mut Report, whole: &ClusterView<'_>) {
    if let Some(own) = whole.cluster.network(CLUSTER_NETWORK) {
        declared(out, whole, own);
    } else {
        for six in [false, true] {
            outlier(out, whole, six);
        }
    }
}

fn number(addr: &Addr) -> (bool, u128) {
    match IpAddr::from(*addr) {
        IpAddr::V4(v4) => (false, u32::from(v4).into()),
        IpAddr::V6(v6) => (true, v6.into()),
    }
}

/// Locations of the addresses of nodes, by the locations of the names.
struct Places(HashMap<Location, Location>);

impl Places {
    fn of(doc: &ClusterDoc) -> Self {
        let written = doc
            .nodes
            .iter()
            .filter_map(|entry| Some((entry.name.place, entry.addresses.first()?.place)));
        Self(written.collect())
    }

    fn addresses(&self, node: &Node) -> Location {
        self.0.get(&node.place).copied().unwrap_or(node.place)
    }
}

fn declared(out: &mut Report, whole: &ClusterView<'_>, own: &PrefixSet) {
    let Some((network, _)) =
        whole.doc.networks.iter().find(|(name, _)| name.value == CLUSTER_NETWORK)
    else {
        return;
    };
    let places = Places::of(whole.doc);
    let four = merged(own.v4.iter().map(ends).collect());
    let six = merged(own.v6.iter().map(ends).collect());
    for node in &whole.cluster.nodes {
        for address in &node.addresses {
            let (is_six, at) = number(address);
            let ranges = if is_six { &six } else { &four };
            if holds(ranges, at) {
                continue;
            }
            let place = places.addresses(node);
            let shown = IpAddr::from(*address);
            let message = format!(
                "{shown} of `{}` is in none of the prefixes of the network `{CLUSTER_NETWORK}`",
                node.name
            );
            out.push(
                Diagnostic::warning(rules::OUTSIDE, place, message)
                    .related(network.place, "the cluster's own prefixes")
                    .help("correct the address, or add its prefix"),
            );
        }
    }
}

/// Reports the one node of a family whose address is not in the prefix of all others.
fn outlier(out: &mut Report, whole: &ClusterView<'_>, six: bool) {
    let (shift, length) = if six { (80, 48) } else { (16, 16) };
    let mut by_prefix: HashMap<u128, (usize, &Node, Addr)> = HashMap::new();
    for node in &whole.cluster.nodes {
        let mut seen = Vec::new();
        for address in &node.addresses {
            let (is_six, at) = number(address);
            let prefix = at >> shift;
            if is_six == six && !seen.contains(&prefix) {
                seen.push(prefix);
                by_prefix.entry(prefix).or_insert((0, node, *address)).0 += 1;
            }
        }
    }
    let mut by_prefix: Vec<_> = by_prefix.into_values().collect();
    by_prefix.sort_by_key(|(count, ..)| *count);
    let [(1, node, address), (others, _, example)] = by_prefix.as_slice() else { return };
    if *others < MIN_TOGETHER {
        return;
    }
    let place = Places::of(whole.doc).addresses(node);
    let message = format!(
        "{} of `{}` is outside the /{length} that contains all other nodes, such as {}",
        IpAddr::from(*address),
        node.name,
        IpAddr::from(*example)
    );
    out.push(Diagnostic::warning(rules::OUTSIDE, place, message).help(
        "correct the address; if it is right, define a network `cluster` that lists all \
         prefixes of the cluster",
    ));
}
