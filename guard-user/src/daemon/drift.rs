//! Ports that take what strangers send, and that no service of the policy guards: what has drifted
//! away from the policy, as a server of ps-lite does that found its port taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use guard_common::{
    flow::Transport,
    layout::{self, PORT_UNGUARDED, PortTable},
    tables::Port,
};

use super::facts::{OpenPort, OpenPorts};
use crate::kernel::{
    netlink::Device,
    sockets::{Found, Listening},
};

/// Ports that are listed.
const LISTED: usize = 32;
/// Addresses that are listed for a port.
const ADDRESSES: usize = 4;

/// The ports that services guard, as a bit each.
#[derive(Debug, Clone)]
pub(super) struct GuardedPorts(Vec<u64>);

impl GuardedPorts {
    /// Those of a policy.
    pub(super) fn of(table: &PortTable) -> Self {
        let word = |entries: &[u8]| {
            let guarded = |entry: &u8| matches!(layout::port_entry(*entry), Port::Guarded(_));
            let bits = entries.iter().enumerate().filter(|(_, entry)| guarded(entry));
            bits.fold(0, |word, (bit, _)| word | 1 << bit)
        };
        // Most policies guard few ports, of few transports.
        let used = table.iter().rposition(|entry| *entry != PORT_UNGUARDED).map_or(0, |at| at + 1);
        Self(table.get(..used).unwrap_or_default().chunks(64).map(word).collect())
    }

    fn has(&self, transport: Transport, port: u16) -> bool {
        let index = layout::port_index(transport, port);
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 != 0)
    }
}

/// The sockets of one port.
#[derive(Debug)]
struct Group<'a> {
    first: &'a Listening,
    addresses: BTreeSet<IpAddr>,
    sockets: u64,
}

/// What is open, among these sockets. `guarded` are the indices of guarded interfaces, `ephemeral`
/// the ports that the kernel gives to whoever asks for none in particular.
pub(super) fn open_ports(
    found: &Found,
    ports: &GuardedPorts,
    devices: &[Device],
    guarded: &BTreeSet<u32>,
    ephemeral: &RangeInclusive<u16>,
) -> OpenPorts {
    let tunnels: BTreeSet<u16> = devices
        .iter()
        .filter(|device| device.may_unpack())
        .flat_map(|device| device.ports.iter().copied())
        .collect();
    let is_open = |socket: &&Listening| {
        let Listening { transport, address, port, ifindex, .. } = **socket;
        !address.is_loopback()
            && (ifindex == 0 || guarded.contains(&ifindex))
            && !(transport == Transport::Udp && tunnels.contains(&port))
            && !ports.has(transport, port)
    };
    let mut groups: BTreeMap<(bool, u8, u16), Group<'_>> = BTreeMap::new();
    for socket in found.sockets.iter().filter(is_open) {
        // A client's, most likely; a stream's that listens is somebody's service wherever it is.
        let clients = socket.transport == Transport::Udp && ephemeral.contains(&socket.port);
        let key = (clients, socket.transport as u8, socket.port);
        let group = groups.entry(key).or_insert_with(|| Group {
            first: socket,
            addresses: BTreeSet::new(),
            sockets: 0,
        });
        group.sockets += 1;
        group.addresses.insert(socket.address);
    }
    let more = groups.len().saturating_sub(LISTED);
    OpenPorts {
        ports: groups.into_values().take(LISTED).map(open_port).collect(),
        more: u64::try_from(more).unwrap_or(u64::MAX),
        problem: found.more.then(|| {
            "there are more sockets than are looked at; some open ports may be missing".to_owned()
        }),
    }
}

fn open_port(group: Group<'_>) -> OpenPort {
    let Group { first, addresses, sockets } = group;
    OpenPort {
        port: format!("{}/{}", first.transport.name(), first.port),
        addresses: addresses.iter().take(ADDRESSES).map(IpAddr::to_string).collect(),
        uid: first.uid,
        inode: first.inode,
        command: None,
        sockets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compiled::CompiledPolicy;

    fn socket(transport: Transport, address: &str, port: u16) -> Listening {
        let address = address.parse().expect("an address");
        Listening { transport, address, port, ifindex: 0, uid: 0, inode: 1 }
    }

    fn vxlan() -> Device {
        Device {
            index: 9,
            name: "vx0".to_owned(),
            up: true,
            mtu: 1500,
            ethernet: true,
            kind: Some("vxlan".to_owned()),
            ports: vec![4789],
            xdp: None,
        }
    }

    fn open(sockets: Vec<Listening>, more: bool) -> OpenPorts {
        let mut table = CompiledPolicy::no_ports();
        for (transport, port) in [(Transport::Tcp, 9091), (Transport::Udp, 65535)] {
            table[layout::port_index(transport, port)] = 7;
        }
        let ports = GuardedPorts::of(&table);
        let found = Found { sockets, more };
        open_ports(&found, &ports, &[vxlan()], &BTreeSet::from([2]), &(32_768..=60_999))
    }

    fn names(open: &OpenPorts) -> Vec<&str> {
        open.ports.iter().map(|port| port.port.as_str()).collect()
    }

    #[test]
    fn what_is_guarded_or_cannot_be_reached_is_not_open() {
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
    fn a_port_is_told_once_however_many_sockets_it_has() {
        let sockets = ["::", "0.0.0.0", "0.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"];
        let open = open(sockets.map(|address| socket(Transport::Tcp, address, 22)).to_vec(), true);
        let [port] = &open.ports[..] else { panic!("{open:?}") };
        assert_eq!(port.sockets, 6);
        assert_eq!(port.addresses, ["0.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert!(open.problem.is_some());
    }

    #[test]
    fn clients_that_wait_for_datagrams_hide_no_service() {
        let clients = (40_000..40_100).map(|port| socket(Transport::Udp, "0.0.0.0", port));
        let services = [
            socket(Transport::Udp, "0.0.0.0", 123),
            socket(Transport::Tcp, "0.0.0.0", 40_001),
            socket(Transport::Tcp, "0.0.0.0", 22),
        ];
        let open = open(clients.chain(services).collect(), false);
        assert_eq!(open.ports.len(), LISTED);
        assert_eq!(open.more, 103 - 32);
        assert_eq!(names(&open)[..4], ["tcp/22", "tcp/40001", "udp/123", "udp/40000"]);
    }
}
