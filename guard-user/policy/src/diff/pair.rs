//! Compares two policies of a node by the verdicts on one packet of each group.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use guard_common::{
    NoTrace, Verdict, evaluate,
    packet::Frame,
    port_table::{PORT_UNGUARDED, Transport, port_index},
    stack::Offline,
    tables::Setting,
    verdict::{Action, Reason},
};

use super::{
    change::{Change, Meets, PacketPath, Traffic},
    limits::{LimitChange, Limited},
    space::{self, Region},
};
use crate::{
    compile::{CapacityError, for_node, slots::Placement},
    compiled::{CompiledPolicy, HostTables},
    limiter::HostLimiter,
    probe::{FLAGS_ESTABLISHED, FLAGS_OPENING, Probe, UNREADABLE, UNREADABLE_PACKET},
    resolve::cluster::{Cluster, Node},
    syntax::{
        diagnostic::{FileId, Location, Span},
        scalars::PortRange,
    },
};

/// The old and the new policy of a group of nodes with the same roles.
pub(super) struct Pair {
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

    /// Reports whether some service treats forwarded packets as packets for the node. Otherwise all
    /// of them pass.
    fn guards_forwarded(&self) -> bool {
        self.policy.settings.get(Setting::GuardsForwarded) != 0
    }

    fn meets(&self, frame: &[u8], forwarded: bool) -> Meets {
        // Full buckets: limits are compared separately.
        let limiter = HostLimiter::new([0; 2]);
        let frame = Frame::new(frame);
        let verdict: Verdict = if forwarded {
            evaluate(&frame, &self.tables, &Offline { forwards: true }, &limiter, &mut NoTrace)
        } else {
            self.tables.verdict(&frame, &limiter)
        };
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

/// A change of the verdict, without its ports: results, kind of packets, indices of source regions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    old: Meets,
    new: Meets,
    traffic: Traffic,
    sources: Vec<usize>,
}

/// The ports of a change, and the transports of its fragments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    ports: Vec<PortRange>,
    transports: Vec<Transport>,
}

/// The places of each change.
type Pieces = BTreeMap<Piece, Place>;

impl Pair {
    /// Compiles both policies; none if they are identical.
    pub(super) fn new(
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

    pub(super) fn changes(&self) -> Vec<Change> {
        let (old, new) = (Side::of(&self.old), Side::of(&self.new));
        let received = self.pieces(&old, &new, false);
        let forwarded = if old.guards_forwarded() || new.guards_forwarded() {
            self.pieces(&old, &new, true)
        } else {
            Pieces::new()
        };
        with_path(&received, &forwarded)
            .map(|(piece, at, path)| {
                let Piece { old, new, traffic, sources } = piece.clone();
                let Place { mut ports, transports } = at.clone();
                ports.sort_unstable();
                let sources = Region::of(sources.iter().filter_map(|at| self.sources.get(*at)));
                let example = self.example(&sources, &ports);
                let nodes = Vec::new();
                Change { old, new, traffic, path, transports, ports, sources, example, nodes }
            })
            .collect()
    }

    /// Returns the changes for packets for the node, or for packets that it only forwards.
    fn pieces(&self, old: &Side<'_>, new: &Side<'_>, forwarded: bool) -> Pieces {
        let transitions = |frame: &dyn Fn(IpAddr) -> Vec<u8>| {
            let mut found = Transitions::new();
            for (number, region) in self.sources.iter().enumerate() {
                let Some(source) = region.first() else { continue };
                let frame = frame(source);
                let (old, new) = (old.meets(&frame, forwarded), new.meets(&frame, forwarded));
                let impossible =
                    forwarded && [&old, &new].iter().any(|meets| meets.reason == Reason::Martian);
                if old.action != new.action && !impossible {
                    found.entry((old, new)).or_default().push(number);
                }
            }
            found
        };
        let mut pieces = Pieces::new();
        let mut add = |traffic: Traffic, transitions: Transitions, at: &Place| {
            for ((old, new), sources) in transitions {
                let of = pieces.entry(Piece { old, new, traffic, sources }).or_default();
                of.ports.extend_from_slice(&at.ports);
                of.transports.extend_from_slice(&at.transports);
            }
        };
        for ((transport, ..), ranges) in &self.ports {
            let Some(port) = ranges.first().map(|range| range.first) else { continue };
            let with =
                |flags| transitions(&|source| Probe::new(source, *transport, port, flags).frame());
            let at = Place { ports: ranges.clone(), transports: Vec::new() };
            let opening = with(FLAGS_OPENING);
            if *transport == Transport::Tcp {
                let established = with(FLAGS_ESTABLISHED);
                if opening != established {
                    add(Traffic::Opening, opening, &at);
                    add(Traffic::Established, established, &at);
                    continue;
                }
            }
            add(Traffic::All, opening, &at);
        }
        for transport in Transport::ALL {
            let found = transitions(&|source| Probe::fragment_of(source, transport).frame());
            let at = Place { ports: Vec::new(), transports: vec![transport] };
            add(Traffic::Fragments, found, &at);
        }
        // Where the IP header cannot be read, no route can be looked up.
        let unreadable: &[u8] = if forwarded { &UNREADABLE_PACKET } else { &UNREADABLE };
        let (before, after) = (old.meets(unreadable, forwarded), new.meets(unreadable, forwarded));
        if before.action != after.action {
            let found = Transitions::from([((before, after), Vec::new())]);
            add(Traffic::Unreadable, found, &Place::default());
        }
        pieces
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
    pub(super) fn limits(&self) -> Vec<LimitChange> {
        let (old, new) = (Side::of(&self.old), Side::of(&self.new));
        let received = self.limited(&old, &new, false);
        let forwarded = if old.guards_forwarded() || new.guards_forwarded() {
            self.limited(&old, &new, true)
        } else {
            BTreeMap::new()
        };
        with_path(&received, &forwarded)
            .map(|((old, new), ports, path)| {
                let (old, new, mut ports) = (old.clone(), new.clone(), ports.clone());
                ports.sort_unstable();
                LimitChange { old, new, path, ports, nodes: Vec::new() }
            })
            .collect()
    }

    /// Returns the limits that differ for packets for the node, or for packets that it only forwards.
    fn limited(
        &self,
        old: &Side<'_>,
        new: &Side<'_>,
        forwarded: bool,
    ) -> BTreeMap<(Limited, Limited), Vec<PortRange>> {
        let mut found: BTreeMap<(Limited, Limited), Vec<PortRange>> = BTreeMap::new();
        for ((transport, before, after), ranges) in &self.ports {
            let Some(port) = ranges.first().map(|range| range.first) else { continue };
            let service = |policy: &CompiledPolicy, slot: u8| {
                let known = policy.service_in(slot);
                known.map_or_else(Limited::default, |known| Limited::of(known, forwarded))
            };
            let limited = (service(&self.old, *before), service(&self.new, *after));
            if limited.0.same_as(&limited.1) {
                continue;
            }
            let passes = self.sources.iter().filter_map(Region::first).any(|source| {
                let frame = Probe::new(source, *transport, port, FLAGS_OPENING).frame();
                [old, new].iter().all(|side| side.meets(&frame, forwarded).action != Action::Drop)
            });
            if passes {
                found.entry(limited).or_default().extend_from_slice(ranges);
            }
        }
        found
    }
}

/// Joins the changes for packets for the node with those for packets that it only forwards. A change
/// that is the same for both is returned once.
fn with_path<'m, K: Ord, V: PartialEq>(
    received: &'m BTreeMap<K, V>,
    forwarded: &'m BTreeMap<K, V>,
) -> impl Iterator<Item = (&'m K, &'m V, PacketPath)> {
    let all = received.iter().map(|(change, at)| {
        let both = forwarded.get(change) == Some(at);
        (change, at, if both { PacketPath::Both } else { PacketPath::Received })
    });
    let only_forwarded = forwarded.iter().filter(|(change, at)| received.get(change) != Some(at));
    all.chain(only_forwarded.map(|(change, at)| (change, at, PacketPath::Forwarded)))
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
