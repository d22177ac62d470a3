//! Ports that accept packets from unlisted sources because no service of the policy guards them. They
//! show where the node has drifted away from its policy, for example a ps-lite server that found its
//! port in use and took another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use crate::{
    api::status::{OpenPort, OpenPorts},
    netlink::{devices::Device, sock_diag::Listening},
};
use guard_common::port_table::{self, PORT_TABLE_LEN, PORT_UNGUARDED, Port, PortTable, Transport};

/// Maximum number of ports in the list.
const MAX_PORTS: usize = 32;
/// Maximum number of addresses per port in the list.
const MAX_ADDRESSES: usize = 4;
/// Scans take at most 1/20 of the time. Scanning 50,000 UDP sockets takes tens of milliseconds, and
/// clients may ask often.
const PAUSE_FACTOR: u32 = 20;

/// The ports that services guard, one bit each, by index in a port table.
#[derive(Debug, Clone)]
pub(crate) struct GuardedPorts(Vec<u64>);

impl GuardedPorts {
    /// Returns the guarded ports of a policy's port table.
    pub(crate) fn of(table: &PortTable) -> Self {
        let word = |entries: &[u8]| {
            let guarded = |entry: &u8| matches!(port_table::port_entry(*entry), Port::Guarded(_));
            let bits = entries.iter().enumerate().filter(|(_, entry)| guarded(entry));
            bits.fold(0, |word, (bit, _)| word | 1 << bit)
        };
        // Most policies guard few ports, of few transports.
        let used = table.iter().rposition(|entry| *entry != PORT_UNGUARDED).map_or(0, |at| at + 1);
        Self(table.get(..used).unwrap_or_default().chunks(64).map(word).collect())
    }

    fn has(&self, transport: Transport, port: u16) -> bool {
        let index = port_table::port_index(transport, port);
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 != 0)
    }
}

/// The sockets of one port.
#[derive(Debug)]
struct Group {
    first: Listening,
    addresses: BTreeSet<IpAddr>,
    sockets: u64,
}

/// Sort key of a port in the list: UDP ports in the ephemeral range come last; then by transport and
/// number.
type SortKey = (bool, u8, u16);

/// Collects open ports, in memory that does not grow with the number of sockets.
#[derive(Debug)]
pub(crate) struct OpenPortCollector<'a> {
    ports: &'a GuardedPorts,
    /// Indices of guarded interfaces.
    guarded: BTreeSet<u32>,
    /// Range from which the kernel assigns ports to sockets that do not choose one.
    ephemeral: RangeInclusive<u16>,
    /// UDP ports of tunnel devices.
    tunnels: BTreeSet<u16>,
    /// The first [`MAX_PORTS`] ports of the list.
    listed: BTreeMap<SortKey, Group>,
    /// A bit for each open port, by its index in a port table.
    seen: Vec<u64>,
}

impl<'a> OpenPortCollector<'a> {
    /// Starts with no sockets.
    pub(crate) fn new(
        ports: &'a GuardedPorts,
        devices: &[Device],
        guarded: BTreeSet<u32>,
        ephemeral: RangeInclusive<u16>,
    ) -> Self {
        let tunnels = devices.iter().filter(|device| device.may_unpack());
        Self {
            ports,
            guarded,
            ephemeral,
            tunnels: tunnels.flat_map(|device| device.ports.iter().copied()).collect(),
            listed: BTreeMap::new(),
            seen: vec![0; PORT_TABLE_LEN / 64],
        }
    }

    /// Adds a socket, unless its port is guarded or cannot be reached from the network.
    pub(crate) fn add(&mut self, socket: Listening) {
        let Listening { transport, address, port, ifindex, .. } = socket;
        let udp = transport == Transport::Udp;
        if address.is_loopback()
            || (ifindex != 0 && !self.guarded.contains(&ifindex))
            || (udp && self.tunnels.contains(&port))
            || self.ports.has(transport, port)
        {
            return;
        }
        let index = port_table::port_index(transport, port);
        if let Some(word) = self.seen.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
        // Most likely a client's. A listening stream socket is a service on any port.
        let client = udp && self.ephemeral.contains(&port);
        let place = (client, transport as u8, port);
        let group = self.listed.entry(place).or_insert_with(|| Group {
            first: socket,
            addresses: BTreeSet::new(),
            sockets: 0,
        });
        group.sockets += 1;
        group.addresses.insert(address);
        if group.addresses.len() > MAX_ADDRESSES {
            group.addresses.pop_last();
        }
        if self.listed.len() > MAX_PORTS {
            self.listed.pop_last();
        }
    }

    /// Returns the list. `more`: whether the kernel has more sockets than were added.
    pub(crate) fn finish(self, more: bool) -> OpenPorts {
        let seen: u64 = self.seen.iter().map(|word| u64::from(word.count_ones())).sum();
        let listed = u64::try_from(self.listed.len()).unwrap_or(u64::MAX);
        OpenPorts {
            ports: self.listed.into_values().map(open_port).collect(),
            more: seen.saturating_sub(listed),
            problem: more.then(|| {
                "too many sockets to examine them all; some open ports may be missing".to_owned()
            }),
        }
    }
}

fn open_port(group: Group) -> OpenPort {
    let Group { first, addresses, sockets } = group;
    OpenPort {
        port: format!("{}/{}", first.transport.name(), first.port),
        addresses: addresses.iter().map(IpAddr::to_string).collect(),
        uid: first.uid,
        inode: first.inode,
        command: None,
        sockets,
    }
}

/// The open ports at the last scan.
#[derive(Debug)]
pub(crate) struct OpenPortScan {
    at: Instant,
    took: Duration,
    found: OpenPorts,
}

impl OpenPortScan {
    /// Scans, unless the last scan is too recent for its duration: the longer a scan takes, the rarer
    /// it is.
    pub(crate) fn renew(last: Option<Self>, scan: impl FnOnce() -> OpenPorts) -> Self {
        let at = Instant::now();
        match last {
            Some(last) if at.duration_since(last.at) < last.took * PAUSE_FACTOR => last,
            _ => {
                let found = scan();
                Self { at, took: at.elapsed(), found }
            }
        }
    }

    /// Returns the open ports that were found.
    pub(crate) fn found(&self) -> &OpenPorts {
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compiled::CompiledPolicy;
    use guard_common::port_table;

    fn socket(transport: Transport, address: &str, port: u16) -> Listening {
        let address = address.parse().expect("an address");
        Listening { transport, address, port, ifindex: 0, uid: 0, inode: 1 }
    }

    fn vxlan() -> Device {
        Device { ports: vec![4789], ..Device::ethernet(9, "vx0", Some("vxlan")) }
    }

    fn open(sockets: Vec<Listening>, more: bool) -> OpenPorts {
        let mut table = CompiledPolicy::no_ports();
        for (transport, port) in [(Transport::Tcp, 9091), (Transport::Udp, 65535)] {
            table[port_table::port_index(transport, port)] = 7;
        }
        let ports = GuardedPorts::of(&table);
        let mut collector =
            OpenPortCollector::new(&ports, &[vxlan()], BTreeSet::from([2]), 32_768..=60_999);
        for socket in sockets {
            collector.add(socket);
        }
        collector.finish(more)
    }

    fn names(open: &OpenPorts) -> Vec<&str> {
        open.ports.iter().map(|port| port.port.as_str()).collect()
    }

    #[test]
    fn guarded_and_unreachable_ports_are_not_open() {
        let mut elsewhere = socket(Transport::Tcp, "10.0.0.1", 5);
        elsewhere.ifindex = 3;
        let mut here = socket(Transport::Tcp, "10.0.0.1", 6);
        here.ifindex = 2;
        let open = open(
            vec![
                socket(Transport::Tcp, "::", 9091),
                socket(Transport::Udp, "::", 9091),
                socket(Transport::Udp, "0.0.0.0", 65535),
                socket(Transport::Tcp, "127.0.0.5", 80),
                socket(Transport::Tcp, "::1", 81),
                socket(Transport::Udp, "0.0.0.0", 4789),
                elsewhere,
                here,
            ],
            false,
        );
        assert_eq!(names(&open), ["tcp/6", "udp/9091"]);
        assert_eq!((open.more, open.problem), (0, None));
    }

    #[test]
    fn a_port_with_several_sockets_is_listed_once() {
        let sockets = ["::", "0.0.0.0", "0.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"];
        let open = open(sockets.map(|address| socket(Transport::Tcp, address, 22)).to_vec(), true);
        let [port] = &open.ports[..] else { panic!("{open:?}") };
        assert_eq!(port.sockets, 6);
        assert_eq!(port.addresses, ["0.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert!(open.problem.is_some());
    }

    #[test]
    fn ports_of_udp_clients_are_listed_after_services() {
        let clients = (40_000..40_100).map(|port| socket(Transport::Udp, "0.0.0.0", port));
        let services = [
            socket(Transport::Udp, "0.0.0.0", 123),
            socket(Transport::Tcp, "0.0.0.0", 40_001),
            socket(Transport::Tcp, "0.0.0.0", 22),
        ];
        let open = open(clients.rev().chain(services).collect(), false);
        assert_eq!(open.ports.len(), MAX_PORTS);
        assert_eq!(open.more, 103 - 32);
        assert_eq!(names(&open)[..4], ["tcp/22", "tcp/40001", "udp/123", "udp/40000"]);
    }

    #[test]
    fn a_slow_scan_is_not_repeated_at_once() {
        let ports = |more| OpenPorts { more, ..OpenPorts::default() };
        let slow = |more| {
            std::thread::sleep(Duration::from_millis(300));
            ports(more)
        };
        let first = OpenPortScan::renew(None, || slow(1));
        let second = OpenPortScan::renew(Some(first), || ports(2));
        assert_eq!(second.found().more, 1);
        let mut old = second;
        old.took = Duration::ZERO;
        assert_eq!(OpenPortScan::renew(Some(old), || ports(3)).found().more, 3);
    }
}
