//! A frame as the decision sees it: a length, and fixed-width reads at an offset.

/// A received frame, unopened, from the first byte of its Ethernet header.
///
/// It is read header by header: one check that `N` bytes are there, then fields at constant offsets
/// within them, in network byte order, whatever their alignment.
pub trait Packet {
    /// `N` bytes that are known to be there.
    type Bytes<const N: usize>: Fields;

    /// Whether a read at an offset that the compiler knows costs less than another. Then frames
    /// without VLAN tags and IP options, which nearly all are, are read by a copy of the parser of
    /// their own.
    const KNOWN_OFFSETS_ARE_CHEAP: bool;

    /// Length of the frame on the wire in bytes, without the frame check sequence. May exceed what
    /// [`Packet::read`] can reach, when a capture cut the frame.
    fn len(&self) -> u32;

    /// The `N` bytes at offset `at`, or nothing if they are not all there.
    fn read<const N: usize>(&self, at: u32) -> Option<Self::Bytes<N>>;

    /// As [`Packet::read`], for headers that few frames have: a shell may take a slower way here.
    fn read_rare<const N: usize>(&self, at: u32) -> Option<Self::Bytes<N>> {
        self.read(at)
    }

    /// Whether the frame is long enough to end at offset `end` or behind it.
    #[inline(always)]
    fn reaches(&self, end: u32) -> bool {
        end <= self.len()
    }

    /// VLAN tags that a driver or the kernel took off the frame before. They count like tags that
    /// are still in it.
    #[inline(always)]
    fn tags_taken_off(&self) -> u32 {
        0
    }

    /// Whether the kernel has merged several packets into this one. It may then be longer than its
    /// header can say, which says 0 instead.
    #[inline(always)]
    fn is_merged(&self) -> bool {
        false
    }

    /// Whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The fields of some bytes, at constant offsets. An offset beyond the bytes does not compile.
pub trait Fields {
    /// One byte.
    fn u8<const AT: usize>(&self) -> u8;
    /// Two bytes, the first one the most significant.
    fn be16<const AT: usize>(&self) -> u16;
    /// Four bytes, likewise.
    fn be32<const AT: usize>(&self) -> u32;
    /// Eight bytes, likewise.
    fn be64<const AT: usize>(&self) -> u64;
}

impl<const N: usize> Fields for [u8; N] {
    #[inline(always)]
    fn u8<const AT: usize>(&self) -> u8 {
        let [byte] = part::<AT, 1, N>(self);
        byte
    }

    #[inline(always)]
    fn be16<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(part::<AT, 2, N>(self))
    }

    #[inline(always)]
    fn be32<const AT: usize>(&self) -> u32 {
        u32::from_be_bytes(part::<AT, 4, N>(self))
    }

    #[inline(always)]
    fn be64<const AT: usize>(&self) -> u64 {
        u64::from_be_bytes(part::<AT, 8, N>(self))
    }
}

/// `LEN` of the bytes, from `AT` on.
#[inline(always)]
fn part<const AT: usize, const LEN: usize, const N: usize>(bytes: &[u8; N]) -> [u8; LEN] {
    const { assert!(AT + LEN <= N, "a field beyond the bytes that were read") };
    // Never the default, as was just asserted; it spares a way to panic.
    core::array::from_fn(|nth| bytes.get(AT.wrapping_add(nth)).copied().unwrap_or_default())
}

/// A frame of which every read is a rare one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColdPath<'a, P>(pub(crate) &'a P);

impl<P: Packet> Packet for ColdPath<'_, P> {
    type Bytes<const N: usize> = P::Bytes<N>;
    const KNOWN_OFFSETS_ARE_CHEAP: bool = false;

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<P::Bytes<N>> {
        self.0.read_rare(at)
    }

    #[inline(always)]
    fn reaches(&self, end: u32) -> bool {
        self.0.reaches(end)
    }

    #[inline(always)]
    fn tags_taken_off(&self) -> u32 {
        self.0.tags_taken_off()
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        self.0.is_merged()
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
    type Bytes<const N: usize> = [u8; N];
    /// It does not matter in memory; as in the kernel, so that both ways are gone here, too.
    const KNOWN_OFFSETS_ARE_CHEAP: bool = true;

    fn len(&self) -> u32 {
        self.len
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}
