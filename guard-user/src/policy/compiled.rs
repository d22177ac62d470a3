//! A node's policy in the form in which it is enforced: the bytes of the kernel maps, and the same
//! tables for the host.

use guard_common::{
    Addr, Tables,
    flow::Transport,
    layout::{self, MemberKey, PORT_TABLE_LEN, PORT_TUNNEL, PORT_UNGUARDED, PortTable},
    tables::{Port, Service, Settings, Source},
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
    /// Keys of the bucket states that members need: each address of a node with each service that
    /// limits it per source.
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
            if let Some(entry) = self.ports.get_mut(layout::port_index(Transport::Udp, port))
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

    /// The policy as the host decides by it.
    pub fn host(&self) -> HostTables<'_> {
        HostTables {
            policy: self,
            services: std::array::from_fn(|slot| {
                let slot = u8::try_from(slot).ok()?;
                self.service_in(slot).map(|service| service.service)
            }),
            sources4: Ranges::new(self.sources4.iter().map(|(prefix, source)| {
                (u128::from(u32::from_be_bytes(prefix.addr)), 32 - u32::from(prefix.len), *source)
            })),
            sources6: Ranges::new(self.sources6.iter().map(|(prefix, source)| {
                (u128::from_be_bytes(prefix.addr), 128 - u32::from(prefix.len), *source)
            })),
        }
    }
}

/// A policy as plain collections. Sources are disjoint ranges and a binary search: nothing in
/// common with the tries of the kernel, so that a comparison of the two means something.
#[derive(Debug)]
pub struct HostTables<'a> {
    policy: &'a CompiledPolicy,
    services: [Option<Service>; guard_common::verdict::MAX_SERVICES as usize],
    sources4: Ranges,
    sources6: Ranges,
}

impl Tables for HostTables<'_> {
    fn settings(&self) -> Settings {
        self.policy.settings
    }

    fn port(&self, transport: Transport, port: u16) -> Port {
        let entry = self.policy.ports.get(layout::port_index(transport, port));
        layout::port_entry(entry.copied().unwrap_or(PORT_UNGUARDED))
    }

    fn unpacks(&self, protocol: u8) -> bool {
        let word = self.policy.unpacks.get(usize::from(protocol / 64)).copied().unwrap_or(0);
        word >> (protocol % 64) & 1 != 0
    }

    fn source(&self, addr: &Addr) -> Source {
        match *addr {
            Addr::V4(addr) => self.sources4.find(addr.into()),
            Addr::V6([high, low]) => self.sources6.find(u128::from(high) << 64 | u128::from(low)),
        }
    }

    fn service(&self, slot: u8) -> Option<&Service> {
        self.services.get(usize::from(slot))?.as_ref()
    }
}

/// The starts of disjoint ranges that cover everything, sorted, each with what holds from there on.
#[derive(Debug)]
struct Ranges(Vec<(u128, Source)>);

impl Ranges {
    /// From sorted prefixes: (first address, host bits, source).
    fn new(prefixes: impl Iterator<Item = (u128, u32, Source)>) -> Self {
        let mut starts: Vec<(u128, Source)> = vec![(0, Source::default())];
        let mut set = |at: u128, source: Source| match starts.last_mut() {
            Some((last, known)) if *last == at => *known = source,
            _ => starts.push((at, source)),
        };
        // The prefixes that are open, outermost first: (last address, source).
        let mut open: Vec<(u128, Source)> = Vec::new();
        let outside = |open: &[(u128, Source)]| open.last().map_or(Source::default(), |o| o.1);
        for (first, host_bits, source) in prefixes {
            let last = first | 1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
            while let Some(&(end, _)) = open.last()
                && end < first
            {
                open.pop();
                if let Some(next) = end.checked_add(1) {
                    set(next, outside(&open));
                }
            }
            set(first, source);
            open.push((last, source));
        }
        while let Some((end, _)) = open.pop() {
            if let Some(next) = end.checked_add(1) {
                set(next, outside(&open));
            }
        }
        Self(starts)
    }

    fn find(&self, addr: u128) -> Source {
        let after = self.0.partition_point(|(start, _)| *start <= addr);
        after
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .map_or(Source::default(), |(_, source)| *source)
    }
}
