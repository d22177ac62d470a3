//! Refused sources that are no node of the policy: which of them behave like a member that is missing
//! from the manifest, and which like any other source.
//!
//! Memory is bounded. When the table is full, a new source replaces the least frequent one. A source
//! without a network in common with a node never replaces one that shares a network. So a flood of
//! forged addresses from elsewhere hides no missing member; a flood of addresses of the cluster's own
//! networks can.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use guard_common::{
    Addr,
    layout::event::Event as Sample,
    parse,
    port_table::Transport,
    verdict::{Reason, Verdict},
    wire,
};

use super::names::Names;
use crate::{
    api::events::missing::{self, Missing, TriedPort, UnlistedSource},
    policy::{Cluster, compiled::name_of, resolve::provenance},
    text::time,
};

/// Maximum number of sources that are kept.
const CAPACITY: usize = 512;
/// Maximum number of ports that are kept per source.
const MAX_PORTS: usize = 16;
/// Minimum number of packets of a source that behaves like a member, over at least [`SLOTS`] slots.
const ATTEMPTS: u64 = 3;
/// Minimum number of slots in which a member sends.
const SLOTS: u64 = 2;
/// Length of a slot, in seconds.
const SLOT: u64 = 5;
/// Maximum number of neighbours that are named.
const MAX_NEIGHBOURS: usize = 3;
/// Maximum number of prefixes of networks. If a manifest has more, none are kept, and the client has to
/// look them up in the manifest.
const MAX_PREFIXES: usize = 4096;

/// The networks of a cluster's nodes, and the named networks of the manifest.
#[derive(Debug, Default)]
pub(crate) struct ClusterNetworks {
    /// The IPv4 addresses of the nodes without the last octet.
    v4: BTreeSet<u32>,
    /// The upper halves of the IPv6 addresses of the nodes.
    v6: BTreeSet<u64>,
    networks: Vec<std::sync::Arc<crate::policy::resolve::cluster::PrefixSet>>,
}

impl ClusterNetworks {
    /// Returns the networks of a cluster.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let mut near = Self::default();
        for addr in cluster.nodes.iter().flat_map(|node| &node.addresses) {
            match addr {
                Addr::V4(addr) => near.v4.insert(addr >> 8),
                Addr::V6([high, _]) => near.v6.insert(*high),
            };
        }
        let networks = cluster.networks.iter().map(|network| &network.prefixes);
        let prefixes: usize = networks.clone().map(|set| set.v4.len() + set.v6.len()).sum();
        if prefixes <= MAX_PREFIXES {
            near.networks = networks.cloned().collect();
        }
        near
    }

    fn contains(&self, addr: &Addr) -> bool {
        let shared = match addr {
            Addr::V4(addr) => self.v4.contains(&(addr >> 8)),
            Addr::V6([high, _]) => self.v6.contains(high),
        };
        shared || self.networks.iter().any(|set| provenance::covering(set, addr).is_some())
    }
}

/// Order of replacement, smallest first: near a node or not, slots, packets, last seen.
type Rank = (bool, u64, u64, SystemTime);

/// A refused source: counts of its sampled packets, and the ports that it tried.
#[derive(Debug)]
struct Entry {
    near: bool,
    attempts: u64,
    datagrams: u64,
    slots: u64,
    last_slot: u64,
    first: SystemTime,
    last: SystemTime,
    tried: BTreeSet<TriedPort>,
    tried_more: bool,
}

impl Entry {
    fn rank(&self) -> Rank {
        (self.near, self.slots, self.attempts + self.datagrams, self.last)
    }

    fn is_like_a_member(&self) -> bool {
        self.attempts + self.datagrams >= ATTEMPTS && self.slots >= SLOTS
    }
}

/// The refused sources that are no node of the policy.
#[derive(Debug)]
pub(crate) struct RefusedSources {
    since: SystemTime,
    near: ClusterNetworks,
    entries: BTreeMap<Addr, Entry>,
    /// The entries by rank, so that a flood of new sources does not need a search over all entries.
    ranks: BTreeSet<(Rank, Addr)>,
}

impl RefusedSources {
    /// Starts without sources. `since`: when recording starts.
    pub(crate) fn new(since: SystemTime) -> Self {
        Self {
            since,
            near: ClusterNetworks::default(),
            entries: BTreeMap::new(),
            ranks: BTreeSet::new(),
        }
    }

    /// Follows a switch of the policy: sources that are nodes now are removed.
    pub(crate) fn set_policy(&mut self, near: ClusterNetworks, names: &[(Addr, String)]) {
        self.entries.retain(|addr, _| name_of(names, addr).is_none());
        for (addr, entry) in &mut self.entries {
            entry.near = near.contains(addr);
        }
        self.ranks = self.entries.iter().map(|(addr, entry)| (entry.rank(), *addr)).collect();
        self.near = near;
    }

    /// Records a refused packet. `flags`: its TCP flags; none if it has none.
    pub(crate) fn add(
        &mut self,
        sample: &Sample,
        verdict: Verdict,
        flags: Option<u8>,
        names: Names<'_>,
        now: SystemTime,
    ) {
        let (Some(addr), Some(transport)) = (sample.source(), parse::transport(sample.protocol))
        else {
            return;
        };
        let service = verdict.service.and_then(|slot| names.services.get(&slot));
        let (Reason::NotAllowed, Some(service)) = (verdict.reason, service) else { return };
        // A packet in the middle of a connection is no attempt to join.
        let opens = transport == Transport::Tcp
            && flags.is_some_and(|flags| flags & (wire::TCP_SYN | wire::TCP_ACK) == wire::TCP_SYN);
        if (transport == Transport::Tcp && !opens) || name_of(names.nodes, &addr).is_some() {
            return;
        }
        if !self.entries.contains_key(&addr) {
            let near = self.near.contains(&addr);
            if self.entries.len() >= CAPACITY && !self.make_room(near) {
                return;
            }
            self.entries.insert(
                addr,
                Entry {
                    near,
                    attempts: 0,
                    datagrams: 0,
                    slots: 0,
                    last_slot: u64::MAX,
                    first: now,
                    last: now,
                    tried: BTreeSet::new(),
                    tried_more: false,
                },
            );
        }
        let Some(entry) = self.entries.get_mut(&addr) else { return };
        self.ranks.remove(&(entry.rank(), addr));
        if opens {
            entry.attempts += 1;
        } else {
            entry.datagrams += 1;
        }
        entry.last = now;
        let slot = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |at| at.as_secs() / SLOT);
        if slot != entry.last_slot {
            entry.last_slot = slot;
            entry.slots += 1;
        }
        let port = format!("{}/{}", transport.name(), sample.port);
        let tried = TriedPort { service: service.name.clone(), port };
        if entry.tried.len() < MAX_PORTS {
            entry.tried.insert(tried);
        } else {
            entry.tried_more |= !entry.tried.contains(&tried);
        }
        self.ranks.insert((entry.rank(), addr));
    }

    /// Removes the source with the lowest rank. Refuses if that source is near a node and the new one
    /// is not.
    fn make_room(&mut self, near: bool) -> bool {
        let Some(least) = self.ranks.first().copied() else { return false };
        let ((least_is_near, ..), addr) = least;
        if least_is_near && !near {
            return false;
        }
        self.ranks.remove(&least);
        self.entries.remove(&addr).is_some()
    }

    /// Returns the sources that behave like a member, in any network.
    pub(crate) fn missing(&self, names: &[(Addr, String)]) -> Missing {
        let mut like: Vec<(&Addr, &Entry)> =
            self.entries.iter().filter(|(_, entry)| entry.is_like_a_member()).collect();
        like.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.attempts + entry.datagrams));
        let sources = like.into_iter().map(|(addr, entry)| {
            let neighbours = neighbours(names, addr);
            let mut known: Vec<String> = neighbours.iter().map(|(_, name)| name.clone()).collect();
            known.dedup();
            let neighbour_count = known.len();
            known.truncate(MAX_NEIGHBOURS);
            UnlistedSource {
                address: IpAddr::from(*addr),
                near: entry.near,
                neighbours: known,
                neighbour_count,
                attempts: entry.attempts,
                datagrams: entry.datagrams,
                slots: entry.slots,
                first_seen: time(entry.first),
                last_seen: time(entry.last),
                tried: entry.tried.iter().cloned().collect(),
                tried_more: entry.tried_more,
            }
        });
        Missing {
            schema: missing::SCHEMA.to_owned(),
            since: time(self.since),
            sources: sources.collect(),
            ..Missing::default()
        }
    }
}

/// Returns the nodes in the /24 or /64 of an address. `names` must be sorted by address.
fn neighbours<'n>(names: &'n [(Addr, String)], addr: &Addr) -> &'n [(Addr, String)] {
    let (first, last) = match *addr {
        Addr::V4(addr) => (Addr::V4(addr & !0xff), Addr::V4(addr | 0xff)),
        Addr::V6([high, _]) => (Addr::V6([high, 0]), Addr::V6([high, u64::MAX])),
    };
    let from = names.partition_point(|(known, _)| *known < first);
    let to = names.partition_point(|(known, _)| *known <= last);
    names.get(from..to).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use guard_common::verdict::Action;

    use super::*;
    use crate::api::status::ServiceStatus;

    const NEAR: u32 = 0x0a4d_0063;
    const FAR: u32 = 0xc000_0200;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + seconds)
    }

    fn sources() -> RefusedSources {
        let mut sources = RefusedSources::new(at(0));
        let near = ClusterNetworks { v4: [NEAR >> 8].into(), ..ClusterNetworks::default() };
        sources.set_policy(near, &[(Addr::V4(0x0a4d_0014), "worker-0".to_owned())]);
        sources
    }

    fn refuse(sources: &mut RefusedSources, source: u32, port: u16, flags: u8, now: SystemTime) {
        let verdict = Verdict::of_service(Action::Drop, Reason::NotAllowed, 0);
        let sample = Sample {
            source: Addr::V4(source).mapped(),
            family: Sample::IPV4,
            protocol: 6,
            port,
            verdict: verdict.pack(),
            ..Sample::default()
        };
        let status = ServiceStatus { name: "s".to_owned(), ..ServiceStatus::default() };
        let services = [(0, status)].into();
        let names = Names { services: &services, nodes: &names(), devices: &[] };
        sources.add(&sample, verdict, Some(flags), names, now);
    }

    fn names() -> Vec<(Addr, String)> {
        vec![(Addr::V4(0x0a4d_0014), "worker-0".to_owned())]
    }

    fn listed(sources: &RefusedSources) -> Vec<(String, bool)> {
        let missing = sources.missing(&names());
        missing.sources.iter().map(|source| (source.address.to_string(), source.near)).collect()
    }

    #[test]
    fn a_source_that_returns_is_like_a_member() {
        let mut sources = sources();
        for _ in 0..100 {
            refuse(&mut sources, NEAR, 9091, wire::TCP_SYN, at(0));
        }
        assert_eq!(listed(&sources), [], "packets at one time are a scan");
        refuse(&mut sources, NEAR, 9091, wire::TCP_SYN, at(6));
        let missing = sources.missing(&names());
        let [source] = missing.sources.as_slice() else { panic!("{missing:?}") };
        assert_eq!((source.attempts, source.datagrams, source.slots), (101, 0, 2));
        assert_eq!(
            (source.near, source.neighbours.as_slice()),
            (true, &["worker-0".to_owned()][..])
        );
        assert_eq!(
            source.tried,
            [TriedPort { service: "s".to_owned(), port: "tcp/9091".to_owned() }]
        );
        // A source that is a node now is not missing any more.
        sources.set_policy(ClusterNetworks::default(), &[(Addr::V4(NEAR), "new".to_owned())]);
        assert_eq!(listed(&sources), []);
        assert!(sources.ranks.is_empty());
    }

    #[test]
    fn a_packet_that_opens_no_connection_is_no_attempt() {
        let mut sources = sources();
        for second in 0..60 {
            refuse(&mut sources, NEAR, 9091, wire::TCP_ACK, at(second));
            refuse(&mut sources, NEAR, 9091, wire::TCP_SYN | wire::TCP_ACK, at(second));
            refuse(&mut sources, 0x0a4d_0014, 9091, wire::TCP_SYN, at(second));
        }
        assert!(sources.entries.is_empty());
    }

    #[test]
    fn a_flood_of_forged_sources_from_elsewhere_hides_no_source_near_a_node() {
        let mut sources = sources();
        for round in 0..60_000_u32 {
            refuse(&mut sources, FAR + round, 9091, wire::TCP_SYN, at(u64::from(round / 1000)));
            if round % 20_000 == 0 {
                refuse(&mut sources, NEAR, 9091, wire::TCP_SYN, at(u64::from(round / 1000)));
            }
            assert!(sources.entries.len() <= CAPACITY);
            assert_eq!(sources.entries.len(), sources.ranks.len());
        }
        assert_eq!(listed(&sources), [("10.77.0.99".to_owned(), true)]);
    }

    #[test]
    fn ports_are_bounded() {
        let mut sources = sources();
        for port in 1..1000 {
            refuse(&mut sources, NEAR, port, wire::TCP_SYN, at(port.into()));
        }
        let missing = sources.missing(&names());
        let source = missing.sources.first().expect("a source");
        assert_eq!((source.tried.len(), source.tried_more), (MAX_PORTS, true));
    }
}
