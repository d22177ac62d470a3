//! Constants of the wire formats: offsets, `EtherType` values and protocol numbers, and how many
//! nested headers the parser follows.

/// Offset of the EtherType in an untagged frame, in bytes.
pub const ETHERTYPE_AT: u32 = 12;
/// Length of an Ethernet header without tags, in bytes.
pub const ETHERNET_LEN: u32 = 14;
/// Length of one VLAN tag, in bytes (IEEE 802.1Q).
pub const VLAN_TAG_LEN: u32 = 4;
/// Maximum number of VLAN tags that the parser follows. Linux itself removes any number of priority
/// tags (`skb_vlan_untag` in net/core/dev.c), so a frame with more tags is refused and does not
/// pass.
pub const MAX_VLAN_TAGS: u32 = 2;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag (802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// UDP port of DHCP servers (RFC 2131).
pub const PORT_DHCP_SERVER: u16 = 67;

/// Length of an IPv4 header without options, in bytes (RFC 791).
pub const IPV4_MIN_LEN: u32 = 20;
/// Length of the fixed IPv6 header, in bytes (RFC 8200).
pub const IPV6_LEN: u32 = 40;
/// Maximum number of extension headers that the parser follows, the fragment header included. Linux
/// follows 64 and more.
pub const MAX_EXTENSION_HEADERS: u32 = 8;

/// IPv6 hop-by-hop options.
pub const PROTO_HOP_BY_HOP: u8 = 0;
/// IPv4 in IP (RFC 2003).
pub const PROTO_IPIP: u8 = 4;
/// Transmission Control Protocol.
pub const PROTO_TCP: u8 = 6;
/// User Datagram Protocol.
pub const PROTO_UDP: u8 = 17;
/// IPv6 in IP (RFC 4213).
pub const PROTO_IPV6: u8 = 41;
/// IPv6 routing header.
pub const PROTO_ROUTING: u8 = 43;
/// IPv6 fragment header.
pub const PROTO_FRAGMENT: u8 = 44;
/// Generic routing encapsulation (RFC 2784).
pub const PROTO_GRE: u8 = 47;
/// Encapsulating security payload (RFC 4303).
pub const PROTO_ESP: u8 = 50;
/// Authentication header (RFC 4302).
pub const PROTO_AH: u8 = 51;
/// IPv6 destination options.
pub const PROTO_DESTINATION: u8 = 60;
/// Layer two tunnelling protocol, version 3 (RFC 3931).
pub const PROTO_L2TP: u8 = 115;
/// Stream Control Transmission Protocol.
pub const PROTO_SCTP: u8 = 132;
/// UDP-Lite (RFC 3828), handled as UDP.
pub const PROTO_UDPLITE: u8 = 136;
/// MPLS in IP (RFC 4023).
pub const PROTO_MPLS: u8 = 137;

/// Offset of the flags within a TCP header, in bytes (RFC 9293).
pub const TCP_FLAGS_AT: u32 = 13;
/// TCP flag: synchronize.
pub const TCP_SYN: u8 = 0x02;
/// TCP flag: acknowledgement.
pub const TCP_ACK: u8 = 0x10;
