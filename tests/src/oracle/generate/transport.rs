//! Datagrams and segments.

use super::{Builder, mark, source_port};
use crate::oracle::{
    Ends, NEW_PORT, NODE, PORT, SENDER,
    bytes::{
        self, Segment,
        flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG},
    },
};

/// Flags of segments that open a connection, alone and in senseless company, and of those that do not.
const FLAGS: [u8; 24] = [
    SYN | FIN,
    SYN | RST,
    SYN | ACK,
    SYN | PSH | URG,
    SYN | URG,
    SYN | ECE | CWR,
    SYN | ECE,
    SYN | CWR,
    SYN | PSH,
    SYN | FIN | PSH | URG,
    SYN | RST | FIN,
    !ACK,
    255,
    ACK,
    ACK | PSH,
    ACK | FIN,
    ACK | URG,
    ACK | ECE,
    ACK | PSH | FIN | URG,
    RST,
    RST | ACK,
    FIN,
    PSH,
    0,
];

/// TCP options, each a multiple of 4 bytes. In order: maximum segment size, the same with selective
/// acknowledgements, Fast Open without and with a cookie, two of Multipath TCP, no operations, a length
/// of 0, an MD5 signature, the experimental Fast Open, the end of the list.
const OPTIONS: [&[u8]; 11] = [
    b"\x02\x04\x05\xb4",
    b"\x02\x04\x05\xb4\x04\x02\x01\x01",
    b"\x22\x02\x01\x01",
    b"\x22\x0a12345678\x01\x01",
    b"\x1e\x0c\x00\x81\0\0\0\0\0\0\0\0",
    b"\x1e\x04\x01\x81",
    &[1; 40],
    b"\x02\x00\x00\x00",
    b"\x13\x12\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01",
    b"\xfd\x04\xf9\x89",
    &[0; 4],
];

/// Sequence number of a request, and of its acknowledgement minus one.
const SEQUENCE: u32 = 1_000;

impl Builder {
    /// Returns a UDP or UDP-Lite datagram, with its protocol.
    pub(super) fn datagram(&mut self, ends: &Ends) -> (u8, Vec<u8>) {
        let mut data = mark(self.number);
        // The larger ones need several buffers.
        let more = *self.random.pick(&[0, 0, 1, 8, 64, 64, 300, 1300, 4000, 7500]);
        data.resize(data.len() + more, 0);
        let ports = [*self.random.pick(&[1234, 0, 53, 123, PORT]), PORT];
        if self.random.chance(20) {
            let all = 8 + bytes::length(&data);
            let coverage = *self.random.pick(&[0, 8, 12, 7, all, all, all + 1]);
            self.say(format!("UDP-Lite, {coverage} of {all} covered"));
            return (136, bytes::udp_lite(ends, ports, &data, coverage));
        }
        let (mut length, mut sum, mut tail) = (None, None, 0);
        match self.random.below(100) {
            0..10 => sum = Some(0),
            10..13 => sum = Some(1),
            13..18 => {
                let all = 8 + bytes::length(&data);
                length = Some(*self.random.pick(&[0, 7, 8, all - 4, all + 4, all + 900]));
                sum = Some(0);
            }
            18..26 => {
                tail = 1 + self.random.below(60);
                sum = *self.random.pick(&[None, Some(0)]);
            }
            _ => {}
        }
        self.say(format!("UDP, {} bytes", data.len()));
        if let Some(length) = length {
            self.say(format!("UDP length {length}"));
        }
        if let Some(sum) = sum {
            self.say(format!("checksum {sum}"));
        }
        if tail > 0 {
            self.say(format!("{tail} bytes behind"));
        }
        let mut datagram = bytes::udp(ends, ports, &data, length, sum);
        datagram.resize(datagram.len() + tail, 0);
        (17, datagram)
    }

    /// Returns a TCP segment, mostly one that opens a connection.
    pub(super) fn segment(&mut self, ends: &Ends) -> Vec<u8> {
        let flags = if self.random.chance(50) { SYN } else { *self.random.pick(&FLAGS) };
        let any = u32::from(self.random.short()) << 16 | u32::from(self.random.short());
        let mut segment = Segment {
            ports: [source_port(self.number), *self.random.pick(&[PORT, NEW_PORT])],
            sequence: any,
            acknowledged: if self.random.chance(50) { any.wrapping_mul(3) } else { 0 },
            flags,
            ..Segment::default()
        };
        self.dress(&mut segment);
        match self.random.below(100) {
            0..6 => segment.offset = Some(*self.random.pick(&[0, 4, 6, 15])),
            6..9 => segment.sum = Some(0),
            9..15 => segment.reserved = *self.random.pick(&[1, 8, 15]),
            _ => {}
        }
        self.say(describe(&segment));
        segment.bytes(ends)
    }

    /// Adds options and data.
    fn dress(&mut self, segment: &mut Segment) {
        if self.random.chance(60) {
            segment.options = self.random.pick(&OPTIONS).to_vec();
        }
        if self.random.chance(30) {
            segment.data = vec![0x79; *self.random.pick(&[1, 5, 100, 1200, 4000])];
        }
    }

    /// Returns addresses and port of a request whose cookie is acknowledged later.
    pub(super) fn request(&mut self) -> (Ends, u16) {
        let family = usize::from(self.random.chance(50));
        let port = *self.random.pick(&[PORT, NEW_PORT, NEW_PORT]);
        (Ends { from: SENDER[family], to: NODE[family] }, port)
    }

    /// Returns the SYN of a request.
    pub(super) fn plain_syn(&self, ends: &Ends, port: u16) -> Vec<u8> {
        let ports = [source_port(self.number), port];
        Segment { ports, sequence: SEQUENCE, flags: SYN, ..Segment::default() }.bytes(ends)
    }

    /// Returns the segment that answers a cookie, in one of the forms that the kernel accepts.
    pub(super) fn acknowledgement(&mut self, ends: &Ends, port: u16, cookie: u32) -> Vec<u8> {
        let also = *self.random.pick(&[0, 0, PSH, PSH, URG, ECE, CWR, FIN, PSH | FIN, ECE | CWR]);
        let mut segment = Segment {
            ports: [source_port(self.number), port],
            sequence: SEQUENCE + 1,
            acknowledged: cookie.wrapping_add(1),
            flags: ACK | also,
            ..Segment::default()
        };
        if self.random.chance(60) {
            segment.data = vec![0x79; *self.random.pick(&[1, 5, 170, 1200])];
        }
        self.say(format!("cookie; {} > {}", ends.from, ends.to));
        self.say(describe(&segment));
        segment.bytes(ends)
    }
}

fn describe(segment: &Segment) -> String {
    let Segment { ports, flags, options, data, offset, reserved, sum, .. } = segment;
    format!(
        "TCP to {}, flags {flags:#04x}, options {options:02x?}, {} bytes, header length {offset:?}, \
         reserved {reserved}, checksum {sum:?}",
        ports[1],
        data.len()
    )
}
