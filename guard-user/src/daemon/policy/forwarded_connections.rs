//! Open connections of others through this node, as its connection tracking (conntrack) lists them:
//! those that it forwards, and those whose addresses it translates. No socket here owns them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufReader, Read as _},
    net::{IpAddr, SocketAddr},
};

use nix::ifaddrs::getifaddrs;

use crate::netlink::connections::Connection;

/// The table of connection tracking, of the network namespace of the reading thread. Only root may
/// read it, and a kernel without `CONFIG_NF_CONNTRACK_PROCFS` has none.
const TABLE: &str = "/proc/thread-self/net/nf_conntrack";
/// Maximum number of bytes that are read of the table.
const MAX_BYTES: u64 = 4 << 20;
/// Maximum number of connections that are checked.
const MAX_CHECKED: usize = 10_000;

/// The packets of a connection in one direction, as they arrive: `from` sent them `to` this address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passage {
    /// Source of the packets.
    pub(crate) from: SocketAddr,
    /// Destination of the packets, before this node translates it.
    pub(crate) to: SocketAddr,
}

impl Passage {
    /// Returns the packets as those of a connection of this node.
    pub(crate) fn as_connection(&self) -> Connection {
        Connection { local: self.to, peer: self.from, ifindex: 0, inode: 0 }
    }
}

/// The two directions of each tracked TCP connection that is established.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tracked {
    pub(crate) connections: Vec<[Passage; 2]>,
    /// Whether the table has more than was read.
    pub(crate) more: bool,
    /// Whether the table has no entry at all: nothing in this namespace needs connection tracking, and
    /// connections may exist that it does not list.
    pub(crate) is_empty: bool,
}

/// Reports whether the node forwards packets of some family.
pub(crate) fn node_forwards() -> bool {
    let paths = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
    let is_on = |path: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
    paths.into_iter().any(is_on)
}

/// Reads the table.
///
/// # Errors
/// There is none, or this user may not read it.
pub(crate) fn tracked() -> io::Result<Tracked> {
    read(BufReader::new(File::open(TABLE)?.take(MAX_BYTES)))
}

fn read(table: impl io::BufRead) -> io::Result<Tracked> {
    let mut tracked = Tracked::default();
    let mut bytes = 0;
    for line in table.lines() {
        let line = line?;
        bytes += line.len() as u64 + 1;
        if tracked.connections.len() >= MAX_CHECKED {
            tracked.more = true;
            break;
        }
        tracked.connections.extend(connection(&line));
    }
    tracked.more |= bytes >= MAX_BYTES;
    tracked.is_empty = bytes == 0;
    Ok(tracked)
}

/// Parses a line; none unless it is an established TCP connection.
fn connection(line: &str) -> Option<[Passage; 2]> {
    let mut words = line.split_ascii_whitespace();
    // The family and its number come first, then the protocol.
    if words.nth(2) != Some("tcp") || !words.any(|word| word == "ESTABLISHED") {
        return None;
    }
    let fields: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
    // The second direction repeats the names of the first one.
    let nth = |name: &str, which: usize| {
        let mut values = fields.iter().filter(|(other, _)| *other == name);
        values.nth(which).map(|(_, value)| *value)
    };
    let end = |address: &str, port: &str, which| {
        let address = nth(address, which)?.parse().ok()?;
        Some(SocketAddr::new(address, nth(port, which)?.parse().ok()?))
    };
    let passage = |which| {
        Some(Passage { from: end("src", "sport", which)?, to: end("dst", "dport", which)? })
    };
    Some([passage(0)?, passage(1)?])
}

/// The networks that are attached to interfaces, by which the interface is found on which a host's
/// packets arrive.
#[derive(Debug, Default)]
pub(crate) struct AttachedNetworks(Vec<Network>);

#[derive(Debug)]
struct Network {
    address: u128,
    mask: u128,
    is_v4: bool,
    device: String,
}

impl AttachedNetworks {
    /// Lists the networks of this network namespace.
    ///
    /// # Errors
    /// The kernel does not list the addresses.
    pub(crate) fn of_this_node() -> io::Result<Self> {
        let mut networks = Vec::new();
        for interface in getifaddrs().map_err(io::Error::from)? {
            let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| {
                let storage = storage?;
                let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            };
            if let (Some(address), Some(mask)) = (ip(interface.address), ip(interface.netmask)) {
                networks.push(Network {
                    address: bits(address),
                    mask: bits(mask),
                    is_v4: address.is_ipv4(),
                    device: interface.interface_name,
                });
            }
        }
        Ok(Self(networks))
    }

    /// Returns the name of the interface whose network contains a host; none if the host is behind a
    /// router.
    pub(crate) fn device_of(&self, host: IpAddr) -> Option<&str> {
        let fits = |network: &&Network| {
            network.is_v4 == host.is_ipv4()
                && bits(host) & network.mask == network.address & network.mask
        };
        let networks = self.0.iter().filter(fits);
        networks.max_by_key(|network| network.mask).map(|network| network.device.as_str())
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Returns the connections of others among the tracked ones: those of which no end is a socket of
/// this node. `addresses`: of this node.
pub(crate) fn of_others(
    tracked: &[[Passage; 2]],
    addresses: &BTreeMap<IpAddr, BTreeSet<String>>,
) -> Vec<[Passage; 2]> {
    let is_own = |[out, back]: &&[Passage; 2]| {
        let is_local = |end: SocketAddr| addresses.contains_key(&end.ip());
        // Without translation, one direction is the other one turned around; a socket of this node is
        // at the end whose address is local in both.
        is_local(out.from) && back.to == out.from || is_local(out.to) && back.from == out.to
    };
    tracked.iter().filter(|connection| !is_own(connection)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection through the node, one to a socket of the node, one to a published port, and one
    /// whose source address is translated. 10.77.0.10 is the node's address.
    const TABLE: &str = "\
ipv4     2 tcp      6 431993 ESTABLISHED src=10.77.9.9 dst=172.20.0.2 sport=40000 dport=29500 src=172.20.0.2 dst=10.77.9.9 sport=29500 dport=40000 [ASSURED] mark=0 zone=0 use=2
ipv4     2 tcp      6 431993 ESTABLISHED src=10.77.9.9 dst=10.77.0.10 sport=40001 dport=22 packets=3 bytes=99 src=10.77.0.10 dst=10.77.9.9 sport=22 dport=40001 packets=2 bytes=88 [ASSURED] mark=0 use=1
ipv4     2 tcp      6 431993 ESTABLISHED src=10.77.9.9 dst=10.77.0.10 sport=40002 dport=8080 src=172.20.0.2 dst=10.77.9.9 sport=80 dport=40002 [ASSURED] mark=0 use=1
ipv4     2 tcp      6 431993 ESTABLISHED src=172.20.0.2 dst=10.77.9.9 sport=40003 dport=443 src=10.77.9.9 dst=10.77.0.10 sport=443 dport=40003 [ASSURED] mark=0 use=1
ipv6     10 tcp      6 300 ESTABLISHED src=fd77::9 dst=fd88::2 sport=1 dport=2 src=fd88::2 dst=fd77::9 sport=2 dport=1 [ASSURED] use=1
ipv4     2 tcp      6 100 TIME_WAIT src=10.77.9.9 dst=172.20.0.2 sport=1 dport=2 src=172.20.0.2 dst=10.77.9.9 sport=2 dport=1 use=1
ipv4     2 udp      17 20 src=10.77.9.9 dst=172.20.0.2 sport=1 dport=2 [UNREPLIED] src=172.20.0.2 dst=10.77.9.9 sport=2 dport=1 use=1
ipv4     2 tcp      6 431993 ESTABLISHED src=nonsense dst= sport=999999 src
";

    fn passage(from: &str, to: &str) -> Passage {
        let [from, to] = [from, to].map(|end| end.parse().expect("an address"));
        Passage { from, to }
    }

    #[test]
    fn connections_of_others_are_those_without_a_socket_here() {
        let tracked = read(TABLE.as_bytes()).expect("a table");
        assert_eq!((tracked.connections.len(), tracked.more, tracked.is_empty), (5, false, false));
        assert!(read(&b""[..]).expect("a table").is_empty);
        let own = BTreeMap::from([("10.77.0.10".parse().expect("an address"), BTreeSet::new())]);
        let others = of_others(&tracked.connections, &own);
        let expected = [
            [
                passage("10.77.9.9:40000", "172.20.0.2:29500"),
                passage("172.20.0.2:29500", "10.77.9.9:40000"),
            ],
            [
                passage("10.77.9.9:40002", "10.77.0.10:8080"),
                passage("172.20.0.2:80", "10.77.9.9:40002"),
            ],
            [
                passage("172.20.0.2:40003", "10.77.9.9:443"),
                passage("10.77.9.9:443", "10.77.0.10:40003"),
            ],
            [passage("[fd77::9]:1", "[fd88::2]:2"), passage("[fd88::2]:2", "[fd77::9]:1")],
        ];
        assert_eq!(others, expected);
    }

    #[test]
    fn a_long_table_is_read_in_part() {
        let line = TABLE.lines().next().expect("a line");
        let table = format!("{line}\n").repeat(MAX_CHECKED + 1);
        let tracked = read(table.as_bytes()).expect("a table");
        assert_eq!((tracked.connections.len(), tracked.more), (MAX_CHECKED, true));
    }

    #[test]
    fn the_narrowest_network_tells_the_interface() {
        let network = |address: &str, mask: &str, device: &str| {
            let [address, mask] =
                [address, mask].map(|it| it.parse::<IpAddr>().expect("an address"));
            let is_v4 = address.is_ipv4();
            let device = device.to_owned();
            Network { address: bits(address), mask: bits(mask), is_v4, device }
        };
        let networks = AttachedNetworks(vec![
            network("10.0.0.1", "255.0.0.0", "eth0"),
            network("10.9.0.1", "255.255.0.0", "br0"),
            network("fd77::1", "ffff:ffff:ffff:ffff::", "eth1"),
        ]);
        let of = |host: &str| networks.device_of(host.parse().expect("an address"));
        assert_eq!(of("10.9.3.4"), Some("br0"));
        assert_eq!(of("10.8.3.4"), Some("eth0"));
        assert_eq!(of("fd77::9"), Some("eth1"));
        assert_eq!((of("192.0.2.1"), of("fd78::1")), (None, None));
    }
}
