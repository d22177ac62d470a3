//! Ethernet frames: VLAN tags, other encodings of the protocol, odd destinations.

use std::net::IpAddr;

use super::Builder;
use crate::oracle::{
    Ends, NODE_MAC, SENDER_MAC, VLANS,
    bytes::{Header4, Header6, length, octets},
};

/// `EtherType`s of VLAN tags: customer and service tags, and two that the kernel does not know.
const TAGS: [u16; 8] = [0x8100, 0x8100, 0x8100, 0x88a8, 0x88a8, 0x88a8, 0x9100, 0x9200];
/// VLAN number and priority: priority tags, the node's VLANs with other bits, and VLANs of nobody.
const VALUES: [u16; 10] =
    [0, 0, 0xe000, 0x1000, VLANS[0], 0xe000 | VLANS[0], VLANS[1], 0x1000 | VLANS[1], 7, 4095];

/// Returns the `EtherType` of a packet between two addresses.
fn ethertype(ends: &Ends) -> [u8; 2] {
    if ends.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] }
}

/// Returns a frame with a TCP segment in a plain packet.
pub(super) fn plain(ends: &Ends, segment: &[u8]) -> Vec<u8> {
    let packet = match ends.from {
        IpAddr::V4(_) => Header4::new(6, 0).packet(ends, segment),
        IpAddr::V6(_) => Header6::new(6).packet(ends, segment),
    };
    [&NODE_MAC[..], &SENDER_MAC, &ethertype(ends), &packet].concat()
}

impl Builder {
    /// Returns a frame for each packet.
    pub(super) fn link(&mut self, ends: &Ends, packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let to = self.destination(ends);
        let tags = self.tags();
        // All packets, or only the first one.
        let all_tagged = self.random.chance(80);
        let form = self.random.below(100);
        let ethertype = ethertype(ends);
        let mut frames = Vec::new();
        for (index, packet) in packets.into_iter().enumerate() {
            let body = match form {
                0..3 => {
                    let length = length(&packet).wrapping_add(8).to_be_bytes();
                    [&length, &b"\xaa\xaa\x03\0\0\0"[..], &ethertype, &packet].concat()
                }
                3..5 => {
                    let label: u32 = *self.random.pick(&[0, 2, 16, 100]);
                    // The last label, with a time to live of 255.
                    let entry = (label << 12 | 0x1ff).to_be_bytes();
                    [&[0x88, 0x47], &entry[..], &packet].concat()
                }
                5..7 => {
                    let protocol = if ends.from.is_ipv4() { 0x21 } else { 0x57 };
                    let length = length(&packet).wrapping_add(2).to_be_bytes();
                    let session = [&[0x11, 0, 0, 1], &length[..], &[0, protocol]].concat();
                    [&[0x88, 0x64], &session[..], &packet].concat()
                }
                7 => {
                    let others = [0x0800, 0x86dd, 0x0806, 0x88fb, 0x6558, 0x9000, 0x0600, 0x05ff];
                    let other: u16 = *self.random.pick(&others);
                    [&other.to_be_bytes(), &packet[..]].concat()
                }
                _ => [&ethertype, &packet[..]].concat(),
            };
            let tags: &[[u8; 4]] = if index == 0 || all_tagged { &tags } else { &[] };
            frames.push([&to[..], &SENDER_MAC, &tags.concat(), &body].concat());
        }
        match form {
            0..3 => self.say("SNAP"),
            3..5 => self.say("MPLS"),
            5..7 => self.say("PPPoE"),
            7 => self.say("another EtherType"),
            _ => {}
        }
        frames
    }

    /// Returns the destination's Ethernet address: the node's, that of the group, or a wrong one.
    fn destination(&mut self, ends: &Ends) -> [u8; 6] {
        let octets = octets(ends.to);
        let natural = match (&octets[..], ends.to) {
            ([224..240, b, c, d], _) => [1, 0, 0x5e, b & 0x7f, *c, *d],
            (_, IpAddr::V4(to)) if to.is_broadcast() || octets[3] == 255 => [0xff; 6],
            ([0xff, .., w, x, y, z], IpAddr::V6(_)) => [0x33, 0x33, *w, *x, *y, *z],
            _ => NODE_MAC,
        };
        let odd = [NODE_MAC, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1], [2, 0xaa, 0, 0, 0, 0x77]];
        let to = if self.random.chance(12) { *self.random.pick(&odd) } else { natural };
        if to != NODE_MAC {
            self.say(format!("to {to:02x?}"));
        }
        to
    }

    /// Returns VLAN tags, mostly none.
    fn tags(&mut self) -> Vec<[u8; 4]> {
        let count = match self.random.below(100) {
            0..15 => 1,
            15..24 => 2,
            24..28 => 3,
            28..30 => 5,
            _ => 0,
        };
        // Only tags that the node knows, in most cases.
        let known = self.random.chance(70);
        let mut tags = Vec::new();
        for index in 0..count {
            let (kind, value) = if known {
                // The service tag is in front of the customer tag.
                let vlan = if index + 1 == count { (0x8100, VLANS[0]) } else { (0x88a8, VLANS[1]) };
                *self.random.pick(&[(0x8100, 0), (0x88a8, 0), (0x8100, 0xe000), vlan, vlan])
            } else {
                (*self.random.pick(&TAGS), *self.random.pick(&VALUES))
            };
            let [[a, b], [c, d]] = [kind, value].map(u16::to_be_bytes);
            tags.push([a, b, c, d]);
        }
        self.facts.tags = tags.len();
        if !tags.is_empty() {
            self.say(format!("tags {tags:02x?}"));
        }
        tags
    }
}
