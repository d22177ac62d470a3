//! A node's policy in the form in which it is enforced: the bytes of the kernel maps, and the same
//! tables for the host.

use std::collections::BTreeMap;

use crate::{limiter::HostLimiter, trie::Trie};
use guard_common::{
    Addr, NoTrace, Tables, evaluate,
    layout::MemberKey,
    packet::Frame,
    port_table::{self, PORT_TABLE_LEN, PORT_TUNNEL, PORT_UNGUARDED, Port, PortTable, Transport},
    tables::{Service, Setting, Settings, Source},
    trie::Found,
    verdict::Verdict,
    wire,
};

/// A prefix of one family in network byte order: `A` is `[u8; 4]` or `[u8; 16]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix<A> {
    /// The address; host bits are zero.
    pub addr: A,
    /// Length in bits.
    pub len: u8,
}

/// A service in its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledService {
    /// Slot: bit of [`Source::services`], entry of the port table, index of counters.
    pub slot: u8,
    /// `policy/service`, at most 127 bytes. Stable across generations, it owns the slot.
    pub label: String,
    /// Name of the service alone, as in the policy.
    pub name: String,
    /// What the service asks for.
    pub service: Service,
}

/// A node's policy, compiled. Equal policies compile to equal bytes.
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// SHA-256 over the canonical form: what is enforced, not how it was written.
    pub hash: [u8; 32],
    /// Facts about the node.
    pub settings: Settings,
    /// The services that this node runs, by slot.
    pub services: Vec<CompiledService>,
    /// What each port is.
    pub ports: Box<PortTable>,
    /// IP protocols that a device of this node unpacks: bit `n % 64` of word `n / 64`.
    pub unpacks: [u64; 4],
    /// IPv4 sources, sorted, no prefix twice. A longer prefix carries the services of every shorter
    /// one that covers it.
    pub sources4: Vec<(Prefix<[u8; 4]>, Source)>,
    /// IPv6 sources, likewise.
    pub sources6: Vec<(Prefix<[u8; 16]>, Source)>,
    /// What may be known of a source, by the class that the tries say. Class 0 is unknown.
    pub classes: Vec<Source>,
    /// The IPv4 sources, compiled.
    pub trie4: Trie<u32>,
    /// The IPv6 sources, compiled.
    pub trie6: Trie<[u64; 2]>,
    /// The bucket states that members need: each address of another node with each service that it
    /// may reach and that limits sources. The tries say where those of an address begin.
    pub members: Vec<MemberKey>,
    /// Name of the node that has an address, sorted by address: for people, not for decisions.
    pub names: Vec<(Addr, String)>,
    /// Slots that an earlier generation gave to a service that is gone, and this one gives to
    /// another: their counters and bucket states must be cleared.
    pub reclaimed: Vec<u8>,
}

/// What the devices of a node unpack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// IP protocol numbers, sorted.
    pub protocols: Vec<u8>,
    /// UDP ports, sorted.
    pub udp_ports: Vec<u16>,
}

impl Tunnels {
    /// Adds what a device of a kind unpacks. `kind` is the kind of `ip link` (`IFLA_INFO_KIND`), or
    /// `l2tp` or `fou`; `port` is the UDP port where the kind has one.
    ///
    /// # Errors
    /// The kinds that are known, if this is none of them or lacks its port; or that 0 is none.
    pub fn add(&mut self, kind: &str, port: Option<u16>) -> Result<(), &'static str> {
        use wire::{
            PROTO_AH, PROTO_ESP, PROTO_GRE, PROTO_IPIP, PROTO_IPV6, PROTO_L2TP, PROTO_MPLS,
        };
        if port == Some(0) {
            return Err("0 is no port");
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

    /// One device, as `KIND` or `KIND:PORT`.
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
    /// What all of some devices unpack.
    pub fn all<'a>(devices: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for Self { protocols, udp_ports } in devices {
            insert_sorted(&mut all.protocols, protocols);
            insert_sorted(&mut all.udp_ports, udp_ports);
        }
        all
    }
}

/// The name that belongs to an address, among names sorted by address.
pub fn name_of<'a>(names: &'a [(Addr, String)], addr: &Addr) -> Option<&'a str> {
    let at = names.binary_search_by(|(known, _)| known.cmp(addr)).ok()?;
    names.get(at).map(|(_, name)| name.as_str())
}

/// What to call a service: its own name, unless another of these labels has the same one.
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
    /// The same policy on a node with these tunnel devices. Replaces what was known of tunnels;
    /// the hash stays, it names the policy.
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

    /// The label of the service in a slot.
    pub fn service_in(&self, slot: u8) -> Option<&CompiledService> {
        self.services.iter().find(|service| service.slot == slot)
    }

    /// What to call the service of a verdict; none if no service was asked.
    pub fn name_of_service(&self, verdict: &Verdict) -> Option<&str> {
        let service = self.service_in(verdict.service?)?;
        Some(service_name(&service.label, self.services.iter().map(|service| &service.label)))
    }

    /// The name of the node that has an address.
    pub fn name_of(&self, addr: &Addr) -> Option<&str> {
        name_of(&self.names, addr)
    }

    /// An all-unguarded port table.
    pub fn no_ports() -> Box<PortTable> {
        let table = vec![PORT_UNGUARDED; PORT_TABLE_LEN].into_boxed_slice();
        // The length is that of the type.
        table.try_into().unwrap_or_else(|_| unreachable!("a vector of PORT_TABLE_LEN entries"))
    }

    /// The first port of each service, and the first that no service guards.
    pub fn first_ports(&self) -> Vec<(Transport, u16)> {
        let mut first: BTreeMap<u8, (Transport, u16)> = BTreeMap::new();
        for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
            for (port, entry) in self.port_runs(transport) {
                first.entry(entry).or_insert((transport, port));
            }
        }
        first.into_values().collect()
    }

    /// The ports of a transport in runs of equal entries: the first port of each run, and its entry.
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

    /// The policy as the host decides by it.
    pub fn host(&self) -> HostTables<'_> {
        HostTables {
            policy: self,
            services: std::array::from_fn(|slot| {
                let slot = u8::try_from(slot).ok()?;
                self.service_in(slot).map(|service| service.service)
            }),
        }
    }

    /// Bytes of the tables that say which source may reach what.
    pub fn source_bytes(&self) -> usize {
        self.trie4.bytes() + self.trie6.bytes() + size_of_val(&*self.classes)
    }
}

/// A policy as the host walks it: the arrays that the kernel gets.
#[derive(Debug)]
pub struct HostTables<'a> {
    policy: &'a CompiledPolicy,
    services: [Option<Service>; guard_common::verdict::MAX_SERVICES as usize],
}

impl HostTables<'_> {
    /// The verdict of the decision on a frame, with these tables and the bucket states of `limiter`.
    ///
    /// The decision is generic. Without an observer it is compiled for the host here and nowhere else, so
    /// optimised also where the caller is not: inlined, it would be compiled there.
    #[inline(never)]
    pub fn verdict(&self, frame: &Frame<'_>, limiter: &HostLimiter) -> Verdict {
        evaluate(frame, self, limiter, &mut NoTrace)
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
