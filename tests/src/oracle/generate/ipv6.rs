//! IPv6 packets: chains of extension headers, fragments behind them, false fields, encapsulation.

use std::net::IpAddr;

use super::Builder;
use crate::oracle::{
    Ends, NODE, SENDER,
    bytes::{Header4, Header6, octets},
};

/// Protocol numbers of headers that a chain may contain; the last two are mobility and no next header.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const KINDS: [u8; 9] = [
    DESTINATION,
    DESTINATION,
    DESTINATION,
    DESTINATION,
    HOP_BY_HOP,
    ROUTING,
    FRAGMENT,
    AUTHENTICATION,
    MOBILITY,
];
/// The order that RFC 8200 recommends.
const ORDER: [u8; 6] = [HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, AUTHENTICATION, MOBILITY];

impl Builder {
    /// Returns the packets of a case: one, or fragments.
    pub(super) fn ipv6(&mut self, ends: &Ends, protocol: u8, payload: Vec<u8>) -> Vec<Vec<u8>> {
        let chain = self.chain();
        let (next, payload) = self.prepend(ends, &chain, protocol, payload);
        self.facts.extensions += chain.len();
        if !chain.is_empty() {
            self.say(format!("headers {chain:?}"));
        }
        if self.random.chance(25) && payload.len() > 16 {
            return self.fragments6(ends, next, &payload);
        }
        let mut header = Header6::new(next);
        if self.random.chance(25) {
            header.flow = u32::from(self.random.short()) << 4;
        }
        self.falsify6(&mut header, payload.len());
        let mut packet = header.packet(ends, &payload);
        let padding = *self.random.pick(&[0, 0, 0, 1, 40, 200]);
        packet.resize(packet.len() + padding, 0);
        vec![packet]
    }

    /// Returns the kinds of extension headers of a packet, the first one first.
    fn chain(&mut self) -> Vec<u8> {
        let count = *self.random.pick(&[0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 6, 7, 8, 9, 12, 20]);
        let mut chain: Vec<u8> = (0..count).map(|_| *self.random.pick(&KINDS)).collect();
        if self.random.chance(50) {
            chain.sort_by_key(|kind| ORDER.iter().position(|other| other == kind));
        }
        // The kernel delivers nothing behind these.
        if self.random.chance(60) {
            chain.retain(|kind| ![AUTHENTICATION, MOBILITY].contains(kind));
        }
        chain
    }

    /// Writes extension headers in front of a payload. Returns the protocol of the first one.
    fn prepend(
        &mut self,
        ends: &Ends,
        chain: &[u8],
        protocol: u8,
        payload: Vec<u8>,
    ) -> (u8, Vec<u8>) {
        chain.iter().rev().fold((protocol, payload), |(next, payload), kind| {
            (*kind, [self.extension(*kind, next, ends), payload].concat())
        })
    }

    fn extension(&mut self, kind: u8, next: u8, ends: &Ends) -> Vec<u8> {
        match kind {
            HOP_BY_HOP | DESTINATION => self.options6(next),
            ROUTING => self.routing(next, ends),
            FRAGMENT => {
                // An atomic fragment, perhaps with the reserved bits, rarely with more to follow.
                let field = *self.random.pick(&[0, 0, 0, 0, 0, 6, 6, 1]);
                let number = self.number.wrapping_mul(3).wrapping_add(1).to_be_bytes();
                [&[next, 0, 0, field], &number[..]].concat()
            }
            AUTHENTICATION => vec![next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],
            _ => vec![next, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    /// Returns a header with options: mostly padding and options that may be skipped.
    fn options6(&mut self, next: u8) -> Vec<u8> {
        const SKIPPED: u8 = 0x1e;
        let (units, body) = match self.random.below(100) {
            0..50 => (0, vec![1, 4, 0, 0, 0, 0]),
            50..68 => (0, vec![SKIPPED, 4, 0, 0, 0, 0]),
            68..78 => (2, [&[SKIPPED, 12][..], &[0; 12], &[1, 6], &[0; 6]].concat()),
            // A router alert.
            78..83 => (0, vec![5, 2, 0, 0, 1, 0]),
            83..88 => (31, [&[SKIPPED, 252][..], &[0; 252]].concat()),
            88..91 => {
                let long = [&[SKIPPED, 252][..], &[0; 252]].concat();
                (127, [&long.repeat(4)[..], &[1, 4, 0, 0, 0, 0]].concat())
            }
            91..94 => {
                self.say("jumbo option");
                (0, vec![0xc2, 4, 0, 1, 0x10, 0])
            }
            // Dropped, without and with an answer.
            94..96 => (0, vec![0x5e, 4, 0, 0, 0, 0]),
            96..98 => (0, vec![0x9e, 4, 0, 0, 0, 0]),
            _ => (0, (0..6).map(|_| self.random.byte()).collect()),
        };
        [&[next, units], &body[..]].concat()
    }

    /// Returns a routing header: unknown types, segment routing, an obsolete source route.
    fn routing(&mut self, next: u8, ends: &Ends) -> Vec<u8> {
        let to = octets(ends.to);
        match self.random.below(100) {
            0..25 => vec![next, 0, 0, 0, 0, 0, 0, 0],
            25..40 => vec![next, 0, *self.random.pick(&[2, 3, 253, 254]), 0, 0, 0, 0, 0],
            40..60 => [&[next, 2, 4, 0, 0, 0, 0, 0], &to[..]].concat(),
            // One segment left: this node again.
            60..75 => [&[next, 2, 4, 1, 0, 0, 0, 0], &to[..]].concat(),
            75..88 => [&[next, 4, 4, 1, 1, 0, 0, 0], &to[..], &to[..]].concat(),
            _ => [&[next, 2, *self.random.pick(&[0, 2, 3]), 1, 0, 0, 0, 0], &to[..]].concat(),
        }
    }

    fn fragments6(&mut self, ends: &Ends, next: u8, payload: &[u8]) -> Vec<Vec<u8>> {
        const BEFORE: [&[u8]; 7] = [
            &[],
            &[],
            &[HOP_BY_HOP],
            &[DESTINATION],
            &[ROUTING],
            &[DESTINATION, DESTINATION],
            &[HOP_BY_HOP, DESTINATION],
        ];
        let mut pieces = self.pieces(payload);
        self.shuffle(&mut pieces);
        let before = *self.random.pick(&BEFORE);
        self.facts.extensions += 1 + before.len();
        self.say(format!("behind {before:?}"));
        let mut packets = Vec::new();
        for piece in pieces {
            // The protocol counts in the first fragment only.
            let other = piece.offset != 0 && self.random.chance(20);
            let next = if other { *self.random.pick(&[59, 6, 17, 44, 58]) } else { next };
            let reserved = *self.random.pick(&[0, 0, 0, 6]);
            let field = piece.offset | reserved | u16::from(piece.more);
            let reserved = *self.random.pick(&[0, 0, 0, 255]);
            let number = self.number.wrapping_mul(3).to_be_bytes();
            let header = [&[next, reserved], &field.to_be_bytes()[..], &number].concat();
            let body = [header, piece.bytes].concat();
            let (next, body) = self.prepend(ends, before, FRAGMENT, body);
            packets.push(Header6::new(next).packet(ends, &body));
        }
        packets
    }

    fn falsify6(&mut self, header: &mut Header6, payload: usize) {
        let len = crate::oracle::bytes::low(payload as u64);
        match self.random.below(100) {
            0..4 => {
                let wrong = [0, 8, len.saturating_sub(4), len + 4, len + 40];
                header.length = Some(*self.random.pick(&wrong));
            }
            4..7 => header.hops = *self.random.pick(&[0, 1, 255]),
            7 => header.version = Some(*self.random.pick(&[0, 4, 5, 15])),
            _ => return,
        }
        self.facts.false_ip_header |= header.length.is_some() || header.version.is_some();
        self.facts.without_length |= header.length == Some(0);
        let Header6 { length, hops, version, .. } = header;
        self.words.push(format!("IPv6 length {length:?} hops {hops} version {version:?}"));
    }

    /// Puts the packet into another one, rarely. Returns ends, protocol and payload of the outer one.
    pub(super) fn encapsulate(
        &mut self,
        ends: &Ends,
        protocol: u8,
        payload: Vec<u8>,
    ) -> (Ends, u8, Vec<u8>) {
        if !self.random.chance(4) {
            return (*ends, protocol, payload);
        }
        self.facts.encapsulated = true;
        let (number, inner, ethertype) = match ends.from {
            IpAddr::V4(_) => (4, Header4::new(protocol, 0).packet(ends, &payload), [0x08, 0x00]),
            IpAddr::V6(_) => (41, Header6::new(protocol).packet(ends, &payload), [0x86, 0xdd]),
        };
        let family = self.random.below(2);
        let outer = Ends { from: SENDER[family], to: NODE[family] };
        let kind = self.random.below(3);
        self.say(format!("in {} > {}, form {kind}", outer.from, outer.to));
        match kind {
            0 => (outer, 47, [&[0, 0], &ethertype[..], &inner].concat()),
            // Segment routing ends here, and what follows is unpacked by the kernel without a device.
            1 if family == 1 => {
                let to = octets(outer.to);
                self.facts.extensions += 1;
                (outer, ROUTING, [&[number, 2, 4, 0, 0, 0, 0, 0], &to[..], &inner].concat())
            }
            _ => (outer, number, inner),
        }
    }
}
