//! Reading captures of Ethernet frames: pcap and pcapng of either byte order and time resolution, and
//! events of `trainguard events`, which contain the headers of frames.
//!
//! A capture is untrusted input. Reading it uses bounded memory and ends with frames, or with an
//! error that has the position.

pub mod events;
pub mod headers;

use std::{
    io::{self, Read},
    ops::ControlFlow,
};

use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

/// Maximum size of a block in a capture, in bytes: a frame with its header.
const MAX_BLOCK: usize = 1 << 20;
/// Maximum length of the frame of an event, in bytes.
pub const MAX_FRAME: usize = MAX_BLOCK;
/// Maximum number of interfaces in a pcapng section.
const MAX_INTERFACES: usize = 4096;

/// Magic bytes of compressed files, the format, and the command that decompresses to standard output.
const COMPRESSED: [(&[u8], &str, &str); 5] = [
    (&[0x1f, 0x8b], "gzip", "gunzip -c"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -dc"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4", "lz4 -dc"),
    (&[0xfd, b'7', b'z', b'X'], "xz", "xz -dc"),
    (b"BZh", "bzip2", "bunzip2 -c"),
];
/// Nanoseconds in a second.
const NS: u128 = 1_000_000_000;
/// Block type of the obsolete packet block of pcapng, which the parser does not decode.
const PACKET_BLOCK: u32 = 2;

/// A captured frame.
#[derive(Debug, Clone, Copy)]
pub struct Captured<'a> {
    /// Number of the frame in the capture, from 1.
    pub number: u64,
    /// Time of capture in nanoseconds since an arbitrary but fixed time; none if the capture has no
    /// times.
    pub time_ns: Option<u64>,
    /// The captured bytes.
    pub bytes: &'a [u8],
    /// Length on the wire in bytes; at least that of `bytes`.
    pub wire_len: u32,
}

/// Why reading a capture failed or ended early.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The format of the file is unknown.
    #[error("unknown format: expected a pcap file, a pcapng file, or lines of `trainguard events`")]
    NotACapture,
    /// The file is compressed.
    #[error(
        "the file is compressed ({with}); unpack it first, as in `{unpack} FILE | trainguard \
         replay ... -`"
    )]
    Compressed {
        /// The compression format.
        with: &'static str,
        /// The command that decompresses to standard output.
        unpack: &'static str,
    },
    /// A frame has a link type other than Ethernet.
    #[error(
        "frame {number} has link type {linktype}{}, not Ethernet (1); {}",
        linktype_name(*.linktype),
        linktype_help(*.linktype)
    )]
    NotEthernet {
        /// Number of the frame.
        number: u64,
        /// Link type, as in the registry of tcpdump (<https://www.tcpdump.org/linktypes.html>).
        linktype: i32,
    },
    /// The file ends within a frame.
    #[error("the file ends within frame {number}: it is truncated")]
    CutOff {
        /// Number of the frame.
        number: u64,
    },
    /// A frame is larger than the maximum.
    #[error("frame {number} has more than {MAX_BLOCK} bytes")]
    TooLarge {
        /// Number of the frame.
        number: u64,
    },
    /// The file has invalid content.
    #[error("the data after frame {after} cannot be read: the file is damaged")]
    Damaged {
        /// Number of the last frame that could be read; 0 if there was none.
        after: u64,
    },
    /// A line is not an event.
    #[error("line {number}: {problem}")]
    Line {
        /// Number of the line, from 1.
        number: u64,
        /// What was found, and what was expected.
        problem: String,
    },
    /// Reading the input failed.
    #[error("reading the input: {0}")]
    Io(#[from] io::Error),
}

/// Passes every frame of a capture to `visit`, in order, until `visit` breaks. Returns the number of
/// frames.
///
/// # Errors
/// See [`CaptureError`]. Frames before the error have been passed to `visit`.
pub fn read(
    mut input: impl Read,
    mut visit: impl FnMut(Captured<'_>) -> ControlFlow<()>,
) -> Result<u64, CaptureError> {
    let start = events::beginning(&mut input)?;
    if events::begins_like_events(&start) {
        return events::read(start.chain(input), visit);
    }
    if let Some((_, with, unpack)) = COMPRESSED.iter().find(|(magic, ..)| start.starts_with(magic))
    {
        return Err(CaptureError::Compressed { with, unpack });
    }
    let mut failed = None;
    let input = FullReads { input: start.chain(input), failed: &mut failed };
    let result = read_blocks(input, &mut visit);
    // The parser only reports that reading failed, not the error.
    match failed {
        Some(error) => Err(CaptureError::Io(error)),
        None => result,
    }
}

fn read_blocks(
    input: impl Read,
    visit: &mut impl FnMut(Captured<'_>) -> ControlFlow<()>,
) -> Result<u64, CaptureError> {
    let mut reader = pcap_parser::create_reader(MAX_BLOCK, input)
        .map_err(|_unrecognised| CaptureError::NotACapture)?;
    let mut form = SectionState::default();
    let mut frames = 0;
    loop {
        let next = frames + 1;
        match reader.next() {
            Ok((offset, block)) => {
                if let Some(frame) = form.frame(&block, next)? {
                    frames = next;
                    if visit(frame).is_break() {
                        return Ok(frames);
                    }
                }
                reader.consume(offset);
            }
            Err(PcapError::Eof) => return Ok(frames),
            Err(PcapError::Incomplete(_)) => refill(&mut *reader, next)?,
            Err(PcapError::UnexpectedEof) => return Err(CaptureError::CutOff { number: next }),
            Err(PcapError::BufferTooSmall) => return Err(CaptureError::TooLarge { number: next }),
            Err(_) => return Err(CaptureError::Damaged { after: frames }),
        }
    }
}

/// Reads more input, because a block is incomplete.
fn refill(reader: &mut dyn PcapReaderIterator, number: u64) -> Result<(), CaptureError> {
    let before = reader.data().len();
    match reader.refill() {
        Ok(()) => {}
        Err(PcapError::UnexpectedEof | PcapError::Eof) => {
            return Err(CaptureError::CutOff { number });
        }
        Err(PcapError::BufferTooSmall) => return Err(CaptureError::TooLarge { number }),
        Err(_) => return Err(CaptureError::Damaged { after: number - 1 }),
    }
    // The parser detects a regular end of the file only by trying to read beyond it.
    if reader.data().len() > before || before == 0 {
        Ok(())
    } else {
        Err(CaptureError::CutOff { number })
    }
}

/// State from the headers read so far, which applies to the frames after them.
#[derive(Debug, Default)]
struct SectionState {
    /// Of a pcap file: link type, and whether timestamps are in nanoseconds.
    linktype: i32,
    nanoseconds: bool,
    /// Of a section of a pcapng file: byte order, and interfaces.
    big_endian: bool,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    linktype: i32,
    snaplen: u32,
    /// Units of a timestamp per second.
    resolution: u128,
    /// Seconds to add to each timestamp.
    offset: i64,
}

impl Interface {
    /// Converts a timestamp of this interface to nanoseconds.
    fn time_ns(&self, high: u32, low: u32) -> u64 {
        let units = u128::from(high) << 32 | u128::from(low);
        let time_ns = i128::try_from(units * NS / self.resolution).unwrap_or(i128::MAX);
        let time_ns = time_ns.saturating_add(i128::from(self.offset) * 1_000_000_000).max(0);
        u64::try_from(time_ns).unwrap_or(u64::MAX)
    }
}

impl SectionState {
    /// Returns the frame in a block, if the block has one.
    fn frame<'a>(
        &mut self,
        block: &'a PcapBlockOwned<'a>,
        number: u64,
    ) -> Result<Option<Captured<'a>>, CaptureError> {
        let damaged = || CaptureError::Damaged { after: number - 1 };
        let frame = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.linktype = header.network.0;
                self.nanoseconds = header.is_nanosecond_precision();
                return Ok(None);
            }
            PcapBlockOwned::Legacy(frame) => {
                ethernet(self.linktype, number)?;
                let fraction = u64::from(frame.ts_usec);
                let fraction = if self.nanoseconds { fraction } else { fraction * 1000 };
                let kept = usize::try_from(frame.caplen).unwrap_or(usize::MAX);
                let bytes = frame.data.get(..kept).ok_or_else(damaged)?;
                let time_ns = u64::from(frame.ts_sec) * 1_000_000_000 + fraction;
                captured(number, Some(time_ns), bytes, frame.origlen)
            }
            PcapBlockOwned::NG(Block::SectionHeader(section)) => {
                self.big_endian = section.big_endian();
                self.interfaces.clear();
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                if self.interfaces.len() >= MAX_INTERFACES {
                    return Err(damaged());
                }
                self.interfaces.push(Interface {
                    linktype: interface.linktype.0,
                    snaplen: interface.snaplen,
                    resolution: resolution(interface.if_tsresol).ok_or_else(damaged)?,
                    // The parser decodes the field as little-endian in every section.
                    offset: if self.big_endian {
                        interface.if_tsoffset.swap_bytes()
                    } else {
                        interface.if_tsoffset
                    },
                });
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let id = usize::try_from(packet.if_id).unwrap_or(usize::MAX);
                let interface = self.interfaces.get(id).ok_or_else(damaged)?;
                ethernet(interface.linktype, number)?;
                let kept = usize::try_from(packet.caplen).unwrap_or(usize::MAX);
                let bytes = packet.data.get(..kept).ok_or_else(damaged)?;
                let time_ns = interface.time_ns(packet.ts_high, packet.ts_low);
                captured(number, Some(time_ns), bytes, packet.origlen)
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                // A simple packet block belongs to the first interface, and has no timestamp.
                let interface = self.interfaces.first().ok_or_else(damaged)?;
                ethernet(interface.linktype, number)?;
                let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
                let kept = usize::try_from(packet.origlen.min(limit)).unwrap_or(usize::MAX);
                let data = packet.packet_data();
                let bytes = data.get(..kept.min(data.len())).ok_or_else(damaged)?;
                captured(number, None, bytes, packet.origlen)
            }
            PcapBlockOwned::NG(Block::Unknown(block))
                if block.block_type == self.native(PACKET_BLOCK) =>
            {
                self.obsolete(block.data, number)?
            }
            PcapBlockOwned::NG(_) => return Ok(None),
        };
        Ok(Some(frame))
    }

    /// Converts a word that was read as little-endian to the byte order of the section.
    fn native(&self, word: u32) -> u32 {
        if self.big_endian { word.swap_bytes() } else { word }
    }

    /// Decodes an obsolete packet block: interface and drop count of 16 bits each, upper and lower
    /// half of the timestamp, captured and original length, data.
    fn obsolete<'a>(&self, data: &'a [u8], number: u64) -> Result<Captured<'a>, CaptureError> {
        let damaged = || CaptureError::Damaged { after: number - 1 };
        let (words, data) = data.split_at_checked(20).ok_or_else(damaged)?;
        let word = |nth: usize| {
            let bytes = words.get(nth * 4..nth * 4 + 4)?.try_into().ok()?;
            Some(self.native(u32::from_le_bytes(bytes)))
        };
        let [first, high, low, kept, wire_len] =
            [word(0), word(1), word(2), word(3), word(4)].map(Option::unwrap_or_default);
        let id = if self.big_endian { first >> 16 } else { first & 0xffff };
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        let interface = self.interfaces.get(id).ok_or_else(damaged)?;
        ethernet(interface.linktype, number)?;
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        let bytes = data.get(..kept).ok_or_else(damaged)?;
        Ok(captured(number, Some(interface.time_ns(high, low)), bytes, wire_len))
    }
}

fn captured(number: u64, time_ns: Option<u64>, bytes: &[u8], wire_len: u32) -> Captured<'_> {
    let kept = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Captured { number, time_ns, bytes, wire_len: wire_len.max(kept) }
}

fn ethernet(linktype: i32, number: u64) -> Result<(), CaptureError> {
    if linktype == Linktype::ETHERNET.0 {
        Ok(())
    } else {
        Err(CaptureError::NotEthernet { number, linktype })
    }
}

/// Returns a description of the most common link types, for messages.
fn linktype_name(linktype: i32) -> &'static str {
    match linktype {
        0 | 108 => " (loopback)",
        101 | 228 | 229 => " (IP without Ethernet, as on a tunnel)",
        105 | 127 => " (wireless)",
        113 => " (Linux cooked capture)",
        276 => " (Linux cooked capture v2)",
        _ => "",
    }
}

fn linktype_help(linktype: i32) -> &'static str {
    match linktype {
        113 | 276 => {
            "`tcpdump -i any` omits the Ethernet header: capture on the interface that is \
             guarded, `tcpdump -i eth0 -w FILE`"
        }
        _ => "capture on the Ethernet interface that is guarded",
    }
}

/// Returns the units per second: `if_tsresol` is a negative power of ten, or of two if its highest
/// bit is set.
fn resolution(tsresol: u8) -> Option<u128> {
    let exponent = u32::from(tsresol & 0x7f);
    let base: u128 = if tsresol & 0x80 == 0 { 10 } else { 2 };
    base.checked_pow(exponent).filter(|units| *units < 1 << 64)
}

/// A reader that fills the whole buffer on each read: the parser takes a short read as the end of the
/// file, and pipes have short reads. It also keeps the I/O error, which the parser does not pass on.
struct FullReads<'e, R> {
    input: R,
    failed: &'e mut Option<io::Error>,
}

impl<R: Read> Read for FullReads<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
            match self.input.read(space) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let same = io::Error::new(error.kind(), error.to_string());
                    *self.failed = Some(error);
                    return Err(same);
                }
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use guard_test_support::pcap::{Blocks, Frame, Pcap};

    use super::*;

    type Seen = Vec<(u64, Option<u64>, usize, u32)>;

    fn events(file: &[u8]) -> Result<Seen, CaptureError> {
        let mut seen = Vec::new();
        read(file, |frame| {
            seen.push((frame.number, frame.time_ns, frame.bytes.len(), frame.wire_len));
            ControlFlow::Continue(())
        })?;
        Ok(seen)
    }

    fn pcap(form: Pcap) -> Vec<u8> {
        let unit = if form.nanoseconds { 1 } else { 1000 };
        let frames = [(1, 5), (2, 6)].map(|(seconds, fraction)| {
            let time_ns = seconds * 1_000_000_000 + fraction * unit;
            Frame { time_ns, bytes: vec![0xab; 20], wire_len: 60 }
        });
        form.file(&frames)
    }

    /// Returns a file with a section header, an interface with nanosecond timestamps, an enhanced and
    /// a simple packet.
    fn pcapng() -> Vec<u8> {
        let long = Frame { time_ns: 7, bytes: vec![0; 18], wire_len: 90 };
        let blocks = Blocks::section(false).interface_with(1, 0x4_0000, &[(9, &[9])]);
        blocks.packet(0, 7, &long).simple(&Frame::at(0, vec![0; 16])).file
    }

    #[test]
    fn both_byte_orders_and_resolutions_are_read() {
        for big in [false, true] {
            let form = Pcap { big_endian: big, ..Pcap::default() };
            let seen = events(&pcap(form)).expect("microseconds");
            let at = [Some(1_000_005_000), Some(2_000_006_000)];
            assert_eq!(seen, [(1, at[0], 20, 60), (2, at[1], 20, 60)], "big endian: {big}");
            let seen = events(&pcap(Pcap { nanoseconds: true, ..form })).expect("nanoseconds");
            assert_eq!(seen.first().map(|frame| frame.1), Some(Some(1_000_000_005)));
        }
    }

    #[test]
    fn pcapng_is_read() {
        let seen = events(&pcapng()).expect("pcapng");
        assert_eq!(seen, [(1, Some(7), 18, 90), (2, None, 16, 16)]);
    }

    #[test]
    fn other_link_types_are_refused() {
        let error =
            events(&pcap(Pcap { link_type: 113, ..Pcap::default() })).expect_err("not Ethernet");
        assert!(error.to_string().contains("link type 113"), "{error}");
    }

    #[test]
    fn a_truncated_file_has_an_error_or_fewer_frames_and_never_panics() {
        for whole in [pcap(Pcap::default()), pcapng()] {
            for end in 0..whole.len() {
                let part = whole.get(..end).unwrap_or_default();
                if let Ok(seen) = events(part) {
                    assert!(seen.len() < 2, "{end} of {}", whole.len());
                }
            }
        }
    }

    #[test]
    fn invalid_content_never_panics() {
        assert!(matches!(events(b"not a capture at all, is it"), Err(CaptureError::NotACapture)));
        for whole in [pcap(Pcap { big_endian: true, ..Pcap::default() }), pcapng()] {
            for at in 0..whole.len() {
                for value in [0, 0x7f, 0xff] {
                    let mut damaged = whole.clone();
                    if let Some(byte) = damaged.get_mut(at) {
                        *byte = value;
                    }
                    // Either frames or an error are acceptable.
                    let _ = events(&damaged);
                }
            }
        }
    }
}
