//! Writes capture files: classic pcap, and the blocks of pcapng.

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Time since the epoch in nanoseconds.
    pub time_ns: u64,
    /// The bytes that the capture kept.
    pub bytes: Vec<u8>,
    /// Length on the wire.
    pub wire_len: usize,
}

impl Frame {
    /// Creates a frame that the capture kept completely.
    pub fn at(time_ns: u64, bytes: Vec<u8>) -> Self {
        Self { time_ns, wire_len: bytes.len(), bytes }
    }

    /// Returns the frame with only `kept` bytes kept.
    #[must_use]
    pub fn cut(mut self, kept: usize) -> Self {
        self.bytes.truncate(kept);
        self
    }
}

/// Format of a classic pcap file.
#[derive(Debug, Clone, Copy)]
pub struct Pcap {
    /// Whether the file was written on a big-endian machine.
    pub big_endian: bool,
    /// Whether timestamps are in nanoseconds instead of microseconds.
    pub nanoseconds: bool,
    /// Link type. 1 is Ethernet.
    pub link_type: u32,
    /// Snap length in the header. Frames are not cut to it.
    pub snap_len: u32,
}

impl Default for Pcap {
    /// Ethernet, microseconds, little-endian, with tcpdump's snap length.
    fn default() -> Self {
        Self { big_endian: false, nanoseconds: false, link_type: 1, snap_len: 262_144 }
    }
}

impl Pcap {
    /// Returns a file with these frames.
    pub fn file(self, frames: &[Frame]) -> Vec<u8> {
        let big = self.big_endian;
        let (magic, unit) = if self.nanoseconds { (0xa1b2_3c4d, 1) } else { (0xa1b2_c3d4, 1000) };
        let mut file = word(big, magic).to_vec();
        // Format version 2.4.
        file.extend(half(big, 2));
        file.extend(half(big, 4));
        for value in [0, 0, self.snap_len, self.link_type] {
            file.extend(word(big, value));
        }
        for frame in frames {
            let fraction = frame.time_ns % 1_000_000_000 / unit;
            file.extend(word(big, bits(frame.time_ns / 1_000_000_000)));
            file.extend(word(big, bits(fraction)));
            file.extend(content(big, frame));
        }
        file
    }
}

/// Builder of a pcapng file.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// Whether this section was written on a big-endian machine.
    pub big_endian: bool,
    /// The bytes so far.
    pub file: Vec<u8>,
}

impl Blocks {
    /// Starts a file with the header of a section.
    pub fn section(big_endian: bool) -> Self {
        let mut blocks = Self { big_endian, file: Vec::new() };
        let mut body = word(big_endian, 0x1a2b_3c4d).to_vec();
        body.extend(half(big_endian, 1));
        body.extend(half(big_endian, 0));
        body.extend([0xff; 8]);
        blocks.add(0x0a0d_0d0a, &body);
        blocks
    }

    /// Adds a block of any kind.
    pub fn add(&mut self, kind: u32, body: &[u8]) {
        let padded = body.len().next_multiple_of(4);
        self.file.extend(word(self.big_endian, kind));
        self.file.extend(word(self.big_endian, length(padded + 12)));
        self.file.extend(body);
        self.file.resize(self.file.len() + padded - body.len(), 0);
        self.file.extend(word(self.big_endian, length(padded + 12)));
    }

    /// Adds an interface with this `if_tsresol`, the resolution of its timestamps.
    #[must_use]
    pub fn interface(self, link_type: u16, resolution: u8) -> Self {
        self.interface_with(link_type, 0, &[(9, &[resolution])])
    }

    /// Adds an interface with a snap length (0 for none) and options.
    #[must_use]
    pub fn interface_with(
        mut self,
        link_type: u16,
        snap_len: u32,
        options: &[(u16, &[u8])],
    ) -> Self {
        let mut body = half(self.big_endian, link_type).to_vec();
        body.extend([0; 2]);
        body.extend(word(self.big_endian, snap_len));
        for (code, value) in options {
            let length = u16::try_from(value.len()).expect("a short option");
            body.extend(half(self.big_endian, *code));
            body.extend(half(self.big_endian, length));
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body.extend([0; 4]);
        self.add(1, &body);
        self
    }

    /// Adds an enhanced packet block, with the time in units of the interface.
    #[must_use]
    pub fn packet(mut self, interface: u32, units: u64, frame: &Frame) -> Self {
        let interface = word(self.big_endian, interface);
        self.add(6, &self.timed(&interface, units, frame));
        self
    }

    /// Adds an obsolete packet block, which the enhanced one replaced.
    #[must_use]
    pub fn obsolete(mut self, interface: u16, units: u64, frame: &Frame) -> Self {
        let drops = half(self.big_endian, 0xffff);
        let interface = [half(self.big_endian, interface), drops].concat();
        self.add(2, &self.timed(&interface, units, frame));
        self
    }

    /// Adds a simple packet block, which has no time.
    #[must_use]
    pub fn simple(mut self, frame: &Frame) -> Self {
        let mut body = word(self.big_endian, length(frame.wire_len)).to_vec();
        body.extend(&frame.bytes);
        self.add(3, &body);
        self
    }

    fn timed(&self, interface: &[u8], units: u64, frame: &Frame) -> Vec<u8> {
        let big = self.big_endian;
        let high = word(big, bits(units >> 32));
        let low = word(big, bits(units & 0xffff_ffff));
        [interface, &high, &low, &content(big, frame)].concat()
    }
}

/// Returns both lengths and the bytes of a frame.
fn content(big: bool, frame: &Frame) -> Vec<u8> {
    let kept = word(big, length(frame.bytes.len()));
    [&kept[..], &word(big, length(frame.wire_len)), &frame.bytes].concat()
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a short frame")
}

fn bits(value: u64) -> u32 {
    u32::try_from(value).expect("32 bits")
}

fn word(big: bool, value: u32) -> [u8; 4] {
    if big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn half(big: bool, value: u16) -> [u8; 2] {
    if big { value.to_be_bytes() } else { value.to_le_bytes() }
}
