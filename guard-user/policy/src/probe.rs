//! Packets made up to evaluate a policy, for `trace`, `test` and `diff`.

use std::net::IpAddr;

use guard_common::{parse::transport, port_table::Transport, wire};

/// Default source port. Source ports have no effect on the verdict.
pub const SOURCE_PORT: u16 = 40_000;
/// TCP flags of a segment that opens a connection.
pub const FLAGS_OPENING: u8 = wire::TCP_SYN;
/// TCP flags of a segment of an established connection.
pub const FLAGS_ESTABLISHED: u8 = wire::TCP_ACK;

/// A packet, given by the fields that decide the verdict. Both addresses must be of one family.
///
/// # Examples
///
/// ```
/// use guard_common::port_table::Transport;
/// use guard_policy::probe::{FLAGS_OPENING, Probe};
/// use std::net::IpAddr;
///
/// let from = IpAddr::from([10, 77, 0, 30]);
/// let frame = Probe::new(from, Transport::Tcp, 9091, FLAGS_OPENING).frame();
/// assert_eq!(frame[12..14], [0x08, 0x00], "EtherType of IPv4");
/// assert_eq!(frame[26..30], [10, 77, 0, 30], "source address");
/// assert_eq!(frame[36..38], 9091_u16.to_be_bytes(), "destination port");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Source address and port.
    pub from: (IpAddr, u16),
    /// Destination address and port.
    pub to: (IpAddr, u16),
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags as in the header (RFC 9293 3.1); ignored for other protocols.
    pub flags: u8,
    /// Whether this is a fragment other than the first, which has no ports.
    pub later_fragment: bool,
}

impl Probe {
    /// Makes a packet from an address to a port. Source port and destination address are defaults; the
    /// destination is of the same family as `from` and in a documentation prefix (RFC 5737, RFC 3849).
    pub fn new(from: IpAddr, transport: Transport, port: u16, flags: u8) -> Self {
        let to = match from {
            IpAddr::V4(_) => IpAddr::from([192, 0, 2, 1]),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        };
        let protocol = match transport {
            Transport::Tcp => wire::PROTO_TCP,
            Transport::Udp => wire::PROTO_UDP,
            Transport::Sctp => wire::PROTO_SCTP,
        };
        Self { from: (from, SOURCE_PORT), to: (to, port), protocol, flags, later_fragment: false }
    }

    /// Makes a UDP fragment other than the first.
    pub fn fragment(from: IpAddr) -> Self {
        Self::fragment_of(from, Transport::Udp)
    }

    /// Makes a fragment other than the first.
    pub fn fragment_of(from: IpAddr, transport: Transport) -> Self {
        Self { later_fragment: true, ..Self::new(from, transport, 0, 0) }
    }

    /// Returns an Ethernet frame with this packet. Checksums are zero, because the decision does not
    /// read them.
    pub fn frame(&self) -> Vec<u8> {
        let segment = self.segment();
        // Locally administered addresses.
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
        match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                // Fragment field: don't fragment; or an offset of 8 bytes, in units of 8.
                let offset = if self.later_fragment { [0, 1] } else { [0x40, 0] };
                frame.extend(wire::ETHERTYPE_IPV4.to_be_bytes());
                frame.extend([0x45, 0]);
                frame.extend(length.saturating_add(20).to_be_bytes());
                frame.extend([0, 0]);
                frame.extend(offset);
                frame.extend([64, self.protocol, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            (from, to) => {
                let octets = |addr| match addr {
                    IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
                    IpAddr::V6(addr) => addr.octets(),
                };
                let (next, length) = if self.later_fragment {
                    (wire::PROTO_FRAGMENT, length.saturating_add(8))
                } else {
                    (self.protocol, length)
                };
                frame.extend(wire::ETHERTYPE_IPV6.to_be_bytes());
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([next, 64]);
                frame.extend(octets(from));
                frame.extend(octets(to));
                if self.later_fragment {
                    frame.extend([self.protocol, 0, 0, 8, 0, 0, 0, 1]);
                }
            }
        }
        frame.extend(segment);
        frame
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        if let Some(transport) = transport(self.protocol) {
            segment.extend(self.from.1.to_be_bytes());
            segment.extend(self.to.1.to_be_bytes());
            match transport {
                Transport::Tcp => {
                    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.flags]);
                    segment.extend([0xff, 0xff, 0, 0, 0, 0]);
                }
                Transport::Udp => segment.extend([0, 8, 0, 0]),
                Transport::Sctp => segment.extend([0; 8]),
            }
        }
        segment
    }
}

/// A frame that cannot be parsed: its VLAN tag is truncated.
pub const UNREADABLE: [u8; 15] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0];

/// A packet that cannot be parsed beyond its IP header, which is where routes are looked up: TCP
/// without ports, from 192.0.2.2 to 192.0.2.1 (RFC 5737).
pub const UNREADABLE_PACKET: [u8; 34] = [
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0, 0x45, 0, 0, 20, 0, 0, 0x40, 0, 64, 6, 0, 0, 192,
    0, 2, 2, 192, 0, 2, 1,
];

/// Parses an IP protocol: `tcp`, `udp`, `udplite`, `sctp` or a number up to 255.
///
/// # Errors
/// The text is none of these.
pub fn protocol(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(wire::PROTO_TCP),
        "udp" => Ok(wire::PROTO_UDP),
        "udplite" => Ok(wire::PROTO_UDPLITE),
        "sctp" => Ok(wire::PROTO_SCTP),
        number => number.parse().map_err(|_invalid| {
            format!("`{text}`: expected tcp, udp, udplite, sctp or a number up to 255")
        }),
    }
}

/// Parses TCP flags given as letters: S, A, F, R, P, U (RFC 9293 3.1). An empty text is no flags.
///
/// # Errors
/// A letter is not a flag. The message names it.
pub fn flags(text: &str) -> Result<u8, String> {
    text.chars().try_fold(0, |flags, letter| {
        let bit = match letter.to_ascii_uppercase() {
            'F' => 0x01,
            'S' => wire::TCP_SYN,
            'R' => 0x04,
            'P' => 0x08,
            'A' => wire::TCP_ACK,
            'U' => 0x20,
            _ => return Err(format!("`{text}`: `{letter}` is none of S, A, F, R, P, U")),
        };
        Ok(flags | bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_letters() {
        assert_eq!(flags("SA"), Ok(0x12));
        assert_eq!(flags(""), Ok(0));
        assert!(flags("SYN").is_err());
    }
}
