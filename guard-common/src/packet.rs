//! A frame as the decision sees it: a length, and fixed-width copies at an offset.

/// A received frame, unopened, from the first byte of its Ethernet header.
///
/// It hands out copies, never references: a copy cannot outlive the frame, needs no alignment, and
/// its byte order is chosen where it is read.
pub trait Packet {
    /// Length of the frame on the wire in bytes, without the frame check sequence. May exceed what
    /// [`Packet::read`] can reach, when a capture cut the frame.
    fn len(&self) -> u32;

    /// The `N` bytes at offset `at`, or nothing if they are not all there or `at` is beyond
    /// [`MAX_OFFSET`].
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]>;

    /// Whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Largest offset that is ever read, in bytes. The verifier wants a constant bound below
/// `MAX_PACKET_OFF` (0xffff, kernel/bpf/verifier.c); two VLAN tags and the longest chain of
/// [`crate::wire::MAX_EXTENSION_HEADERS`] headers of 2048 bytes end below it.
pub const MAX_OFFSET: u32 = 0x7fff;

/// A frame in memory.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    len: u32,
}

impl<'a> Frame<'a> {
    /// A whole frame.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        }
    }
}

impl Packet for Frame<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        if at > MAX_OFFSET {
            return None;
        }
        let at = usize::try_from(at).ok()?;
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}
