//! Packets of one sender, each with a mark in its data by which a receiver recognises it.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use guard_tests::oracle::{
    Ends, NODE_MAC, SENDER_MAC,
    bytes::{self, Header4, Header6, Segment, flag},
};

/// Source ports that packets get by default: the first, and how many. No policy of these tests guards
/// them, and the kernel chooses higher ones.
const SOURCE_PORTS: (u32, u32) = (20_000, 12_000);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A packet with a UDP datagram or a TCP segment.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) ends: Ends,
    /// Source and destination port.
    pub(super) ports: [u16; 2],
    /// Flags of the segment; `None` for a datagram.
    flags: Option<u8>,
    /// Sequence number, and the number that the segment acknowledges.
    numbers: [u32; 2],
    /// Destination Ethernet address.
    mac: [u8; 6],
    /// Number of the VLAN.
    vlan: Option<u16>,
    /// Number of bytes of data.
    len: usize,
    /// The beginning of the data.
    mark: [u8; 8],
    /// Whether the segment has no data.
    is_bare: bool,
}

fn packet(from: IpAddr, to: IpAddr, port: u16, flags: Option<u8>) -> Packet {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let (first, count) = SOURCE_PORTS;
    let source = bytes::low(u64::from(first + number % count));
    let mut mark = [0xa5, 0x5a, 0, 0, 0, 0, 0xc3, 0x3c];
    mark[2..6].copy_from_slice(&number.to_be_bytes());
    let mac = match bytes::octets(to)[..] {
        [255, 255, 255, 255] => [0xff; 6],
        [224..240, x, y, z] => [1, 0, 0x5e, x & 0x7f, y, z],
        [0xff, .., w, x, y, z] => [0x33, 0x33, w, x, y, z],
        _ => NODE_MAC,
    };
    Packet {
        ends: Ends { from, to },
        ports: [source, port],
        flags,
        numbers: [1000, 0],
        mac,
        vlan: None,
        len: 8,
        mark,
        is_bare: false,
    }
}

/// Returns a datagram to a port.
pub(super) fn udp(from: IpAddr, to: IpAddr, port: u16) -> Packet {
    packet(from, to, port, None)
}

/// Returns a segment to a port.
pub(super) fn tcp(from: IpAddr, to: IpAddr, port: u16, flags: u8) -> Packet {
    packet(from, to, port, Some(flags))
}

/// Returns a segment that opens a connection.
pub(super) fn syn(from: IpAddr, to: IpAddr, port: u16) -> Packet {
    tcp(from, to, port, flag::SYN)
}

impl Packet {
    pub(super) fn with_source_port(mut self, port: u16) -> Self {
        self.ports[0] = port;
        self
    }

    /// Sets sequence number and acknowledgement number.
    pub(super) fn numbers(mut self, numbers: [u32; 2]) -> Self {
        self.numbers = numbers;
        self
    }

    pub(super) fn with_mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = mac;
        self
    }

    pub(super) fn on_vlan(mut self, number: u16) -> Self {
        self.vlan = Some(number);
        self
    }

    /// Sets the number of bytes of data.
    pub(super) fn len(mut self, len: usize) -> Self {
        self.len = len;
        self
    }

    /// Removes the data, also the mark.
    pub(super) fn bare(mut self) -> Self {
        self.is_bare = true;
        self
    }

    /// Reports whether bytes contain the mark of this packet.
    pub(super) fn is_in(&self, received: &[u8]) -> bool {
        received.windows(self.mark.len()).any(|window| window == self.mark)
    }

    /// Returns the packet's transport header and data.
    fn transport(&self) -> (u8, Vec<u8>) {
        let mut data = if self.is_bare { Vec::new() } else { self.mark.to_vec() };
        data.resize(if self.is_bare { 0 } else { self.len }, 0x79);
        let Some(flags) = self.flags else {
            return (17, bytes::udp(&self.ends, self.ports, &data, None, None));
        };
        let [sequence, acknowledged] = self.numbers;
        let segment = Segment {
            ports: self.ports,
            sequence,
            acknowledged,
            flags,
            data,
            ..Segment::default()
        };
        (6, segment.bytes(&self.ends))
    }

    /// Returns the frame.
    pub(super) fn frame(&self) -> Vec<u8> {
        let (protocol, payload) = self.transport();
        let packet = match self.ends.from {
            IpAddr::V4(_) => Header4::new(protocol, 1).packet(&self.ends, &payload),
            IpAddr::V6(_) => Header6::new(protocol).packet(&self.ends, &payload),
        };
        self.on_wire(&packet)
    }

    /// Returns the frames of the packet in fragments with at most `len` bytes, a multiple of 8, of the
    /// transport each.
    pub(super) fn fragments(&self, len: usize) -> Vec<Vec<u8>> {
        let (protocol, payload) = self.transport();
        let [number, more_number] = [self.ports[0], 0];
        let chunks = payload.chunks(len);
        let last = chunks.len() - 1;
        let fragment = |(index, chunk): (usize, &[u8])| {
            let offset = bytes::low((index * len / 8) as u64);
            let is_more = index < last;
            let packet = match self.ends.from {
                IpAddr::V4(_) => {
                    let fragment = offset | u16::from(is_more) << 13;
                    Header4 { fragment, ..Header4::new(protocol, number) }.packet(&self.ends, chunk)
                }
                IpAddr::V6(_) => {
                    let field = offset << 3 | u16::from(is_more);
                    let words = [field, more_number, number].map(u16::to_be_bytes).concat();
                    let payload = [&[protocol, 0][..], &words, chunk].concat();
                    // 44: the fragment header.
                    Header6::new(44).packet(&self.ends, &payload)
                }
            };
            self.on_wire(&packet)
        };
        chunks.enumerate().map(fragment).collect()
    }

    /// Adds the Ethernet header.
    fn on_wire(&self, packet: &[u8]) -> Vec<u8> {
        let tag = self.vlan.map(|number| [0x8100, number].map(u16::to_be_bytes).concat());
        let kind: u16 = if self.ends.from.is_ipv4() { 0x0800 } else { 0x86dd };
        [&self.mac, &SENDER_MAC, &tag.unwrap_or_default()[..], &kind.to_be_bytes(), packet].concat()
    }
}
