//! The facts that parsing extracts from a frame.
//!
//! Decision: `docs/decisions/0053-verify-the-decision-once.md`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    port_table::{PORT_TABLE_LEN, Transport},
    verdict::Reason,
};

/// An IP address as integers in host byte order: the first octet is the most significant byte.
///
/// Integers stay in registers, whereas the kernel program would build arrays of octets on its
/// stack, byte by byte.
///
/// # Examples
///
/// ```
/// use guard_common::Addr;
/// use std::net::IpAddr;
///
/// let addr = Addr::from(IpAddr::from([10, 0, 0, 1]));
/// assert_eq!(addr, Addr::V4(0x0a00_0001));
/// assert!(!addr.is_martian());
/// assert!(Addr::V6([0, 1]).is_martian(), "::1 is the loopback address");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Addr {
    /// An IPv4 address.
    V4(u32),
    /// An IPv6 address: the upper and the lower 64 bits.
    V6([u64; 2]),
}

impl Addr {
    /// Returns whether a packet with this source cannot legitimately arrive over a wire:
    /// unspecified and "this network" (RFC 1122 section 3.2.1.3), loopback, multicast, limited
    /// broadcast, and IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2), which a dual-stack socket would
    /// treat as IPv4.
    #[inline(always)]
    pub fn is_martian(&self) -> bool {
        match *self {
            Self::V4(addr) => {
                let first = addr >> 24;
                first == 0 || first == 127 || first >> 4 == 0xe || addr == u32::MAX
            }
            Self::V6([0, low]) => low <= 1 || low >> 32 == 0xffff,
            Self::V6([high, _]) => high >> 56 == 0xff,
        }
    }

    /// Returns whether the address is 0.0.0.0, which a DHCP client uses until it has an address (RFC
    /// 2131 section 4.1).
    #[inline(always)]
    pub fn is_unspecified_v4(&self) -> bool {
        *self == Self::V4(0)
    }

    /// Returns the address as an IPv6 address, an IPv4 address as IPv4-mapped. For keys and
    /// records, never for lookups.
    #[inline(always)]
    pub fn mapped(&self) -> [u64; 2] {
        match *self {
            Self::V4(addr) => [0, 0xffff_0000_0000 | u64::from(addr)],
            Self::V6(halves) => halves,
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::V4(addr.to_bits()),
            IpAddr::V6(addr) => {
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.octets();
                Self::V6([
                    u64::from_be_bytes([a, b, c, d, e, f, g, h]),
                    u64::from_be_bytes([i, j, k, l, m, n, o, p]),
                ])
            }
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        match addr {
            Addr::V4(addr) => Ipv4Addr::from_bits(addr).into(),
            Addr::V6([high, low]) => {
                Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
            }
        }
    }
}

/// The facts of a packet with ports that a policy refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: Addr,
    /// Transport protocol.
    pub transport: Transport,
    /// Source port, never used for a decision.
    pub source_port: u16,
    /// Destination port.
    pub port: u16,
    /// TCP: whether the segment opens a connection (SYN without ACK). Flags that cannot be read
    /// count as opening. Other transports: false.
    pub opening: bool,
}

/// The result of parsing a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The frame is neither IPv4 nor IPv6.
    NotIp,
    /// A fragment other than the first, which contains no ports.
    LaterFragment {
        /// Source address.
        source: Addr,
        /// Protocol of the payload: that of the IPv4 header, or of the IPv6 fragment header.
        protocol: u8,
    },
    /// A packet of a protocol whose ports a policy cannot name.
    Portless {
        /// Source address.
        source: Addr,
        /// IP protocol number.
        protocol: u8,
    },
    /// A packet, or a first fragment, with ports.
    Flow(Flow),
}

/// The parsed headers of a frame: [`Parsed`] or a [`Reason`], packed into words that are always
/// initialised.
///
/// The kernel program depends on two properties of this form. An enum leaves the bytes of its other
/// variants undefined, and the compiler copies registers that were never written where paths meet,
/// which the verifier refuses. And [`Headers::masked`] can hide from the verifier which case is
/// present, so that it verifies the decision once and not once for every way to parse a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// From the lowest bit: destination port (16), transport (2), opening (1), IPv6 (1), kind (3),
    /// whether there are extension headers (1), protocol (8), reason (8).
    pub facts: u64,
    /// The source: an IPv6 address as in [`Addr::V6`], or 0 and an IPv4 address. 0 if there is
    /// none.
    pub source: [u64; 2],
    /// Source port of a flow. In a field of its own, because no decision uses it.
    pub source_port: u16,
}

const TRANSPORT_BIT: u32 = 16;
const OPENING_BIT: u32 = 18;
const IPV6_BIT: u32 = 19;
const KIND_BIT: u32 = 20;
const EXTENSIONS_BIT: u32 = 23;
const PROTOCOL_BIT: u32 = 24;
const REASON_BIT: u32 = 32;

/// The bits of port and transport.
const PORT_INDEX_MASK: u64 = PORT_TABLE_LEN as u64 - 1;

const FLOW: u64 = 0;
const NOT_IP: u64 = 1;
const LATER_FRAGMENT: u64 = 2;
const PORTLESS: u64 = 3;
const UNPARSED: u64 = 4;

impl Headers {
    #[inline(always)]
    pub(crate) fn not_ip() -> Self {
        Self { facts: NOT_IP << KIND_BIT, source: [0; 2], source_port: 0 }
    }

    /// Returns headers that could not be parsed, for this reason.
    #[inline(always)]
    pub fn unparsed(reason: Reason) -> Self {
        Self {
            facts: UNPARSED << KIND_BIT | (reason as u64) << REASON_BIT,
            source: [0; 2],
            source_port: 0,
        }
    }

    #[inline(always)]
    pub(crate) fn later_fragment(source: Addr, protocol: u8) -> Self {
        let headers = Self::of_source(LATER_FRAGMENT, source);
        Self { facts: headers.facts | u64::from(protocol) << PROTOCOL_BIT, ..headers }
    }

    /// Returns the same headers for a packet with extension headers.
    #[inline(always)]
    #[must_use]
    pub(crate) fn behind_extensions(self) -> Self {
        Self { facts: self.facts | 1 << EXTENSIONS_BIT, ..self }
    }

    /// Returns whether extension headers, or an authentication header, precede the ports or the
    /// protocol without ports.
    #[inline(always)]
    pub fn has_extensions(&self) -> bool {
        self.facts >> EXTENSIONS_BIT & 1 != 0
    }

    /// Returns whether the packet is SCTP and has ports.
    #[inline(always)]
    pub fn is_sctp(&self) -> bool {
        self.is_flow() && self.facts >> TRANSPORT_BIT & 3 == Transport::Sctp as u64
    }

    /// Returns whether the packet is TCP and has ports.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.is_flow() && self.facts >> TRANSPORT_BIT & 3 == Transport::Tcp as u64
    }

    /// Returns whether the packet has ports.
    #[inline(always)]
    pub fn is_flow(&self) -> bool {
        self.facts >> KIND_BIT & 7 == FLOW
    }

    /// Returns the protocol of a packet without ports, or of the payload of a later fragment; 0 for
    /// a flow.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "taking words apart")]
    pub fn protocol(&self) -> u8 {
        (self.facts >> PROTOCOL_BIT) as u8
    }

    #[inline(always)]
    pub(crate) fn portless(source: Addr, protocol: u8) -> Self {
        let headers = Self::of_source(PORTLESS, source);
        Self { facts: headers.facts | u64::from(protocol) << PROTOCOL_BIT, ..headers }
    }

    #[inline(always)]
    pub(crate) fn flow(flow: &Flow) -> Self {
        let Flow { source, transport, source_port, port, opening } = *flow;
        let headers = Self::of_source(FLOW, source);
        let facts = headers.facts
            | u64::from(port)
            | (transport as u64) << TRANSPORT_BIT
            | u64::from(opening) << OPENING_BIT;
        Self { facts, source_port, ..headers }
    }

    #[inline(always)]
    fn of_source(kind: u64, source: Addr) -> Self {
        let (ipv6, source) = match source {
            Addr::V4(addr) => (0, [0, addr.into()]),
            Addr::V6(halves) => (1, halves),
        };
        Self { facts: kind << KIND_BIT | ipv6 << IPV6_BIT, source, source_port: 0 }
    }

    /// Returns the same headers with `zero` mixed in by XOR. If the verifier only knows of the value
    /// that it has no more than 32 bits, it no longer knows the facts either.
    #[inline(always)]
    #[must_use]
    pub fn masked(self, zero: u64) -> Self {
        Self { facts: self.facts ^ (zero | zero << 32), ..self }
    }

    /// Returns transport and destination port of a flow as an index into a
    /// [`PortTable`](crate::port_table::PortTable). The bits are stored in this order, so nothing
    /// has to be computed.
    #[inline(always)]
    pub fn port_index(&self) -> usize {
        (self.facts & PORT_INDEX_MASK) as usize
    }

    /// Unpacks the result of parsing.
    ///
    /// # Errors
    ///
    /// The reason why the frame could not be parsed.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "taking words apart")]
    pub fn parsed(&self) -> Result<Parsed, Reason> {
        let facts = self.facts;
        let kind = facts >> KIND_BIT & 7;
        // First and separate, because nearly all frames are flows.
        if kind == FLOW {
            return Ok(Parsed::Flow(Flow {
                source: self.source(),
                transport: match facts >> TRANSPORT_BIT & 3 {
                    0 => Transport::Tcp,
                    1 => Transport::Udp,
                    _ => Transport::Sctp,
                },
                source_port: self.source_port,
                port: facts as u16,
                opening: self.is_opening(),
            }));
        }
        match kind {
            NOT_IP => Ok(Parsed::NotIp),
            LATER_FRAGMENT => {
                Ok(Parsed::LaterFragment { source: self.source(), protocol: self.protocol() })
            }
            PORTLESS => Ok(Parsed::Portless { source: self.source(), protocol: self.protocol() }),
            _ => {
                Err(Reason::from_number((facts >> REASON_BIT) as u8).unwrap_or(Reason::Undecodable))
            }
        }
    }

    /// Returns whether a flow opens a connection, as [`Flow::opening`]; false for all other frames.
    #[inline(always)]
    pub fn is_opening(&self) -> bool {
        self.facts >> OPENING_BIT & 1 != 0
    }

    /// Returns the source address; 0.0.0.0 if it is not known.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "taking words apart")]
    pub fn source(&self) -> Addr {
        let [_, low] = self.source;
        if self.facts >> IPV6_BIT & 1 == 0 { Addr::V4(low as u32) } else { Addr::V6(self.source) }
    }
}
