//! Computes which packets a policy change admits and which it drops, for every packet, not for a
//! sample.
//!
//! Packets are divided into groups: by destination port, as in the port tables; by source, as the
//! source tables and the check for martians distinguish them; by whether they open a connection; and by
//! whether the node would only forward them.
//! Neither policy distinguishes packets of one group, so evaluating one packet of each group with both
//! policies covers all. Each packet is evaluated with full buckets; limits are compared separately.
//!
//! Left out are the node's own addresses as sources, which a guarded port never admits; tunnel devices
//! and sockets, because no file lists them; forwarded packets from addresses that no host can have, which
//! the kernel does not forward; and later fragments whose transport an extension header hides.
//!
//! Decision: `docs/decisions/0029-diff-uses-the-decision.md`.

mod change;
mod limits;
mod pair;
mod space;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use guard_common::Addr;

use self::pair::Pair;
pub use self::{
    change::{Change, Direction, Meets, PacketPath, Traffic},
    limits::{LimitChange, Limited},
    space::{Range, Region},
};
use super::compile::CapacityError;
use crate::resolve::cluster::{Cluster, Node};

/// A change of the guarded interfaces of some nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceChange {
    /// Interface patterns before.
    pub old: Arc<[String]>,
    /// Interface patterns after.
    pub new: Arc<[String]>,
    /// The affected nodes.
    pub nodes: Vec<String>,
}

impl InterfaceChange {
    /// Reports whether a pattern was removed, so that an interface may no longer be guarded.
    pub fn is_wider(&self) -> bool {
        self.old.iter().any(|pattern| !self.new.contains(pattern))
    }
}

/// All differences between two clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Changes of verdicts, the wider ones first.
    pub changes: Vec<Change>,
    /// Changes of limits.
    pub limits: Vec<LimitChange>,
    /// Changes of the guarded interfaces.
    pub interfaces: Vec<InterfaceChange>,
    /// Names of the nodes that only the new manifest has.
    pub added: Vec<String>,
    /// Names of the nodes that only the old manifest has.
    pub removed: Vec<String>,
}

impl Difference {
    /// Reports whether the new cluster admits anything that the old one refused.
    pub fn is_wider(&self) -> bool {
        self.changes.iter().any(|change| change.direction() == Direction::Wider)
            || self.limits.iter().any(LimitChange::is_wider)
            || self.interfaces.iter().any(InterfaceChange::is_wider)
    }

    /// Reports whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// Compares the policies of all nodes that both clusters have.
///
/// # Errors
/// The old or the new policy exceeds a capacity of its node.
pub fn compare(old: &Cluster, new: &Cluster) -> Result<Difference, CapacityError> {
    let before: BTreeMap<&str, &Node> =
        old.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let after: BTreeSet<&str> = new.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut difference = Difference::default();
    // Nodes grouped by their roles before and after: nodes of a group have the same pair of policies.
    let mut alike: BTreeMap<(&[String], &[String]), Vec<&str>> = BTreeMap::new();
    let mut interfaces: BTreeMap<[&Arc<[String]>; 2], Vec<String>> = BTreeMap::new();
    for node in &new.nodes {
        let Some(known) = before.get(node.name.as_str()) else {
            difference.added.push(node.name.clone());
            continue;
        };
        alike.entry((&known.roles, &node.roles)).or_default().push(&node.name);
        let (old, new) = (sorted(&known.interfaces), sorted(&node.interfaces));
        if old != new {
            let of = interfaces.entry([&known.interfaces, &node.interfaces]).or_default();
            of.push(node.name.clone());
        }
    }
    let gone = old.nodes.iter().filter(|node| !after.contains(node.name.as_str()));
    difference.removed = gone.map(|node| node.name.clone()).collect();
    difference.interfaces = interfaces
        .into_iter()
        .map(|([old, new], nodes)| InterfaceChange {
            old: Arc::clone(old),
            new: Arc::clone(new),
            nodes,
        })
        .collect();

    let mut changes: BTreeMap<Change, Vec<String>> = BTreeMap::new();
    let mut limits: BTreeMap<LimitChange, Vec<String>> = BTreeMap::new();
    for ((old_roles, new_roles), nodes) in alike {
        let Some(pair) = Pair::new(old, old_roles, new, new_roles)? else { continue };
        let nodes: Vec<String> = nodes.into_iter().map(str::to_owned).collect();
        for change in pair.changes() {
            changes.entry(change).or_default().extend_from_slice(&nodes);
        }
        for limit in pair.limits() {
            limits.entry(limit).or_default().extend_from_slice(&nodes);
        }
    }
    difference.changes =
        changes.into_iter().map(|(change, nodes)| Change { nodes, ..change }).collect();
    difference.changes.sort_by_key(|change| (change.direction(), change.traffic));
    difference.limits =
        limits.into_iter().map(|(change, nodes)| LimitChange { nodes, ..change }).collect();
    Ok(difference)
}

fn sorted(patterns: &[String]) -> BTreeSet<&String> {
    patterns.iter().collect()
}

/// Returns the names of the nodes that have an address in a region, sorted, without duplicates.
pub fn names_in<'c>(region: &Region, clusters: [&'c Cluster; 2]) -> BTreeSet<&'c str> {
    let nodes = clusters.into_iter().flat_map(|cluster| &cluster.nodes);
    nodes
        .filter(|node| node.addresses.iter().any(|addr: &Addr| region.holds(addr)))
        .map(|node| node.name.as_str())
        .collect()
}
