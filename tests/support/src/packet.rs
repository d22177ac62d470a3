//! Builds frames layer by layer. Lengths and protocol numbers are right unless a field overrides them.
//! Checksums are zero, because the guard does not check them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP flag: opens a connection.
pub const SYN: u8 = 0x02;
/// TCP flag: push, deliver the data at once.
pub const PSH: u8 = 0x08;
/// TCP flag: acknowledgement.
pub const ACK: u8 = 0x10;

/// One layer of a frame. The following layer is its payload.
#[derive(Debug, Clone)]
pub enum Layer {
    /// The Ethernet header.
    Ethernet(Ethernet),
    /// A VLAN tag.
    Vlan(Vlan),
    /// An IPv4 header.
    Ipv4(Ipv4),
    /// An IPv6 header.
    Ipv6(Ipv6),
    /// An IPv6 extension header, or an authentication header.
    Extension(Extension),
    /// A transport header with ports.
    Ports(Ports),
    /// Another protocol on top of IP: its number and its header.
    Protocol(u8, Vec<u8>),
    /// Opaque payload.
    Bytes(Vec<u8>),
}

/// The Ethernet header.
#[derive(Debug, Clone)]
pub struct Ethernet {
    /// Destination Ethernet address.
    pub to: [u8; 6],
    /// `EtherType`, instead of that of the next layer.
    pub ethertype: Option<u16>,
}

/// A VLAN tag.
#[derive(Debug, Clone)]
pub struct Vlan {
    /// The `EtherType` of the tag itself: 0x8100 or 0x88a8.
    pub kind: u16,
    /// Priority and VLAN number. Number 0 is a priority tag.
    pub tag: u16,
    /// `EtherType`, instead of that of the next layer.
    pub ethertype: Option<u16>,
}

/// An IPv4 header.
#[derive(Debug, Clone)]
pub struct Ipv4 {
    /// Source address.
    pub from: Ipv4Addr,
    /// Destination address.
    pub to: Ipv4Addr,
    /// Length of the options in bytes, a multiple of 4.
    pub options: usize,
    /// Fragment offset in units of 8 bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Version, instead of 4.
    pub version: Option<u8>,
    /// Header length in units of 4 bytes, instead of the real one.
    pub ihl: Option<u8>,
    /// Total length, instead of the real one.
    pub total: Option<u16>,
    /// Protocol, instead of that of the next layer.
    pub protocol: Option<u8>,
}

/// An IPv6 header.
#[derive(Debug, Clone)]
pub struct Ipv6 {
    /// Source address.
    pub from: Ipv6Addr,
    /// Destination address.
    pub to: Ipv6Addr,
    /// Version, instead of 6.
    pub version: Option<u8>,
    /// Payload length, instead of the real one.
    pub payload: Option<u16>,
    /// Next header, instead of that of the next layer.
    pub protocol: Option<u8>,
}

/// Kinds of extension headers, with their protocol numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Hop-by-hop options.
    HopByHop = 0,
    /// Routing.
    Routing = 43,
    /// Fragment.
    Fragment = 44,
    /// Authentication.
    Authentication = 51,
    /// Destination options.
    Destination = 60,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::HopByHop, Self::Routing, Self::Fragment, Self::Authentication, Self::Destination];
}

/// An extension header.
#[derive(Debug, Clone)]
pub struct Extension {
    /// Kind of the header.
    pub kind: Kind,
    /// Length field: units of 8 bytes after the first 8; for an authentication header, units of 4 bytes
    /// minus 2.
    pub units: u8,
    /// Value written to the length field, instead of the real one.
    pub lie: Option<u8>,
    /// Fragment offset in units of 8 bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Next header, instead of that of the next layer.
    pub protocol: Option<u8>,
}

/// A transport header with ports.
#[derive(Debug, Clone)]
pub struct Ports {
    /// IP protocol number: TCP, UDP, UDP-Lite or SCTP.
    pub protocol: u8,
    /// Source port.
    pub from: u16,
    /// Destination port.
    pub to: u16,
    /// TCP flags.
    pub flags: u8,
    /// Length of the header in bytes, if it is truncated or (TCP) has options.
    pub len: Option<usize>,
}

/// Builds a frame from its layers.
pub fn frame(layers: &[Layer]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut next: Option<&Layer> = None;
    for layer in layers.iter().rev() {
        bytes = [layer.header(next, bytes.len()), bytes].concat();
        next = Some(layer);
    }
    bytes
}

/// Builds a frame with a TCP segment that has `payload` bytes of payload.
///
/// # Panics
///
/// If the addresses are of different families.
pub fn segment(
    from: impl Into<SocketAddr>,
    to: impl Into<SocketAddr>,
    flags: u8,
    payload: usize,
) -> Vec<u8> {
    let (from, to) = (from.into(), to.into());
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Layer::Ipv4(Ipv4::new(from, to)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Layer::Ipv6(Ipv6::new(from, to)),
        (from, to) => panic!("{from} and {to} are of different families"),
    };
    frame(&[
        Layer::Ethernet(Ethernet { to: [2, 0, 0, 0, 0, 2], ethertype: None }),
        ip,
        Layer::Ports(Ports { protocol: 6, from: from.port(), to: to.port(), flags, len: None }),
        Layer::Bytes(vec![0xab; payload]),
    ])
}

impl Layer {
    /// Returns the `EtherType` by which the previous layer announces this one.
    fn ethertype(&self) -> u16 {
        match self {
            Self::Vlan(vlan) => vlan.kind,
            Self::Ipv4(_) => 0x0800,
            Self::Ipv6(_) => 0x86dd,
            // ARP, which stands for anything that is not IP.
            _ => 0x0806,
        }
    }

    /// Returns the protocol number by which an IP header announces this layer.
    fn protocol(&self) -> u8 {
        match self {
            Self::Ipv4(_) => 4,
            Self::Ipv6(_) => 41,
            Self::Extension(extension) => extension.kind as u8,
            Self::Ports(ports) => ports.protocol,
            Self::Protocol(number, _) => *number,
            // No next header.
            _ => 59,
        }
    }

    fn header(&self, next: Option<&Self>, behind: usize) -> Vec<u8> {
        let ethertype = next.map_or(0x0806, Self::ethertype);
        let protocol = next.map_or(59, Self::protocol);
        match self {
            Self::Ethernet(ethernet) => {
                let ethertype = ethernet.ethertype.unwrap_or(ethertype);
                [&ethernet.to[..], &[2, 0, 0, 0, 0, 1], &ethertype.to_be_bytes()].concat()
            }
            Self::Vlan(vlan) => {
                [vlan.tag.to_be_bytes(), vlan.ethertype.unwrap_or(ethertype).to_be_bytes()].concat()
            }
            Self::Ipv4(ip) => ip.header(protocol, behind),
            Self::Ipv6(ip) => ip.header(protocol, behind),
            Self::Extension(extension) => extension.header(protocol),
            Self::Ports(ports) => ports.header(behind),
            Self::Protocol(_, bytes) | Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

impl Ipv4 {
    /// Creates a header without options.
    pub fn new(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        Self {
            from,
            to,
            options: 0,
            offset: 0,
            more: false,
            version: None,
            ihl: None,
            total: None,
            protocol: None,
        }
    }

    fn header(&self, protocol: u8, behind: usize) -> Vec<u8> {
        let len = 20 + self.options;
        let ihl = self.ihl.unwrap_or(low(len / 4));
        let total = self.total.unwrap_or(short(len + behind));
        let fragment = self.offset & 0x1fff | u16::from(self.more) << 13;
        let mut header = vec![self.version.unwrap_or(4) << 4 | ihl & 0x0f, 0];
        header.extend(total.to_be_bytes());
        header.extend([0, 1]);
        header.extend(fragment.to_be_bytes());
        header.extend([64, self.protocol.unwrap_or(protocol), 0, 0]);
        header.extend(self.from.octets());
        header.extend(self.to.octets());
        // The option "no operation".
        header.resize(len, 1);
        header
    }
}

impl Ipv6 {
    /// Creates a header without extension headers.
    pub fn new(from: Ipv6Addr, to: Ipv6Addr) -> Self {
        Self { from, to, version: None, payload: None, protocol: None }
    }

    fn header(&self, protocol: u8, behind: usize) -> Vec<u8> {
        let mut header = vec![self.version.unwrap_or(6) << 4, 0, 0, 0];
        header.extend(self.payload.unwrap_or(short(behind)).to_be_bytes());
        header.extend([self.protocol.unwrap_or(protocol), 64]);
        header.extend(self.from.octets());
        header.extend(self.to.octets());
        header
    }
}

impl Extension {
    /// Creates the shortest header of a kind.
    pub fn new(kind: Kind) -> Self {
        // An authentication header without a check value has 12 bytes.
        let units = u8::from(kind == Kind::Authentication);
        Self { kind, units, lie: None, offset: 0, more: false, protocol: None }
    }

    fn header(&self, protocol: u8) -> Vec<u8> {
        let units = usize::from(self.units);
        let len = match self.kind {
            Kind::Fragment => 8,
            Kind::Authentication => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        let mut header = vec![0; len];
        header[0] = self.protocol.unwrap_or(protocol);
        if self.kind == Kind::Fragment {
            let field = self.offset << 3 | u16::from(self.more);
            header[2..4].copy_from_slice(&field.to_be_bytes());
        } else {
            header[1] = self.lie.unwrap_or(self.units);
        }
        header
    }
}

impl Ports {
    fn header(&self, behind: usize) -> Vec<u8> {
        let mut header = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        let natural = match self.protocol {
            6 => {
                header.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
                20
            }
            132 => 12,
            _ => {
                header.extend(short(8 + behind).to_be_bytes());
                8
            }
        };
        header.resize(self.len.unwrap_or(natural), 0);
        header
    }
}

fn low(number: usize) -> u8 {
    u8::try_from(number).expect("a length that fits its field")
}

fn short(number: usize) -> u16 {
    // A number that is too large for the field cannot be right anyway.
    u16::try_from(number).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_has_54_bytes_and_the_right_protocol_numbers() {
        let ip = Ipv4::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let tcp = Ports { protocol: 6, from: 0x1234, to: 0x5678, flags: 2, len: None };
        let ethernet = Ethernet { to: [2; 6], ethertype: None };
        let layers = [Layer::Ethernet(ethernet), Layer::Ipv4(ip), Layer::Ports(tcp)];
        let bytes = frame(&layers);
        assert_eq!(bytes.len(), 54);
        assert_eq!(bytes[12..18], [0x08, 0x00, 0x45, 0, 0, 40]);
        assert_eq!(bytes[23], 6);
        assert_eq!(bytes[34..38], [0x12, 0x34, 0x56, 0x78]);
        assert_eq!(bytes[47], 2);
    }

    #[test]
    fn a_segment_equals_the_frame_of_its_text() {
        let text = "ipv4 from=192.0.2.9 to=10.77.0.10 / tcp from=7 to=9091 flags=SA";
        let bytes = segment(([192, 0, 2, 9], 7), ([10, 77, 0, 10], 9091), SYN | ACK, 0);
        assert_eq!(bytes, crate::text::frame(text).unwrap());
        let bytes = segment(([192, 0, 2, 9], 7), ([10, 77, 0, 10], 9091), PSH | ACK, 3);
        assert_eq!(bytes[16..18], [0, 43]);
        assert_eq!(bytes[54..], [0xab; 3]);
    }

    #[test]
    fn extension_headers_have_the_length_of_their_length_field() {
        for (kind, units, len) in [
            (Kind::HopByHop, 0, 8),
            (Kind::Destination, 3, 32),
            (Kind::Authentication, 1, 12),
            (Kind::Authentication, 4, 24),
            (Kind::Fragment, 0, 8),
        ] {
            let extension = Extension { units, ..Extension::new(kind) };
            assert_eq!(frame(&[Layer::Extension(extension)]).len(), len);
        }
    }
}
