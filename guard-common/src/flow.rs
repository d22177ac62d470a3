//! What parsing finds out about a frame.

/// An IP address in network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Addr {
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 address.
    V6([u8; 16]),
}

impl Addr {
    /// Whether no honest host can have sent a packet from this address over a wire: unspecified
    /// and "this network" (RFC 1122 3.2.1.3), loopback, multicast, limited broadcast, and
    /// IPv4-mapped IPv6 (RFC 4291 2.5.5.2), which a dual-stack socket would take for IPv4.
    pub fn is_martian(&self) -> bool {
        match *self {
            Self::V4([a, b, c, d]) => {
                a == 0 || a == 127 || (224..=239).contains(&a) || [a, b, c, d] == [255; 4]
            }
            Self::V6(octets) => {
                let [h0, h1, h2, h3, h4, h5, h6, h7, l0, l1, l2, l3, ..] = octets;
                let high = u64::from_be_bytes([h0, h1, h2, h3, h4, h5, h6, h7]);
                let mapped = high == 0 && [l0, l1, l2, l3] == [0, 0, 0xff, 0xff];
                let low = low_half(octets);
                h0 == 0xff || mapped || (high == 0 && low <= 1)
            }
        }
    }

    /// The address as 16 bytes, IPv4 as IPv4-mapped: for keys and records, never for look-ups.
    pub fn mapped(&self) -> [u8; 16] {
        match *self {
            Self::V4([a, b, c, d]) => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
            Self::V6(octets) => octets,
        }
    }
}

fn low_half(octets: [u8; 16]) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = octets;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// A transport whose ports a policy can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp = 0,
    /// UDP, and UDP-Lite.
    Udp = 1,
    /// SCTP.
    Sctp = 2,
}

impl Transport {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The name used in policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The part of a packet that a policy speaks about, when the packet has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who sent it.
    pub source: Addr,
    /// The transport.
    pub transport: Transport,
    /// Source port, never used for a decision.
    pub source_port: u16,
    /// Destination port.
    pub port: u16,
    /// TCP: whether the segment opens a connection (SYN without ACK). Flags that cannot be read
    /// count as opening. Other transports: false.
    pub opening: bool,
}

/// What a frame turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// A fragment that carries no ports, from this source.
    LaterFragment(Addr),
    /// A packet of a protocol without ports that we judge.
    Portless {
        /// Who sent it.
        source: Addr,
        /// IP protocol number.
        protocol: u8,
    },
    /// A packet, or a first fragment, with ports.
    Flow(Flow),
}
