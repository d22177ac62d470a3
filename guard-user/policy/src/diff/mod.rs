//! Computes which packets a policy change admits and which it drops, for every packet, not for a
//! sample.
//!
//! Packets are divided into groups: by destination port, as in the port tables; by source, as the
//! source tables and the check for martians distinguish them; and by whether they open a connection.
//! Neither policy distinguishes packets of one group, so evaluating one packet of each group with both
//! policies covers all. Each packet is evaluated with full buckets; limits are compared separately.
//!
//! Two things are left out: the node's own addresses as sources, which a guarded port never admits, and
//! tunnel devices, because no file lists them.
//!
//! Decision: `docs/decisions/0029-diff-uses-the-decision.md`.

mod limits;
mod space;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use guard_common::{
    Addr, Verdict,
    packet::Frame,
    port_table::{PORT_UNGUARDED, Transport, port_index},
    verdict::{Action, Reason},
};

pub use self::{
    limits::{LimitChange, Limited},
    space::{Range, Region},
};
use super::{
    compile::{CapacityError, for_node},
    compiled::{CompiledPolicy, HostTables},
    limiter::HostLimiter,
};
use crate::{
    compile::slots::Placement,
    probe::{FLAGS_ESTABLISHED, FLAGS_OPENING, Probe, UNREADABLE},
    resolve::cluster::{Cluster, Node},
    syntax::{
        diagnostic::{FileId, Location, Span},
        scalars::PortRange,
    },
};

/// The result of evaluating a packet with a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meets {
    /// The action taken.
    pub action: Action,
    /// The reason for the action.
    pub reason: Reason,
    /// `policy/service` of the service that decided; none if no service did.
    pub service: Option<String>,
}

/// The direction of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Packets that were dropped now pass.
    Wider,
    /// Packets that passed are now dropped.
    Narrower,
    /// Packets pass as before, but an observing service now counts them as drops, or no longer does.
    Observed,
}

/// The kind of packets that a change affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// All packets to the ports.
    All,
    /// TCP segments that open a connection.
    Opening,
    /// TCP segments that do not open a connection.
    Established,
    /// Later fragments, which have no ports.
    Fragments,
    /// Frames that cannot be parsed.
    Unreadable,
}

/// A change of the verdict that is the same for all packets of a region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The result before.
    pub old: Meets,
    /// The result after.
    pub new: Meets,
    /// The kind of packets affected.
    pub traffic: Traffic,
    /// The destination ports; empty for packets without ports.
    pub ports: Vec<PortRange>,
    /// The source addresses.
    pub sources: Region,
    /// An example: a source address, and a port if the packets have one.
    pub example: Option<(IpAddr, Option<PortRange>)>,
    /// The receiving nodes.
    pub nodes: Vec<String>,
}

impl Change {
    /// Returns the direction of the change.
    pub fn direction(&self) -> Direction {
        match (self.old.action, self.new.action) {
            (Action::Drop, _) => Direction::Wider,
            (_, Action::Drop) => Direction::Narrower,
            _ => Direction::Observed,
        }
    }
}

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

/// The old and the new policy of a group of nodes with the same roles.
struct Pair {
    old: CompiledPolicy,
    new: CompiledPolicy,
    sources: Vec<Region>,
    ports: BTreeMap<(Transport, u8, u8), Vec<PortRange>>,
}

/// One of the two policies, ready to evaluate packets.
struct Side<'p> {
    policy: &'p CompiledPolicy,
    tables: HostTables<'p>,
}

impl<'p> Side<'p> {
    fn of(policy: &'p CompiledPolicy) -> Self {
        Self { policy, tables: policy.host() }
    }

    fn meets(&self, frame: &[u8]) -> Meets {
        // Full buckets: limits are compared separately.
        let limiter = HostLimiter::new([0; 2]);
        let verdict: Verdict = self.tables.verdict(&Frame::new(frame), &limiter);
        let service = verdict.service.and_then(|slot| self.policy.service_in(slot));
        Meets {
            action: verdict.action,
            reason: verdict.reason,
            service: service.map(|service| service.label.clone()),
        }
    }
}

/// Indices of the source regions for each pair of results before and after.
type Transitions = BTreeMap<(Meets, Meets), Vec<usize>>;

impl Pair {
    /// Compiles both policies; none if they are identical.
    fn new(
        old: &Cluster,
        old_roles: &[String],
        new: &Cluster,
        new_roles: &[String],
    ) -> Result<Option<Self>, CapacityError> {
        // A node with these roles and no addresses, so that no address counts as the node's own.
        let node = |roles: &[String]| Node {
            name: String::new(),
            place: Location { file: FileId(0), span: Span::default() },
            addresses: Vec::new(),
            roles: roles.into(),
            interfaces: Arc::new([]),
        };
        let old = for_node(old, &node(old_roles), &Placement::default())?;
        let new = for_node(new, &node(new_roles), &Placement::default())?;
        // The hash covers everything that is enforced.
        if old.hash == new.hash {
            return Ok(None);
        }
        let sources = space::pieces(&old, &new).into_values().collect();
        let ports = ports(&old, &new);
        Ok(Some(Self { old, new, sources, ports }))
    }

    fn changes(&self) -> Vec<Change> {
        let (old, new) = (Side::of(&self.old), Side::of(&self.new));
        let transitions = |frame: &dyn Fn(IpAddr) -> Vec<u8>| {
            let mut found = Transitions::new();
            for (number, region) in self.sources.iter().enumerate() {
                let Some(source) = region.first() else { continue };
                let frame = frame(source);
                let (old, new) = (old.meets(&frame), new.meets(&frame));
                if old.action != new.action {
                    found.entry((old, new)).or_default().push(number);
                }
            }
            found
        };
        // The ports for each combination of change and sources.
        let mut pieces: BTreeMap<(Meets, Meets, Traffic, Vec<usize>), Vec<PortRange>> =
            BTreeMap::new();
        for ((transport, ..), ranges) in &self.ports {
            let Some(port) = ranges.first().map(|range| range.first) else { continue };
            let with =
                |flags| transitions(&|source| Probe::new(source, *transport, port, flags).frame());
            let opening = with(FLAGS_OPENING);
            let found = if *transport == Transport::Tcp {
                let established = with(FLAGS_ESTABLISHED);
                if opening == established {
                    vec![(Traffic::All, opening)]
                } else {
                    vec![(Traffic::Opening, opening), (Traffic::Established, established)]
                }
            } else {
                vec![(Traffic::All, opening)]
            };
            for (traffic, transitions) in found {
                for ((old, new), sources) in transitions {
                    let at = pieces.entry((old, new, traffic, sources)).or_default();
                    at.extend_from_slice(ranges);
                }
            }
        }
        for ((old, new), sources) in transitions(&|source| Probe::fragment(source).frame()) {
            pieces.insert((old, new, Traffic::Fragments, sources), Vec::new());
        }
        let (before, after) = (old.meets(&UNREADABLE), new.meets(&UNREADABLE));
        if before.action != after.action {
            pieces.insert((before, after, Traffic::Unreadable, Vec::new()), Vec::new());
        }
        pieces
            .into_iter()
            .map(|((old, new, traffic, sources), mut ports)| {
                ports.sort_unstable();
                let sources = Region::of(sources.iter().filter_map(|at| self.sources.get(*at)));
                let example = self.example(&sources, &ports);
                Change { old, new, traffic, ports, sources, example, nodes: Vec::new() }
            })
            .collect()
    }

    /// Returns an example packet of a region, from a node of the new manifest if possible, else of the
    /// old one.
    fn example(
        &self,
        sources: &Region,
        ports: &[PortRange],
    ) -> Option<(IpAddr, Option<PortRange>)> {
        let mut names = self.new.names.iter().chain(&self.old.names).map(|(addr, _)| *addr);
        let known = names.find(|addr| sources.holds(addr)).map(IpAddr::from);
        let port = ports.first().map(|range| PortRange { last: range.first, ..*range });
        Some((known.or_else(|| sources.possible_source())?, port))
    }

    /// Returns the limits that differ on ports where packets pass both before and after.
    fn limits(&self) -> Vec<LimitChange> {
        let (old, new) = (Side::of(&self.old), Side::of(&self.new));
        let mut found: BTreeMap<(Limited, Limited), Vec<PortRange>> = BTreeMap::new();
        for ((transport, before, after), ranges) in &self.ports {
            let Some(port) = ranges.first().map(|range| range.first) else { continue };
            let service = |policy: &CompiledPolicy, slot: u8| {
                policy.service_in(slot).map_or_else(Limited::default, Limited::of)
            };
            let limited = (service(&self.old, *before), service(&self.new, *after));
            if limited.0.same_as(&limited.1) {
                continue;
            }
            let passes = self.sources.iter().filter_map(Region::first).any(|source| {
                let frame = Probe::new(source, *transport, port, FLAGS_OPENING).frame();
                [&old, &new].iter().all(|side| side.meets(&frame).action != Action::Drop)
            });
            if passes {
                found.entry(limited).or_default().extend_from_slice(ranges);
            }
        }
        found
            .into_iter()
            .map(|((old, new), mut ports)| {
                ports.sort_unstable();
                LimitChange { old, new, ports, nodes: Vec::new() }
            })
            .collect()
    }
}

/// Groups the ports by their entries in both policies. Ports that neither policy guards are omitted.
fn ports(
    old: &CompiledPolicy,
    new: &CompiledPolicy,
) -> BTreeMap<(Transport, u8, u8), Vec<PortRange>> {
    let mut found: BTreeMap<(Transport, u8, u8), Vec<PortRange>> = BTreeMap::new();
    for transport in Transport::ALL {
        let entry = |policy: &CompiledPolicy, port: u16| {
            policy.ports.get(port_index(transport, port)).copied().unwrap_or(PORT_UNGUARDED)
        };
        let mut run: Option<(u8, u8, PortRange)> = None;
        let mut add = |run: Option<(u8, u8, PortRange)>| {
            if let Some((old, new, range)) = run
                && (old, new) != (PORT_UNGUARDED, PORT_UNGUARDED)
            {
                found.entry((transport, old, new)).or_default().push(range);
            }
        };
        for port in 0..=u16::MAX {
            let at = (entry(old, port), entry(new, port));
            match &mut run {
                Some((old, new, range)) if (*old, *new) == at => range.last = port,
                _ => {
                    let next = PortRange { transport, first: port, last: port };
                    add(run.replace((at.0, at.1, next)));
                }
            }
        }
        add(run);
    }
    found
}

/// Returns the names of the nodes that have an address in a region, sorted, without duplicates.
pub fn names_in<'c>(region: &Region, clusters: [&'c Cluster; 2]) -> BTreeSet<&'c str> {
    let nodes = clusters.into_iter().flat_map(|cluster| &cluster.nodes);
    nodes
        .filter(|node| node.addresses.iter().any(|addr: &Addr| region.holds(addr)))
        .map(|node| node.name.as_str())
        .collect()
}
