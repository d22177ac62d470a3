//! Writes headers with right checksums, which the kernel checks. Each field that a case may falsify is
//! an argument or an option.

use std::net::IpAddr;

use super::Ends;

/// TCP flags by bit.
pub mod flag {
    /// Last segment of the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets the connection.
    pub const RST: u8 = 0x04;
    /// Deliver the data at once.
    pub const PSH: u8 = 0x08;
    /// Carries an acknowledgement number.
    pub const ACK: u8 = 0x10;
    /// Carries an urgent pointer.
    pub const URG: u8 = 0x20;
    /// Echo of a congestion mark.
    pub const ECE: u8 = 0x40;
    /// The sender has reduced its window.
    pub const CWR: u8 = 0x80;
}

/// Returns the Internet checksum (RFC 1071) of the parts, which are read as one sequence of bytes.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !low(u64::from((folded & 0xffff) + (folded >> 16)))
}

/// Returns the lower 16 bits of a number: the value of a field that is too small for it.
pub fn low(number: u64) -> u16 {
    let [.., high, low] = number.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Returns a length as the value of a field of 16 bits.
pub fn length(bytes: &[u8]) -> u16 {
    low(bytes.len() as u64)
}

/// Returns the octets of an address.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Returns the pseudo-header of a transport protocol (RFC 768, RFC 8200 section 8.1).
fn pseudo(ends: &Ends, protocol: u8, length: u16) -> Vec<u8> {
    let mut bytes = [octets(ends.from), octets(ends.to)].concat();
    match ends.from {
        IpAddr::V4(_) => bytes.extend([0, protocol]),
        IpAddr::V6(_) => bytes.extend([0, 0]),
    }
    bytes.extend(length.to_be_bytes());
    if ends.from.is_ipv6() {
        bytes.extend([0, 0, 0, protocol]);
    }
    bytes
}

/// Writes the checksum of a transport header with its data, at an offset. The checksum covers the first
/// `covered` bytes.
fn sum_transport(ends: &Ends, protocol: u8, bytes: &mut [u8], covered: usize, at: usize) {
    let covered = &bytes[..covered.min(bytes.len())];
    let sum = checksum(&[&pseudo(ends, protocol, length(bytes)), covered]);
    // 0 means that there is no checksum, so a sum of 0 is sent as its other form.
    let sum = if sum == 0 && protocol != 6 { 0xffff } else { sum };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Returns a UDP datagram. `length_field` and `sum` replace the right values.
pub fn udp(
    ends: &Ends,
    ports: [u16; 2],
    data: &[u8],
    length_field: Option<u16>,
    sum: Option<u16>,
) -> Vec<u8> {
    let mut bytes = ports.map(u16::to_be_bytes).concat();
    let natural = low(8 + data.len() as u64);
    bytes.extend(length_field.unwrap_or(natural).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    let all = bytes.len();
    sum_transport(ends, 17, &mut bytes, all, 6);
    if let Some(sum) = sum {
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Returns a UDP-Lite datagram (RFC 3828) with this coverage; 0 covers everything.
pub fn udp_lite(ends: &Ends, ports: [u16; 2], data: &[u8], coverage: u16) -> Vec<u8> {
    let mut bytes = ports.map(u16::to_be_bytes).concat();
    bytes.extend(coverage.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    let covered = if coverage == 0 { bytes.len() } else { usize::from(coverage) };
    sum_transport(ends, 136, &mut bytes, covered, 6);
    bytes
}

/// The fields of a TCP segment.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
    /// Flags, see [`flag`].
    pub flags: u8,
    /// Options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Data.
    pub data: Vec<u8>,
    /// Value of the header length in units of 4 bytes, instead of the right one.
    pub offset: Option<u8>,
    /// The reserved bits.
    pub reserved: u8,
    /// Checksum, instead of the right one.
    pub sum: Option<u16>,
}

impl Segment {
    /// Returns the bytes of the segment.
    pub fn bytes(&self, ends: &Ends) -> Vec<u8> {
        let units =
            self.offset.unwrap_or(low((20 + self.options.len() as u64) / 4).to_be_bytes()[1]);
        let mut bytes = self.ports.map(u16::to_be_bytes).concat();
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledged.to_be_bytes());
        bytes.extend([units << 4 | self.reserved & 15, self.flags, 0x20, 0, 0, 0, 0, 0]);
        bytes.extend(&self.options);
        bytes.extend(&self.data);
        let all = bytes.len();
        sum_transport(ends, 6, &mut bytes, all, 16);
        if let Some(sum) = self.sum {
            bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

/// The fields of an IPv4 header, without those that follow from the payload.
#[derive(Debug, Clone)]
pub struct Header4 {
    /// Protocol of the payload.
    pub protocol: u8,
    /// Identification, which fragments of one packet share.
    pub identification: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Time to live.
    pub ttl: u8,
    /// Version, instead of 4.
    pub version: Option<u8>,
    /// Header length in units of 4 bytes, instead of the right one.
    pub ihl: Option<u8>,
    /// Total length, instead of the right one.
    pub total: Option<u16>,
    /// Checksum, instead of the right one.
    pub sum: Option<u16>,
}

impl Header4 {
    /// Creates a header without options.
    pub fn new(protocol: u8, identification: u16) -> Self {
        Self {
            protocol,
            identification,
            fragment: 0,
            options: Vec::new(),
            ttl: 64,
            version: None,
            ihl: None,
            total: None,
            sum: None,
        }
    }

    /// Returns the packet: the header and a payload.
    pub fn packet(&self, ends: &Ends, payload: &[u8]) -> Vec<u8> {
        let len = 20 + self.options.len();
        let [_, words] = low(len as u64 / 4).to_be_bytes();
        let (version, ihl) = (self.version.unwrap_or(4), self.ihl.unwrap_or(words));
        let total = self.total.unwrap_or(low((len + payload.len()) as u64));
        let mut bytes = vec![version << 4 | ihl & 15, 0];
        for field in [total, self.identification, self.fragment] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(octets(ends.from));
        bytes.extend(octets(ends.to));
        bytes.extend(&self.options);
        let sum = self.sum.unwrap_or(checksum(&[&bytes]));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// The fields of an IPv6 header, without those that follow from the payload.
#[derive(Debug, Clone)]
pub struct Header6 {
    /// Protocol of the payload.
    pub next: u8,
    /// Flow label.
    pub flow: u32,
    /// Hop limit.
    pub hops: u8,
    /// Version, instead of 6.
    pub version: Option<u8>,
    /// Payload length, instead of the right one.
    pub length: Option<u16>,
}

impl Header6 {
    /// Creates a header.
    pub fn new(next: u8) -> Self {
        Self { next, flow: 0, hops: 64, version: None, length: None }
    }

    /// Returns the packet: the header and a payload.
    pub fn packet(&self, ends: &Ends, payload: &[u8]) -> Vec<u8> {
        let first = u32::from(self.version.unwrap_or(6)) << 28 | self.flow & 0x000f_ffff;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(self.length.unwrap_or(length(payload)).to_be_bytes());
        bytes.extend([self.next, self.hops]);
        bytes.extend(octets(ends.from));
        bytes.extend(octets(ends.to));
        bytes.extend(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, section 3: the sum without carries is 0xddf2.
    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0x12]]), !0x1200, "an odd byte is padded behind");
    }

    #[test]
    fn a_receiver_sums_each_transport_to_zero() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let ends = Ends { from: from.parse().unwrap(), to: to.parse().unwrap() };
            let segment = Segment { data: b"odd".to_vec(), flags: flag::SYN, ..Segment::default() };
            for (protocol, bytes) in [
                (17, udp(&ends, [1, 2], b"data", None, None)),
                (136, udp_lite(&ends, [1, 2], b"data", 0)),
                (6, segment.bytes(&ends)),
            ] {
                assert_eq!(checksum(&[&pseudo(&ends, protocol, length(&bytes)), &bytes]), 0);
            }
        }
    }

    #[test]
    fn an_ipv4_header_has_its_length_and_sum() {
        let ends = Ends { from: [10, 0, 0, 1].into(), to: [10, 0, 0, 2].into() };
        let header = Header4 { options: vec![1; 4], ..Header4::new(17, 7) };
        let packet = header.packet(&ends, &[0; 8]);
        assert_eq!(packet[..4], [0x46, 0, 0, 32]);
        assert_eq!(checksum(&[&packet[..24]]), 0);
    }
}
