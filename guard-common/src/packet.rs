//! A frame as the decision sees it: a length, and fixed-width copies at an offset.

/// A received frame, unopened, from the first byte of its Ethernet header.
///
/// It hands out copies, never references: a copy cannot outlive the frame, needs no alignment, and
/// its byte order is chosen where it is read.
pub trait Packet {
    /// Length of the frame on the wire in bytes, without the frame check sequence. May exceed what
    /// [`Packet::read`] can reach, when a capture cut the frame.
    fn len(&self) -> u32;

    /// The `N` bytes at offset `at`, or nothing if they are not all there.
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]>;

    /// As [`Packet::read`], for headers that few frames have: a shell may take a slower way here.
    fn read_rare<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.read(at)
    }

    /// Whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame of which every read is a rare one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rarely<'a, P>(pub(crate) &'a P);

impl<P: Packet> Packet for Rarely<'_, P> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.0.read_rare(at)
    }
}

/// A frame in memory.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    len: u32,
}

impl<'a> Frame<'a> {
    /// A whole frame.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
    }

    /// The beginning of a frame that had `len` bytes on the wire: what a capture kept of it.
    pub fn cut(bytes: &'a [u8], len: u32) -> Self {
        let whole = Self::new(bytes);
        Self { bytes, len: len.max(whole.len) }
    }
}

impl Packet for Frame<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}
