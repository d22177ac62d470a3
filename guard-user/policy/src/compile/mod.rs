//! Compiles a cluster to the tables of one node. Deterministic: policies with the same effect compile
//! to the same tables and the same hash.

mod fragments;
pub mod hash;
pub(crate) mod ports;
pub mod slots;
pub(crate) mod source_table;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use self::{fragments::Charges, ports::claims, slots::Placement};
use super::{
    compiled::{CompiledPolicy, CompiledService, Prefix},
    trie::{self, Item, Trie},
};
use crate::{
    resolve::{
        cluster::{Cluster, Node, Service},
        loaded::Loaded,
    },
    syntax::document::{Forwarded, Match, Mode},
};
use guard_common::{
    Addr,
    layout::{MAX_CLASSES, MAX_MEMBER_BUCKETS, MAX_PREFIXES, MemberKey},
    port_table::{self, PORT_UNGUARDED, PortTable, Transport},
    tables::{self, Setting, Settings, Source},
    trie::Found,
    verdict::MAX_SERVICES,
};

/// A policy that exceeds the capacity of the kernel maps on a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// More than [`MAX_SERVICES`] services.
    #[error(
        "node `{node}` would run {count} services, at most {MAX_SERVICES} are possible; join \
         services that admit the same sources into one with several ports"
    )]
    Services {
        /// The name of the node.
        node: String,
        /// Number of services that the node would run.
        count: usize,
    },
    /// More than [`MAX_PREFIXES`] prefixes of one family.
    #[error(
        "node `{node}` would need {count} {family} prefixes, at most {MAX_PREFIXES} fit; join \
         neighbouring prefixes into shorter ones"
    )]
    Prefixes {
        /// The name of the node.
        node: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Number of prefixes needed.
        count: usize,
    },
    /// More than [`MAX_CLASSES`] distinct sets of services among the sources.
    #[error(
        "the sources of node `{node}` fall into {count} classes by the services that they may \
         reach, at most {MAX_CLASSES} are possible; let services share their lists of sources"
    )]
    Classes {
        /// The name of the node.
        node: String,
        /// Number of classes needed.
        count: usize,
    },
    /// More than [`MAX_MEMBER_BUCKETS`] limiter states for members.
    #[error(
        "node `{node}` would need {count} limiter states (addresses of members times services \
         with `perSource` limits), at most {MAX_MEMBER_BUCKETS} fit; limit fewer services per \
         source, or use `total`"
    )]
    MemberBuckets {
        /// The name of the node.
        node: String,
        /// Number of states needed.
        count: usize,
    },
}

/// Compiles the policy of one node of a cluster. Services in `placement` keep their slots.
///
/// # Errors
/// The policy exceeds a capacity of the node. The message has the number and how to reduce it.
///
/// # Examples
///
/// ```
/// use guard_common::{Action, Reason, packet::Frame, port_table::Transport};
/// use guard_policy::probe::{FLAGS_OPENING, Probe};
/// use guard_policy::{Disk, Placement, compile, limiter::HostLimiter, load};
/// use std::{net::IpAddr, path::Path};
///
/// let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/cluster.yaml");
/// let loaded = load(Path::new(manifest), &Disk)?;
/// let node = loaded.cluster.node("sched-0").expect("a node of the manifest");
/// let policy = compile(&loaded, node, &Placement::default())?;
///
/// let unlisted = IpAddr::from([192, 0, 2, 9]);
/// let frame = Probe::new(unlisted, Transport::Tcp, 9091, FLAGS_OPENING).frame();
/// let verdict = policy.host().verdict(&Frame::new(&frame), &HostLimiter::new([0; 2]));
/// assert_eq!((verdict.action, verdict.reason), (Action::Drop, Reason::NotAllowed));
/// assert_eq!(policy.name_of_service(&verdict), Some("scheduler"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compile(
    loaded: &Loaded,
    node: &Node,
    placement: &Placement,
) -> Result<CompiledPolicy, CapacityError> {
    for_node(&loaded.cluster, node, placement)
}

/// Does the same as [`compile`], from the cluster alone.
pub(crate) fn for_node(
    cluster: &Cluster,
    node: &Node,
    placement: &Placement,
) -> Result<CompiledPolicy, CapacityError> {
    let mut services: Vec<&Service> =
        cluster.services.iter().filter(|service| service.runs_on(&node.roles)).collect();
    services.sort_by(|a, b| a.label.cmp(&b.label));
    if services.len() > usize::from(MAX_SERVICES) {
        return Err(CapacityError::Services { node: node.name.clone(), count: services.len() });
    }
    // Services have the slots of their ranks at first, because the hash is computed from those.
    let ports = ports(&services);
    let (sources4, sources6) = source_tables(cluster, node, &services);
    for (family, count) in [("IPv4", sources4.len()), ("IPv6", sources6.len())] {
        if count > MAX_PREFIXES as usize {
            return Err(CapacityError::Prefixes { node: node.name.clone(), family, count });
        }
    }
    let mut compiled = CompiledPolicy {
        cluster: cluster.name.clone(),
        node: node.name.clone(),
        hash: [0; 32],
        settings: Settings::default(),
        services: (0..).zip(&services).map(|(slot, service)| compiled(slot, service)).collect(),
        ports,
        unpacks: [0; 4],
        sources4,
        sources6,
        classes: Vec::new(),
        trie4: Trie::new(&[]),
        trie6: Trie::new(&[]),
        members: Vec::new(),
        names: names(cluster),
        reclaimed: Vec::new(),
    };
    compiled.hash = hash::hash(&compiled);
    let labels: Vec<&str> = services.iter().map(|service| service.label.as_str()).collect();
    let (slots, reclaimed) = placement.place(&labels);
    move_to(&mut compiled, &slots);
    compiled.reclaimed = reclaimed;
    compiled.settings = settings(&compiled.services, &compiled.ports);
    compile_sources(&mut compiled);
    for (count, most, error) in [
        (
            compiled.members.len(),
            MAX_MEMBER_BUCKETS,
            (|node, count| CapacityError::MemberBuckets { node, count })
                as fn(String, usize) -> CapacityError,
        ),
        (compiled.classes.len(), MAX_CLASSES, |node, count| CapacityError::Classes { node, count }),
    ] {
        if count > most as usize {
            return Err(error(node.name.clone(), count));
        }
    }
    Ok(compiled)
}

/// Reports whether the policy of nodes with these roles is certain to fit, from upper bounds for what
/// its services need. `addresses` is the number of addresses of all nodes of the cluster.
pub(crate) fn certainly_fits(cluster: &Cluster, roles: &[String], addresses: usize) -> bool {
    let (mut services, mut limiting, mut sources) = (0_usize, 0_usize, addresses);
    for service in cluster.services.iter().filter(|service| service.runs_on(roles)) {
        services += 1;
        limiting += usize::from(service.per_source.is_some());
        for set in &service.allow.prefixes {
            sources = sources.saturating_add(set.v4.len()).saturating_add(set.v6.len());
        }
    }
    services <= usize::from(MAX_SERVICES)
        // A class for each source, and class 0 for unknown sources.
        && sources < MAX_CLASSES as usize
        && sources <= MAX_PREFIXES as usize
        && addresses.saturating_mul(limiting) <= MAX_MEMBER_BUCKETS as usize
}

fn compiled(slot: u8, service: &Service) -> CompiledService {
    let mut flags = 0;
    if service.matching == Match::NewConnections {
        flags |= tables::Service::NEW_CONNECTIONS;
    }
    if service.mode == Mode::Observe {
        flags |= tables::Service::OBSERVE;
    }
    if service.allow.any {
        flags |= tables::Service::ANY;
    }
    if service.forwarded == Forwarded::Guard {
        flags |= tables::Service::GUARDS_FORWARDED;
    }
    CompiledService {
        slot,
        label: service.label.clone(),
        name: service.name.clone(),
        service: tables::Service {
            flags,
            per_source: service.per_source,
            total: service.total.in_batches(),
        },
    }
}

/// Returns the port table by rank. Of several entries that contain a port, the narrowest one decides.
fn ports(services: &[&Service]) -> Box<PortTable> {
    let mut claimed = Vec::new();
    for (rank, service) in (0_u8..).zip(services) {
        for claim in claims(&service.ports, &service.except) {
            claimed.push((claim.width, rank, claim.range));
        }
    }
    // Wide entries are written first, so that narrower ones overwrite them. Equally wide entries of
    // different services do not pass the checks; otherwise the first label would get the port.
    claimed.sort_unstable_by(|a, b| b.cmp(a));
    let mut table = CompiledPolicy::no_ports();
    for (_, rank, range) in claimed {
        let first = port_table::port_index(range.transport, range.first);
        let last = port_table::port_index(range.transport, range.last);
        if let Some(entries) = table.get_mut(first..=last) {
            entries.fill(rank);
        }
    }
    table
}

type Table<A> = Vec<(Prefix<A>, Source)>;

/// Returns the source tables by rank.
fn source_tables(
    cluster: &Cluster,
    node: &Node,
    services: &[&Service],
) -> (Table<[u8; 4]>, Table<[u8; 16]>) {
    let mut four = Vec::new();
    let mut six = Vec::new();
    let mut by_role: BTreeMap<&str, u64> = BTreeMap::new();
    for (rank, service) in services.iter().enumerate() {
        let bit = 1_u64 << rank;
        for role in &service.allow.roles {
            *by_role.entry(role).or_default() |= bit;
        }
        let source = Source { services: bit, flags: 0 };
        for set in &service.allow.prefixes {
            four.extend(set.v4.iter().map(|prefix| (*prefix, source)));
            six.extend(set.v6.iter().map(|prefix| (*prefix, source)));
        }
    }
    for member in &cluster.nodes {
        let masks = member.roles.iter().filter_map(|role| by_role.get(role.as_str()));
        let own = if member.name == node.name { Source::OWN } else { 0 };
        let source =
            Source { services: masks.fold(0, |all, mask| all | mask), flags: Source::MEMBER | own };
        for address in &member.addresses {
            match IpAddr::from(*address) {
                IpAddr::V4(v4) => four.push((Prefix { addr: v4.octets(), len: 32 }, source)),
                IpAddr::V6(v6) => six.push((Prefix { addr: v6.octets(), len: 128 }, source)),
            }
        }
    }
    (source_table::close(four), source_table::close(six))
}

fn names(cluster: &Cluster) -> Vec<(Addr, String)> {
    let nodes = cluster.nodes.iter();
    let mut names: Vec<(Addr, String)> = nodes
        .flat_map(|node| node.addresses.iter().map(|addr| (*addr, node.name.clone())))
        .collect();
    names.sort_unstable();
    names
}

/// Renumbers the services from their ranks to slots.
fn move_to(compiled: &mut CompiledPolicy, slots: &[u8]) {
    let slot_of = |rank: u8| slots.get(usize::from(rank)).copied();
    for entry in compiled.ports.iter_mut().filter(|entry| **entry != PORT_UNGUARDED) {
        *entry = slot_of(*entry).unwrap_or(PORT_UNGUARDED);
    }
    for service in &mut compiled.services {
        service.slot = slot_of(service.slot).unwrap_or(service.slot);
    }
    compiled.services.sort_by_key(|service| service.slot);
    // There are few distinct masks and many prefixes, so results are cached.
    let mut moved: HashMap<u64, u64> = HashMap::new();
    let mut shift = |mask: &mut u64| {
        let entry = moved.entry(*mask).or_insert_with(|| {
            let ranks = (0..MAX_SERVICES).filter(|rank| *mask >> rank & 1 != 0);
            ranks.filter_map(slot_of).fold(0, |all, slot| all | 1 << slot)
        });
        *mask = *entry;
    };
    for (_, source) in &mut compiled.sources4 {
        shift(&mut source.services);
    }
    for (_, source) in &mut compiled.sources6 {
        shift(&mut source.services);
    }
}

fn settings(services: &[CompiledService], ports: &PortTable) -> Settings {
    let mut settings = Settings::default();
    for service in services {
        settings.add(service.slot, &service.service);
    }
    for transport in Transport::ALL {
        let first = port_table::port_index(transport, 0);
        let last = port_table::port_index(transport, u16::MAX);
        for entry in ports.get(first..=last).unwrap_or_default() {
            if *entry < MAX_SERVICES {
                settings.add_port(*entry, transport);
            }
        }
    }
    settings
}

/// Compiles the sources to classes and tries, and numbers the buckets of members: one for each address
/// of a node and each service that the address may reach and that limits each source.
fn compile_sources(compiled: &mut CompiledPolicy) {
    let mut sources = Sources {
        any: compiled.settings.get(Setting::Any),
        limiting: compiled.settings.get(Setting::PerSource),
        // Class 0: an unknown source.
        classes: vec![Source::default()],
        numbers: HashMap::from([(Source::default(), 0)]),
        members: Vec::new(),
    };
    let items = |of: &mut Sources, table: &Table<[u8; 4]>| -> Vec<Item<u32>> {
        let item = |(prefix, source): &(Prefix<[u8; 4]>, Source)| Item {
            prefix: u32::from_be_bytes(prefix.addr),
            len: prefix.len.into(),
            found: of.found(Addr::V4(u32::from_be_bytes(prefix.addr)), source),
        };
        table.iter().map(item).collect()
    };
    compiled.trie4 = Trie::new(&items(&mut sources, &compiled.sources4));
    let items = |of: &mut Sources, table: &Table<[u8; 16]>| -> Vec<Item<[u64; 2]>> {
        let item = |(prefix, source): &(Prefix<[u8; 16]>, Source)| {
            let addr = trie::halves(u128::from_be_bytes(prefix.addr));
            let found = of.found(Addr::V6(addr), source);
            Item { prefix: addr, len: prefix.len.into(), found }
        };
        table.iter().map(item).collect()
    };
    compiled.trie6 = Trie::new(&items(&mut sources, &compiled.sources6));
    // Not in `sources4` and `sources6`: it follows from the services, and their slots are not part of
    // the hash.
    let charges = Charges::of(compiled);
    compiled.classes = sources.classes.into_iter().map(|source| charges.charge(source)).collect();
    compiled.members = sources.members;
}

/// The classes and buckets numbered so far.
struct Sources {
    any: u64,
    limiting: u64,
    classes: Vec<Source>,
    numbers: HashMap<Source, u16>,
    members: Vec<MemberKey>,
}

impl Sources {
    fn found(&mut self, addr: Addr, source: &Source) -> Found {
        let next = self.classes.len();
        let class = *self.numbers.entry(*source).or_insert_with(|| {
            self.classes.push(*source);
            // A policy with more classes than a `u16` holds is rejected afterwards.
            u16::try_from(next).unwrap_or(0)
        });
        // An address that the manifest gives to this node may be that of a container on it, so it has
        // buckets as well. The kernel refuses only addresses that the node holds.
        let mut slots =
            if source.is_member() { (source.services | self.any) & self.limiting } else { 0 };
        let buckets = if slots == 0 { 0 } else { self.members.len() };
        while slots != 0 {
            // Always below 64.
            let slot = u8::try_from(slots.trailing_zeros()).unwrap_or(0);
            self.members.push(MemberKey::new(slot, &addr));
            slots &= slots.wrapping_sub(1);
        }
        Found { class, buckets: u32::try_from(buckets).unwrap_or(u32::MAX) }
    }
}
