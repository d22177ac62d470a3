//! The kernel as oracle: generated odd frames against real sockets in a namespace.
//!
//! Three nodes get the same frames. The bare node has no guard, so it shows which frames the kernel
//! delivers. The closed node is guarded by a policy that does not allow the sources: none of the frames
//! may reach its sockets. The open node is guarded by a policy that allows the sources: it must deliver
//! what the bare node delivers, except for the frames of the classes in [`classes`].
//!
//! A case ([`generate::Case`]) is one packet, in one frame or in several fragments, which carries its
//! number to the socket: in the data of a datagram, or as the source port of a segment. [`lab::Lab`] is
//! a node with its sockets, and [`comparison::Comparison`] sends the cases and compares.

pub mod bytes;
pub mod classes;
pub mod comparison;
pub mod generate;
pub mod lab;
pub mod report;
pub mod settings;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The port of the service that matches all packets: TCP, UDP and UDP-Lite.
pub const PORT: u16 = 9091;
/// The TCP port of the service that matches new connections only.
pub const NEW_PORT: u16 = 9092;
/// A port without a service or a socket. The node answers a SYN with a reset.
pub const FREE_PORT: u16 = 9099;

/// Source and destination address of a packet; both are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
}

/// The node, by family.
pub const NODE: [IpAddr; 2] = [v4(10, 77, 0, 10), v6(0xfd77_0000_0000_0000, 0x10)];
/// Addresses of the node on a device that is not guarded.
pub const ELSEWHERE: [IpAddr; 2] = [v4(198, 51, 100, 1), v6(0xfd78_0000_0000_0000, 0x1)];
/// The source of most cases.
pub const SENDER: [IpAddr; 2] = [v4(10, 77, 0, 99), v6(0xfd77_0000_0000_0000, 0x99)];
/// A source that every policy allows. It differs from all other sources in more than one byte, so no
/// case with one changed byte has it.
pub const MEMBER: [IpAddr; 2] = [v4(172, 31, 234, 203), v6(0xfdab_cdef_1234_0000, 0x5678)];
/// The router of the node's network, whose Ethernet address is the sender's.
pub const ROUTER: [IpAddr; 2] = [v4(10, 77, 0, 1), v6(0xfd77_0000_0000_0000, 0x1)];
/// A source behind the router.
pub const FAR: [IpAddr; 2] = [v4(203, 0, 113, 9), v6(0x2001_0db8_0000_0000, 0x77)];
/// A link-local source.
pub const LINK_LOCAL: IpAddr = v6(0xfe80_0000_0000_0000, 0x99);

/// Ethernet address of the node.
pub const NODE_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 0x0a];
/// Ethernet address of the sender.
pub const SENDER_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 0x63];

/// VLAN numbers that the node has devices for: a customer tag, a service tag, and the customer tag
/// behind the service tag.
pub const VLANS: [u16; 2] = [5, 6];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// Returns the IPv6 address with this first and second half.
const fn v6(prefix: u128, host: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(prefix << 64 | host))
}
