//! Generates frames from a seed, aimed at a policy: its ports and their neighbours, its sources and the
//! edges of its prefixes, unlisted and impossible sources; complete, mutated, truncated and padded.

use std::net::{Ipv4Addr, Ipv6Addr};

use guard_common::port_table::{PORT_UNGUARDED, Transport};
use guard_user::policy::compiled::CompiledPolicy;

use crate::{
    packet::{self, Ethernet, Extension, Ipv4, Ipv6, Kind, Layer, Ports, Vlan},
    random::Random,
};

/// Ports and sources at which frames are aimed.
#[derive(Debug)]
struct Target {
    ports: Vec<(u8, u16)>,
    sources4: Vec<u32>,
    sources6: Vec<u128>,
}

/// Addresses that cannot be sources of packets, and neighbours that can.
const ODD4: [u32; 12] = [
    0x0000_0000,
    0x0000_0001,
    0x00ff_ffff,
    0x0100_0000,
    0x7eff_ffff,
    0x7f00_0001,
    0x8000_0000,
    0xdfff_ffff,
    0xe000_0001,
    0xefff_ffff,
    0xf000_0000,
    0xffff_ffff,
];
const ODD6: [u128; 10] = [
    0,
    1,
    2,
    0xffff_0a4d_0014,
    0xfffe_ffff_ffff,
    0x1_0000_0000_0000,
    0xff02_u128 << 112 | 1,
    0xfeff_u128 << 112,
    0xfe80_u128 << 112 | 1,
    u128::MAX,
];

/// Bytes of a frame in the first buffer of a test run: a page without headroom, shared info and the
/// metadata that holds the clock (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`).
const FIRST_BUFFER: usize = 4096 - 256 - 320 - 8;

impl Target {
    fn of(policy: &CompiledPolicy) -> Self {
        let mut ports = Vec::new();
        let numbers: [&[u8]; 3] = [&[6], &[17, 136], &[132]];
        for (transport, numbers) in Transport::ALL.into_iter().zip(numbers) {
            let runs = policy.port_runs(transport).into_iter();
            // Port 0 is an edge if it is guarded.
            for (port, _) in runs.filter(|run| *run != (0, PORT_UNGUARDED)) {
                // The port on each side of the edge, and the one after.
                for near in [port.wrapping_sub(1), port, port.wrapping_add(1)] {
                    ports.extend(numbers.iter().map(|number| (*number, near)));
                }
            }
        }
        ports.extend([(6, 22), (17, 53), (132, 9)]);
        let mut sources4 = Vec::new();
        for (prefix, _) in &policy.sources4 {
            let first = u32::from_be_bytes(prefix.addr);
            let last = first | u32::MAX.checked_shr(prefix.len.into()).unwrap_or(0);
            sources4.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1)]);
        }
        let mut sources6 = Vec::new();
        for (prefix, _) in &policy.sources6 {
            let first = u128::from_be_bytes(prefix.addr);
            let last = first | u128::MAX.checked_shr(prefix.len.into()).unwrap_or(0);
            sources6.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1)]);
        }
        // Addresses that are not in the manifest.
        sources4.extend([0xc000_0242, 0xc633_6442]);
        sources6.extend([0x2001_0db8_u128 << 96 | 0x66]);
        Self { ports, sources4, sources6 }
    }
}

/// Generates frames.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    target: Target,
    last: Vec<u8>,
    again: usize,
}

impl Generator {
    /// Creates a generator of frames aimed at a policy.
    pub fn new(policy: &CompiledPolicy, seed: u64) -> Self {
        Self { random: Random::new(seed), target: Target::of(policy), last: Vec::new(), again: 0 }
    }

    /// Returns the random numbers, for other decisions that must depend on the seed.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Returns the next frame, of any kind. Some frames are repeated many times in a row, which
    /// exercises limits.
    pub fn any(&mut self) -> Vec<u8> {
        if let Some(left) = self.again.checked_sub(1) {
            self.again = left;
        } else {
            self.last = self.fresh();
            self.again = if self.random.chance(5) { self.random.below(25) } else { 0 };
        }
        self.last.clone()
    }

    fn fresh(&mut self) -> Vec<u8> {
        let mut frame = match self.random.below(100) {
            0..3 => self.garbage(),
            3..6 => self.large(),
            6..26 => return self.plain(),
            _ => self.structured(),
        };
        if self.random.chance(30) {
            self.mutate(&mut frame);
        }
        match self.random.below(100) {
            0..10 => frame.truncate(self.random.below(frame.len() + 1)),
            10..20 => {
                let padded = frame.len() + self.random.below(64);
                frame.resize(padded, self.random.byte());
            }
            _ => {}
        }
        frame
    }

    /// Returns a valid frame, except perhaps for its source: frames that reach the limits.
    fn plain(&mut self) -> Vec<u8> {
        let to4 = Ipv4Addr::new(10, 77, 0, 10);
        let to6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10);
        let ip = if self.random.chance(50) {
            let from = *self.random.pick(&self.target.sources4);
            Layer::Ipv4(Ipv4::new(from.into(), to4))
        } else {
            let from = *self.random.pick(&self.target.sources6);
            Layer::Ipv6(Ipv6::new(from.into(), to6))
        };
        let (protocol, to) = *self.random.pick(&self.target.ports);
        let flags = *self.random.pick(&[0x02, 0x02, 0x10]);
        let ports = Ports { protocol, from: self.random.short(), to, flags, len: None };
        let payload = Layer::Bytes(vec![0; self.random.below(600)]);
        let ethernet = Ethernet { to: [2; 6], ethertype: None };
        packet::frame(&[Layer::Ethernet(ethernet), ip, Layer::Ports(ports), payload])
    }

    /// Returns an Ethernet header followed by random bytes.
    fn garbage(&mut self) -> Vec<u8> {
        let len = self.random.below(200);
        let mut frame: Vec<u8> = (0..len).map(|_| self.random.byte()).collect();
        if let Some(ethertype) = frame.get_mut(12..).and_then(|rest| rest.first_chunk_mut::<2>()) {
            let known: [[u8; 2]; 5] = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [8, 6]];
            *ethertype = *self.random.pick(&known);
        }
        frame
    }

    /// Returns a frame that needs several buffers; its ports are often behind the first buffer or across
    /// its end.
    fn large(&mut self) -> Vec<u8> {
        let mut layers = self.link();
        match self.random.below(10) {
            0..3 => layers.push(Layer::Ipv4(self.ipv4())),
            3..6 => {
                layers.push(Layer::Ipv6(self.ipv6()));
                for _ in 0..=self.random.below(4) {
                    layers.push(self.long_header(192, 64));
                }
            }
            _ => {
                // The headers end near the end of the first buffer.
                let ip = Ipv6 { version: None, payload: None, protocol: None, ..self.ipv6() };
                layers.push(Layer::Ipv6(ip));
                layers.push(self.long_header(255, 1));
                let left = FIRST_BUFFER - packet::frame(&layers).len();
                let units = u8::try_from(left / 8 - 4).expect("less than one header");
                layers.push(self.long_header(units, 8));
            }
        }
        layers.push(self.ports());
        layers.push(Layer::Bytes(vec![0; self.random.below(9000)]));
        packet::frame(&layers)
    }

    /// Returns an extension header with a length of `units` plus up to `more` units.
    fn long_header(&mut self, units: u8, more: usize) -> Layer {
        let kind = *self.random.pick(&[Kind::HopByHop, Kind::Routing, Kind::Destination]);
        let units = units + u8::try_from(self.random.below(more)).unwrap_or(0);
        Layer::Extension(Extension { units, ..Extension::new(kind) })
    }

    /// Returns a frame that is mostly valid.
    pub fn structured(&mut self) -> Vec<u8> {
        let mut layers = self.link();
        self.network(&mut layers);
        let payload = match self.random.below(10) {
            0 => 1400,
            1..4 => self.random.below(100),
            _ => 0,
        };
        layers.push(Layer::Bytes(vec![0; payload]));
        packet::frame(&layers)
    }

    fn link(&mut self) -> Vec<Layer> {
        let to = *self.random.pick(&[[2; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]]);
        let ethertype = self.random.chance(2).then(|| self.random.short());
        let mut layers = vec![Layer::Ethernet(Ethernet { to, ethertype })];
        let tags = match self.random.below(20) {
            0..14 => 0,
            14..17 => 1,
            17..19 => 2,
            _ => 3,
        };
        for _ in 0..tags {
            let kind = *self.random.pick(&[0x8100, 0x88a8]);
            let tag = *self.random.pick(&[0, 0x2000, 1, 4095]);
            layers.push(Layer::Vlan(Vlan { kind, tag, ethertype: None }));
        }
        layers
    }

    /// Adds an IP header and its contents, and sometimes an encapsulated packet.
    fn network(&mut self, layers: &mut Vec<Layer>) {
        let mut headers = match self.random.below(20) {
            0..14 => 0,
            14..19 => self.random.below(4),
            _ => self.random.below(12),
        };
        if self.random.chance(50) {
            layers.push(Layer::Ipv4(self.ipv4()));
            if !self.random.chance(20) {
                headers = 0;
            }
            for _ in 0..headers {
                layers.push(Layer::Extension(self.extension(Some(Kind::Authentication))));
            }
        } else {
            layers.push(Layer::Ipv6(self.ipv6()));
            for _ in 0..headers {
                layers.push(Layer::Extension(self.extension(None)));
            }
        }
        match self.random.below(20) {
            0 => {
                let number = *self.random.pick(&[1, 4, 41, 47, 50, 58, 115, 137, 253, 255]);
                layers.push(Layer::Protocol(number, vec![0; 16]));
            }
            1 => self.network(layers),
            _ => layers.push(self.ports()),
        }
    }

    fn ipv4(&mut self) -> Ipv4 {
        let from = if self.random.chance(10) {
            *self.random.pick(&ODD4)
        } else {
            *self.random.pick(&self.target.sources4)
        };
        let mut ip = Ipv4::new(from.into(), Ipv4Addr::new(10, 77, 0, 10));
        match self.random.below(40) {
            0..4 => ip.options = 4 * self.random.below(11),
            4 => ip.ihl = Some(self.random.byte() & 15),
            5 => ip.total = Some(self.near_length()),
            6 => ip.version = Some(self.random.byte() & 15),
            7 | 8 => ip.offset = self.random.short(),
            9 | 10 => ip.more = true,
            11 => ip.protocol = Some(self.random.byte()),
            _ => {}
        }
        ip
    }

    fn ipv6(&mut self) -> Ipv6 {
        let from = if self.random.chance(10) {
            *self.random.pick(&ODD6)
        } else {
            *self.random.pick(&self.target.sources6)
        };
        let to = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10);
        let mut ip = Ipv6::new(from.into(), to);
        match self.random.below(40) {
            0 => ip.payload = Some(self.near_length()),
            1 => ip.payload = Some(0),
            2 => ip.version = Some(self.random.byte() & 15),
            3 => ip.protocol = Some(self.random.byte()),
            _ => {}
        }
        ip
    }

    /// Returns a length that may be right, or slightly wrong.
    fn near_length(&mut self) -> u16 {
        u16::try_from(self.random.below(90)).unwrap_or(0)
    }

    fn extension(&mut self, kind: Option<Kind>) -> Extension {
        let kind = kind.unwrap_or_else(|| *self.random.pick(&Kind::ALL));
        let mut extension = Extension::new(kind);
        match self.random.below(20) {
            0..3 => extension.units = self.random.byte() & 7,
            3 => extension.lie = Some(self.random.byte()),
            4 => extension.offset = self.random.short() & 0x1fff,
            5..8 => extension.more = true,
            8 => extension.protocol = Some(self.random.byte()),
            _ => {}
        }
        extension
    }

    fn ports(&mut self) -> Layer {
        let (protocol, to) = *self.random.pick(&self.target.ports);
        let to = if self.random.chance(5) { self.random.short() } else { to };
        // Sometimes another transport at the same port.
        let protocol =
            if self.random.chance(5) { *self.random.pick(&[6, 17, 132, 136]) } else { protocol };
        let flags = match self.random.below(10) {
            0..4 => 0x02,
            4..6 => 0x10,
            6 => 0x12,
            7 => 0xc2,
            _ => self.random.byte(),
        };
        let len = self.random.chance(5).then(|| self.random.below(40));
        Layer::Ports(Ports { protocol, from: self.random.short(), to, flags, len })
    }

    fn mutate(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.random.below(3) {
            if frame.is_empty() {
                return;
            }
            // Mostly within the headers.
            let reach = if self.random.chance(80) { frame.len().min(80) } else { frame.len() };
            let at = self.random.below(reach);
            match self.random.below(6) {
                0 => frame[at] ^= 1 << self.random.below(8),
                1 => frame[at] = self.random.byte(),
                2 => frame[at] = *self.random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                3 => {
                    frame.remove(at);
                }
                4 => frame.insert(at, self.random.byte()),
                _ => {
                    let len = 1 + self.random.below(8);
                    let other = self.random.below(reach);
                    for step in 0..len {
                        if at + step < frame.len() && other + step < frame.len() {
                            frame.swap(at + step, other + step);
                        }
                    }
                }
            }
        }
    }
}
