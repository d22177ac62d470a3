//! The compiled policy of one node: the contents of the kernel maps, and the same tables for evaluating
//! packets on the host.
//!
//! Decision: `docs/decisions/0031-two-policy-hashes.md`.

use std::collections::BTreeMap;

use crate::{limiter::HostLimiter, trie::Trie};
use guard_common::{
    Addr, NoTrace, Tables, evaluate,
    layout::MemberKey,
    packet::Frame,
    port_table::{self, PORT_TABLE_LEN, PORT_TUNNEL, PORT_UNGUARDED, Port, PortTable, Transport},
    stack::Offline,
    tables::{Service, Setting, Settings, Source},
    trie::Found,
    verdict::Verdict,
    wire,
};

/// A prefix of one address family, in network byte order.
///
/// `A` is `[u8; 4]` for IPv4 or `[u8; 16]` for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix<A> {
    /// The address; bits beyond the prefix length are zero.
    pub addr: A,
    /// Prefix length in bits: 0 to 32 or 0 to 128.
    pub len: u8,
}

/// A service of the node and the slot that it occupies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledService {
    /// The slot, below `MAX_SERVICES`: the bit in [`Source::services`], the entry in the port table,
    /// and the index of the counters.
    pub slot: u8,
    /// `policy/service`, at most 127 bytes. Identifies the service across generations, so that it keeps
    /// its slot.
    pub label: String,
    /// The name without the policy, as the policy gives it.
    pub name: String,
    /// Flags and limits of the service, in the form that the kernel uses.
    pub service: Service,
}

/// The policy of one node, compiled to tables.
///
/// Made by `compile` in the crate `guard-policy`, which fails if there are more services, prefixes,
/// classes or bucket states than the kernel maps hold. Equal policies with equal placements compile to
/// equal bytes. Tunnels are not known at compile time; see [`CompiledPolicy::set_tunnels`].
///
/// # Examples
///
/// The example of `compile` in the crate `guard-policy` compiles a policy and evaluates a frame
/// with [`CompiledPolicy::host`].
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// SHA-256 of the name of the node, the labels, flags and limits of the services, the ports and the
    /// sources. Independent of slots, of the order of lists, and of how the policy is written.
    pub hash: [u8; 32],
    /// Facts about the whole node, mostly masks of service slots; see [`Setting`].
    pub settings: Settings,
    /// The services that this node runs, sorted by slot.
    pub services: Vec<CompiledService>,
    /// One entry per transport and port: the slot of the service, [`PORT_UNGUARDED`] or
    /// [`PORT_TUNNEL`].
    pub ports: Box<PortTable>,
    /// IP protocols that a tunnel device of this node decapsulates: bit `n % 64` of word `n / 64`.
    pub unpacks: [u64; 4],
    /// IPv4 sources, sorted by address and then by length, without duplicates. Each prefix includes the
    /// services of every shorter prefix that covers it, so the longest match decides alone.
    pub sources4: Vec<(Prefix<[u8; 4]>, Source)>,
    /// IPv6 sources, in the same form as `sources4`.
    pub sources6: Vec<(Prefix<[u8; 16]>, Source)>,
    /// The distinct values of [`Source`], by the class number that the tries return. Class 0 is an
    /// unknown source.
    pub classes: Vec<Source>,
    /// Longest-prefix-match trie of `sources4`.
    pub trie4: Trie<u32>,
    /// Longest-prefix-match trie of `sources6`.
    pub trie6: Trie<[u64; 2]>,
    /// Keys of the bucket states that the kernel needs: for each address of another node, one per
    /// service that the address may reach and that limits each source. [`Found::buckets`] is the index
    /// of the first one of an address.
    pub members: Vec<MemberKey>,
    /// Addresses of all nodes and the names of the nodes, sorted by address. Used for display only,
    /// never in a decision.
    pub names: Vec<(Addr, String)>,
    /// Slots whose service was removed in an earlier generation and that now hold another service.
    /// Their counters and bucket states must be cleared.
    pub reclaimed: Vec<u8>,
}

/// IP protocols and UDP ports that the tunnel devices of a node decapsulate.
///
/// # Examples
///
/// ```
/// use guard_tables::compiled::Tunnels;
///
/// let mut tunnels = Tunnels::default();
/// tunnels.add("vxlan", Some(4789)).expect("a known kind with its port");
/// assert_eq!(tunnels.udp_ports, [4789]);
/// assert_eq!("vxlan:4789".parse::<Tunnels>(), Ok(tunnels));
/// assert!("vxlan".parse::<Tunnels>().is_err(), "the port is missing");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// IP protocol numbers, sorted.
    pub protocols: Vec<u8>,
    /// UDP ports, sorted.
    pub udp_ports: Vec<u16>,
}

impl Tunnels {
    /// Adds the protocols or the UDP port of a tunnel device.
    ///
    /// `kind` is a link kind as `ip link` names it (`IFLA_INFO_KIND`), or `l2tp` or `fou`. `port` is
    /// the UDP port, for kinds that have one.
    ///
    /// # Errors
    /// `kind` is unknown, or its port is missing or superfluous: the message lists the known kinds.
    /// `port` is 0.
    pub fn add(&mut self, kind: &str, port: Option<u16>) -> Result<(), &'static str> {
        use wire::{
            PROTO_AH, PROTO_ESP, PROTO_GRE, PROTO_IPIP, PROTO_IPV6, PROTO_L2TP, PROTO_MPLS,
        };
        if port == Some(0) {
            return Err("port 0 does not exist");
        }
        let protocols: &[u8] = match (kind, port) {
            ("ipip", None) => &[PROTO_IPIP, PROTO_MPLS],
            ("sit" | "ip6tnl", None) => &[PROTO_IPIP, PROTO_IPV6, PROTO_MPLS],
            ("gre" | "gretap" | "erspan" | "ip6gre" | "ip6gretap" | "ip6erspan", None) => {
                &[PROTO_GRE]
            }
            ("vti" | "vti6" | "xfrm", None) => &[PROTO_ESP, PROTO_AH],
            ("l2tp", None) => &[PROTO_L2TP],
            ("vxlan" | "geneve" | "fou" | "gue" | "l2tp" | "gtp" | "bareudp" | "amt", Some(_)) => {
                &[]
            }
            _ => {
                return Err(
                    "known kinds are ipip, sit, ip6tnl, gre, gretap, erspan, ip6gre, ip6gretap, ip6erspan, \
                            vti, vti6, xfrm, l2tp, or with a port vxlan, geneve, fou, gue, l2tp, \
                            gtp, bareudp, amt",
                );
            }
        };
        insert_sorted(&mut self.protocols, protocols);
        insert_sorted(&mut self.udp_ports, port.as_slice());
        Ok(())
    }
}

impl std::str::FromStr for Tunnels {
    type Err = String;

    /// Parses one device: `KIND` or `KIND:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, port) = match text.split_once(':') {
            None => (text, None),
            Some((kind, port)) => {
                let port: Result<u16, _> = port.parse();
                (kind, Some(port.map_err(|_invalid| "PORT is a number up to 65535".to_owned())?))
            }
        };
        let mut tunnels = Self::default();
        tunnels.add(kind, port)?;
        Ok(tunnels)
    }
}

impl Tunnels {
    /// Combines the protocols and ports of several devices.
    pub fn all<'a>(devices: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for Self { protocols, udp_ports } in devices {
            insert_sorted(&mut all.protocols, protocols);
            insert_sorted(&mut all.udp_ports, udp_ports);
        }
        all
    }
}

/// Returns the node name for an address. `names` must be sorted by address.
pub fn name_of<'a>(names: &'a [(Addr, String)], addr: &Addr) -> Option<&'a str> {
    let at = names.binary_search_by(|(known, _)| known.cmp(addr)).ok()?;
    names.get(at).map(|(_, name)| name.as_str())
}

/// Returns the name to display for a service: the name without the policy if it is unique among
/// `labels`, else the whole label.
pub fn service_name<'a>(label: &'a str, labels: impl IntoIterator<Item = &'a String>) -> &'a str {
    let own = |label: &'a str| label.split_once('/').map_or(label, |(_, name)| name);
    let name = own(label);
    let same = labels.into_iter().filter(|other| own(other) == name).count();
    if same > 1 { label } else { name }
}

fn insert_sorted<T: Copy + Ord>(into: &mut Vec<T>, items: &[T]) {
    into.extend_from_slice(items);
    into.sort_unstable();
    into.dedup();
}

impl CompiledPolicy {
    /// Replaces the tunnel devices of the node: the entries [`PORT_TUNNEL`] of the port table, and
    /// `unpacks`.
    ///
    /// A port that a service guards stays guarded. The hash does not change, because tunnels are not
    /// part of the policy.
    pub fn set_tunnels(&mut self, tunnels: &Tunnels) {
        for entry in self.ports.iter_mut().filter(|entry| **entry == PORT_TUNNEL) {
            *entry = PORT_UNGUARDED;
        }
        for &port in &tunnels.udp_ports {
            if let Some(entry) = self.ports.get_mut(port_table::port_index(Transport::Udp, port))
                && *entry == PORT_UNGUARDED
            {
                *entry = PORT_TUNNEL;
            }
        }
        self.unpacks = [0; 4];
        for &protocol in &tunnels.protocols {
            if let Some(word) = self.unpacks.get_mut(usize::from(protocol / 64)) {
                *word |= 1 << (protocol % 64);
            }
        }
    }

    /// Returns the service in a slot; none if the slot is empty.
    pub fn service_in(&self, slot: u8) -> Option<&CompiledService> {
        self.services.iter().find(|service| service.slot == slot)
    }

    /// Returns the display name of the service that gave a verdict; none if no service was consulted.
    pub fn name_of_service(&self, verdict: &Verdict) -> Option<&str> {
        let service = self.service_in(verdict.service?)?;
        Some(service_name(&service.label, self.services.iter().map(|service| &service.label)))
    }

    /// Returns the name of the node that has an address.
    pub fn name_of(&self, addr: &Addr) -> Option<&str> {
        name_of(&self.names, addr)
    }

    /// Returns a port table in which no port is guarded.
    pub fn no_ports() -> Box<PortTable> {
        let table = vec![PORT_UNGUARDED; PORT_TABLE_LEN].into_boxed_slice();
        // The vector has exactly the length of the array type.
        table.try_into().unwrap_or_else(|_| unreachable!("a vector of PORT_TABLE_LEN entries"))
    }

    /// Returns one port for each distinct entry of the port table: the first port of each service, and
    /// the first unguarded one. TCP comes before UDP, and UDP before SCTP.
    pub fn first_ports(&self) -> Vec<(Transport, u16)> {
        let mut first: BTreeMap<u8, (Transport, u16)> = BTreeMap::new();
        for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
            for (port, entry) in self.port_runs(transport) {
                first.entry(entry).or_insert((transport, port));
            }
        }
        first.into_values().collect()
    }

    /// Returns the runs of equal entries in the port table of a transport: the first port of each run,
    /// and the entry.
    pub fn port_runs(&self, transport: Transport) -> Vec<(u16, u8)> {
        let [first, last] = [0, u16::MAX].map(|port| port_table::port_index(transport, port));
        let entries = self.ports.get(first..=last).unwrap_or_default();
        let mut port = 0;
        let runs = entries.chunk_by(|entry, next| entry == next).filter_map(|run| {
            let first = u16::try_from(port).ok()?;
            port += run.len();
            Some((first, *run.first()?))
        });
        runs.collect()
    }

    /// Returns the tables in the form in which the host evaluates packets.
    pub fn host(&self) -> HostTables<'_> {
        HostTables {
            policy: self,
            services: std::array::from_fn(|slot| {
                let slot = u8::try_from(slot).ok()?;
                self.service_in(slot).map(|service| service.service)
            }),
        }
    }

    /// Returns the size of the tries and the classes in bytes.
    pub fn source_bytes(&self) -> usize {
        self.trie4.bytes() + self.trie6.bytes() + size_of_val(&*self.classes)
    }
}

/// The tables of a policy for evaluating packets on the host. Uses the same arrays as the kernel.
#[derive(Debug)]
pub struct HostTables<'a> {
    policy: &'a CompiledPolicy,
    services: [Option<Service>; guard_common::verdict::MAX_SERVICES as usize],
}

impl HostTables<'_> {
    /// Evaluates a frame with these tables and the bucket states of `limiter`, for a node without
    /// sockets that forwards nothing.
    ///
    /// `evaluate` is generic. This function is the only place that instantiates it for the host without
    /// an observer, and it is not inlined, so the code has this crate's optimisation level even if the
    /// caller's crate is built without optimisation.
    #[inline(never)]
    pub fn verdict(&self, frame: &Frame<'_>, limiter: &HostLimiter) -> Verdict {
        evaluate(frame, self, &Offline::default(), limiter, &mut NoTrace)
    }
}

impl Tables for HostTables<'_> {
    fn setting(&self, setting: Setting) -> u64 {
        self.policy.settings.get(setting)
    }

    fn port_at(&self, index: usize) -> Port {
        let entry = self.policy.ports.get(index);
        port_table::port_entry(entry.copied().unwrap_or(PORT_UNGUARDED))
    }

    fn unpacks(&self, protocol: u8) -> bool {
        let word = self.policy.unpacks.get(usize::from(protocol / 64)).copied().unwrap_or(0);
        word >> (protocol % 64) & 1 != 0
    }

    fn find(&self, addr: &Addr) -> Found {
        match *addr {
            Addr::V4(addr) => self.policy.trie4.find(addr),
            Addr::V6(halves) => self.policy.trie6.find(halves),
        }
    }

    fn class(&self, class: u16) -> Source {
        self.policy.classes.get(usize::from(class)).copied().unwrap_or_default()
    }

    fn service(&self, slot: u8) -> Option<&Service> {
        self.services.get(usize::from(slot))?.as_ref()
    }
}
