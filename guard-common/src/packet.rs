//! A frame as the decision sees it: a length, and reads of fixed width at an offset.

/// A received frame, addressed from the first byte of its Ethernet header.
///
/// The parser reads a frame header by header: [`Packet::read`] checks once that `N` bytes are
/// present, and [`Fields`] then reads them at constant offsets, in network byte order and at any
/// alignment. Offsets and lengths are in bytes. A read beyond the available bytes returns `None`.
///
/// The kernel programs implement the trait for packet memory, and [`Frame`] implements it for a
/// slice.
///
/// # Examples
///
/// ```
/// use guard_common::packet::{Fields, Frame, Packet};
///
/// // The first 14 of 60 bytes: two MAC addresses and the EtherType of ARP.
/// let bytes = [0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x06];
/// let frame = Frame::cut(&bytes, 60);
/// assert_eq!(frame.len(), 60);
///
/// let header = frame.read::<14>(0).expect("14 bytes are present");
/// assert_eq!(header.be16::<12>(), 0x0806);
/// assert!(frame.read::<1>(14).is_none());
/// ```
pub trait Packet {
    /// `N` bytes that are known to be present.
    type Bytes<const N: usize>: Fields;

    /// Whether a read at an offset that the compiler knows costs less than other reads. If so, the
    /// parser has a separate copy for frames without VLAN tags and IP options, which nearly all
    /// frames are.
    const KNOWN_OFFSETS_ARE_CHEAP: bool;

    /// Returns the length of the frame on the wire in bytes, without the frame check sequence. It
    /// may exceed the bytes that [`Packet::read`] can reach, when a capture truncated the frame.
    fn len(&self) -> u32;

    /// Returns the `N` bytes at offset `at`, or `None` if they are not all present.
    fn read<const N: usize>(&self, at: u32) -> Option<Self::Bytes<N>>;

    /// Reads like [`Packet::read`], for headers that few frames have. An implementation may be
    /// slower here.
    fn read_rare<const N: usize>(&self, at: u32) -> Option<Self::Bytes<N>> {
        self.read(at)
    }

    /// Returns whether the frame has at least `end` bytes.
    #[inline(always)]
    fn reaches(&self, end: u32) -> bool {
        end <= self.len()
    }

    /// Returns how many VLAN tags a driver or the kernel has already removed from the frame. They
    /// count like tags that are still in it.
    #[inline(always)]
    fn tags_taken_off(&self) -> u32 {
        0
    }

    /// Returns whether the kernel has merged several packets into this one (GRO). A merged packet
    /// may be longer than the length field of its IP header can express; the field is 0 in this
    /// case.
    #[inline(always)]
    fn is_merged(&self) -> bool {
        false
    }

    /// Returns whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes that can be read as integers at constant offsets. An offset beyond the bytes does not
/// compile.
pub trait Fields {
    /// Returns one byte.
    fn u8<const AT: usize>(&self) -> u8;
    /// Returns two bytes in network byte order.
    fn be16<const AT: usize>(&self) -> u16;
    /// Returns four bytes in network byte order.
    fn be32<const AT: usize>(&self) -> u32;
    /// Returns eight bytes in network byte order.
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

/// Returns `LEN` of the bytes, from `AT` on.
#[inline(always)]
fn part<const AT: usize, const LEN: usize, const N: usize>(bytes: &[u8; N]) -> [u8; LEN] {
    const { assert!(AT + LEN <= N, "a field beyond the bytes that were read") };
    // The assertion rules out the default; it is here only to avoid code that can panic.
    core::array::from_fn(|nth| bytes.get(AT.wrapping_add(nth)).copied().unwrap_or_default())
}

/// A frame that answers every read with [`Packet::read_rare`].
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

/// A frame in memory, complete or truncated by a capture.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    len: u32,
}

impl<'a> Frame<'a> {
    /// Wraps a complete frame, without the frame check sequence.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
    }

    /// Wraps the first bytes of a frame that had `len` bytes on the wire, as a capture keeps them.
    /// A `len` below the number of bytes is raised to it.
    pub fn cut(bytes: &'a [u8], len: u32) -> Self {
        let whole = Self::new(bytes);
        Self { bytes, len: len.max(whole.len) }
    }
}

impl Packet for Frame<'_> {
    type Bytes<const N: usize> = [u8; N];
    /// The costs are equal in memory. Set as in the kernel, so that the host runs both copies of
    /// the parser, too.
    const KNOWN_OFFSETS_ARE_CHEAP: bool = true;

    fn len(&self) -> u32 {
        self.len
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}
