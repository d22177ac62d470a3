//! IPv4 packets: options, false fields, fragments, an authentication header.

use super::Builder;
use crate::oracle::{Ends, bytes::Header4};

/// Options without an address, each a multiple of 4 bytes: no operations, router alerts, record route,
/// timestamps, security, ends of the list, a stream, an unknown one, an obsolete one.
const OPTIONS: [&[u8]; 14] = [
    &[1; 4],
    &[1; 20],
    &[1; 40],
    b"\x94\x04\x00\x00",
    b"\x94\x04\x00\x01",
    b"\x07\x07\x04\0\0\0\0\0",
    b"\x83\x07\x08\x01\x02\x03\x04\0",
    b"\x44\x0c\x05\0\0\0\0\0\0\0\0\0",
    b"\x44\x02\0\0",
    b"\x86\x06\0\0\0\x01\x02\x02\0\0\0\0",
    &[0; 4],
    b"\x88\x04\0\0",
    b"\x1e\x04\0\0",
    b"\x82\x0b\0\0\0\0\0\0\0\0\0\0",
];
/// Loose and strict source route, which name the next hop.
const SOURCE_ROUTES: [u8; 2] = [0x83, 0x89];

impl Builder {
    /// Returns the packets of a case: one, or fragments.
    pub(super) fn ipv4(&mut self, ends: &Ends, protocol: u8, payload: &[u8]) -> Vec<Vec<u8>> {
        let (mut protocol, mut payload) = (protocol, payload.to_vec());
        if self.random.chance(3) {
            payload = [&[protocol, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], &payload[..]].concat();
            protocol = 51;
            self.facts.extensions = 1;
            self.say("AH");
        }
        let identification = crate::oracle::bytes::low(self.number.into());
        let mut header = Header4::new(protocol, identification);
        if self.random.chance(30) {
            header.options = self.options4(ends);
            self.say(format!("options {:02x?}", header.options));
        }
        if self.random.chance(25) && payload.len() > 16 {
            return self.fragments4(ends, &header, &payload);
        }
        self.falsify4(&mut header, payload.len());
        let mut packet = header.packet(ends, &payload);
        let padding = *self.random.pick(&[0, 0, 0, 1, 40, 200]);
        packet.resize(packet.len() + padding, 0);
        vec![packet]
    }

    fn options4(&mut self, ends: &Ends) -> Vec<u8> {
        if self.random.chance(75) {
            return self.random.pick(&OPTIONS).to_vec();
        }
        let to = crate::oracle::bytes::octets(ends.to);
        let kind = *self.random.pick(&SOURCE_ROUTES);
        // One hop or two, and the end of the list.
        let hops = if self.random.chance(70) { vec![to] } else { vec![to.clone(), to] };
        let mut option = vec![kind, if hops.len() == 1 { 7 } else { 11 }, 4];
        option.extend(hops.concat());
        option.push(0);
        option
    }

    fn fragments4(&mut self, ends: &Ends, header: &Header4, payload: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = self.pieces(payload);
        self.shuffle(&mut pieces);
        // Do not fragment, and the reserved flag.
        let flags = *self.random.pick(&[0, 0, 0x4000, 0x8000]);
        let options_everywhere = self.random.chance(50);
        let padding = if self.random.chance(6) { 1 + self.random.below(30) } else { 0 };
        if padding > 0 {
            self.say("padded");
        }
        let packets = pieces.iter().map(|piece| {
            let mut header = header.clone();
            header.fragment = flags | u16::from(piece.more) << 13 | (piece.offset / 8);
            if piece.offset != 0 && !options_everywhere {
                header.options.clear();
            }
            let mut packet = header.packet(ends, &piece.bytes);
            packet.resize(packet.len() + padding, 0);
            packet
        });
        packets.collect()
    }

    /// Sets a field to a value that is false or unusual.
    fn falsify4(&mut self, header: &mut Header4, payload: usize) {
        let total = crate::oracle::bytes::low((20 + header.options.len() + payload) as u64);
        match self.random.below(100) {
            0..3 => header.ihl = Some(*self.random.pick(&[0, 4, 6, 15])),
            3..6 => {
                let wrong = [0, 20, 28, total - 4, total + 4, total + 40];
                header.total = Some(*self.random.pick(&wrong));
            }
            6..7 => header.version = Some(*self.random.pick(&[0, 5, 6])),
            7..10 => header.fragment = *self.random.pick(&[0x8000, 0x4000, 0xc000, 0x2000]),
            10..13 => header.ttl = *self.random.pick(&[0, 1, 255]),
            13 => header.sum = Some(1),
            _ => return,
        }
        self.facts.false_ip_header |=
            header.ihl.is_some() || header.total.is_some() || header.version.is_some();
        let Header4 { ihl, total, version, fragment, ttl, sum, .. } = header;
        self.words.push(format!(
            "IPv4 ihl {ihl:?} total {total:?} version {version:?} fragment {fragment:#x} ttl {ttl} \
             sum {sum:?}"
        ));
    }
}
