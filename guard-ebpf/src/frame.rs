//! A received frame. This is the only code that accesses packet memory.
//!
//! There are two ways to read a frame. The fast way uses packet pointers and sees only the first
//! buffer, which contains the headers of nearly every frame. The copying way uses a helper and sees
//! the whole frame. [`receive`] parses the fast way and, if data was missing there, parses again
//! the copying way. Both run the same parser.
//!
//! Decision: `docs/decisions/0005-no-helper-call-for-usual-packets.md`.
//! Decision: `docs/decisions/0054-bounds-checks-and-barriers.md`.

use core::{cell::Cell, mem::MaybeUninit};

use aya_ebpf::programs::XdpContext;
use guard_common::{NoTrace, Packet, Reason, flow::Headers, packet::Fields, wire};

use crate::context::Context;

/// A received frame: its headers and its length.
pub(crate) struct Received {
    /// The parsed headers.
    pub(crate) headers: Headers,
    /// Length in bytes; see [`receive`].
    pub(crate) len: u64,
    /// A zero whose value the verifier does not know.
    pub(crate) zero: u64,
}

/// Copies the first bytes of a frame of length `len`, at most `N`. Returns the number of bytes, 0
/// if the frame cannot be read. A removed tag is inserted at its place.
#[inline(always)]
pub(crate) fn copy_front<const N: usize>(ctx: &impl Context, len: u32, to: *mut [u8; N]) -> u32 {
    let tag = ctx.tag();
    if tag.count() == 0 {
        return copy_part(ctx, len, 0, to.cast(), N);
    }
    let addresses = wire::ETHERTYPE_AT as usize;
    let tag_end = addresses + wire::VLAN_TAG_LEN as usize;
    let to: *mut u8 = to.cast();
    // SAFETY: the addresses, the tag after them and the rest of the `N` bytes after the tag are
    // within the room that callers provide.
    unsafe {
        if !ctx.copy(0, to, addresses as u32) {
            return 0;
        }
        to.add(addresses).cast::<[u8; 4]>().write(tag.0.to_be_bytes());
        let rest = copy_part(ctx, len, wire::ETHERTYPE_AT, to.add(tag_end), N - tag_end);
        tag_end as u32 + rest
    }
}

/// Copies the bytes of a frame of length `len` from offset `at` on, at most `room`. Returns their
/// number.
#[inline(always)]
fn copy_part(ctx: &impl Context, len: u32, at: u32, to: *mut u8, room: usize) -> u32 {
    // The helper must not be called for 0 bytes, and before Linux 6.8 the verifier learns nothing
    // from a comparison with zero. Therefore the index of the last byte is bounded and not the
    // count. If no bytes are left, the index wraps around, and the helper refuses the `room` bytes
    // that are then requested. The values are opaque, so that the register that is compared is the
    // one that the helper gets.
    let last = opaque(u64::from(len.wrapping_sub(at)).wrapping_sub(1));
    let bounded = if last < room as u64 { last } else { room as u64 - 1 };
    let count = opaque(bounded) + 1;
    // SAFETY: callers provide room for `room` bytes, and no more are requested; the verifier checks
    // this.
    let copied = unsafe { ctx.copy(at, to, count as u32) };
    if copied { count as u32 } else { 0 }
}

/// Parses the headers of the frame. Unless `exact`, the returned length may be that of the first
/// buffer, if no header requires more: data in other buffers after the IP packet is not included.
///
/// The verifier permits the subtraction of packet pointers with `CAP_PERFMON` only.
#[inline(always)]
pub(crate) fn receive<C: Context>(ctx: &C, exact: bool) -> Received {
    let (start, end) = (ctx.start(), ctx.end());
    let front = opaque((end - start) as u64);
    let zero = front >> 32;
    let known = if C::LEN_IS_CHEAP { ctx.len() } else { front };
    let linear = Linear {
        start,
        end,
        len: unlinked(known) as u32,
        tags: ctx.tag().count(),
        merged: ctx.is_merged(),
        missed: Cell::new(false),
    };
    let headers = if start + FIXED_HEADERS_LEN > end {
        linear.missed.set(true);
        Headers::unparsed(Reason::Undecodable)
    } else {
        written(guard_common::parse(&linear, &mut NoTrace))
    };
    if linear.missed.get() {
        let len = ctx.len();
        return Received { headers: parse_whole(ctx, len as u32).masked(zero), len, zero };
    }
    let len = if exact { ctx.len() } else { known };
    Received { headers: headers.masked(zero), len, zero }
}

/// Parses the headers of the frame in whichever buffers they are. The copying code is in a function
/// that is not inlined, because it is called rarely and from two places.
#[inline(always)]
pub(crate) fn parse_whole(ctx: &impl Context, len: u32) -> Headers {
    let mut source = [0; 2];
    let facts = facts_of_whole(ctx, len, &mut source);
    Headers { facts, source, source_port: 0 }
}

/// Returns one word directly and the rest through a pointer. The compiler turns a function that
/// returns more into one that returns nothing, and the verifier refuses the uninitialised register
/// of the result.
#[inline(never)]
fn facts_of_whole(ctx: &impl Context, len: u32, source: &mut [u64; 2]) -> u64 {
    let headers = written(guard_common::parse(&AllBuffers { ctx, len }, &mut NoTrace));
    *source = headers.source;
    headers.facts
}

/// Forces the compiler to write all words, also those that are not read on some path. Otherwise it
/// omits the write but still copies the register, and the verifier refuses to copy an uninitialised
/// register.
#[inline(always)]
fn written(headers: Headers) -> Headers {
    let Headers { facts, source: [high, low], .. } = headers;
    Headers { facts: opaque(facts), source: [opaque(high), opaque(low)], source_port: 0 }
}

/// Returns the same value, hidden from the compiler.
#[inline(always)]
fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // A real instruction: an empty one would leave two line records for the next instruction,
        // which the kernel refuses (`check_btf_line`, kernel/bpf/verifier.c).
        // SAFETY: moves a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    core::hint::black_box(value)
}

/// Returns the same number, but the verifier does not know that it is the same. A comparison of one
/// of them then has no consequence for the other, so the verifier need not continue once for each
/// outcome.
#[inline(always)]
fn unlinked(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = number;
        // SAFETY: changes no bit.
        unsafe { core::arch::asm!("{0} |= 0", inout(reg) number, options(nomem, nostack)) };
        number
    }
    #[cfg(not(target_arch = "bpf"))]
    core::hint::black_box(number)
}

/// Number of bytes of a frame that are compared with the end of the first buffer once, for all
/// headers at constant offsets: Ethernet, IPv4 without options, TCP without options. No frame on a
/// wire is shorter.
const FIXED_HEADERS_LEN: usize = 54;

/// The first buffer of a frame, at least [`FIXED_HEADERS_LEN`] bytes long. Records whether data was
/// requested that is not in the buffer.
struct Linear {
    start: usize,
    end: usize,
    /// Length in bytes: of the frame if it is known, otherwise of this buffer.
    len: u32,
    /// As [`Packet::tags_taken_off`].
    tags: u32,
    /// As [`Packet::is_merged`].
    merged: bool,
    missed: Cell<bool>,
}

/// The address of `N` bytes in the first buffer. They have been compared with the end of the
/// buffer.
struct InPacket<const N: usize>(usize);

impl<const N: usize> InPacket<N> {
    /// Returns a field in the byte order of the packet. One load where the target permits
    /// misaligned loads (`xtask/src/build.rs` sets this), otherwise byte by byte.
    #[inline(always)]
    fn field<const AT: usize, T: Copy>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= N, "a field beyond the bytes that were read") };
        // SAFETY: the field is within the bytes that were compared with the end of the buffer, and
        // the verifier checks that, too. Every bit pattern of an integer is valid, and the read
        // requires no alignment.
        unsafe { ((self.0 + AT) as *const T).read_unaligned() }
    }
}

impl<const N: usize> Fields for InPacket<N> {
    #[inline(always)]
    fn u8<const AT: usize>(&self) -> u8 {
        self.field::<AT, u8>()
    }

    #[inline(always)]
    fn be16<const AT: usize>(&self) -> u16 {
        u16::from_be(self.field::<AT, u16>())
    }

    #[inline(always)]
    fn be32<const AT: usize>(&self) -> u32 {
        u32::from_be(self.field::<AT, u32>())
    }

    #[inline(always)]
    fn be64<const AT: usize>(&self) -> u64 {
        u64::from_be(self.field::<AT, u64>())
    }
}

impl Packet for Linear {
    type Bytes<const N: usize> = InPacket<N>;
    const KNOWN_OFFSETS_ARE_CHEAP: bool = true;

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    /// The frame may continue after its first buffer, so a negative answer is recorded as missing
    /// data.
    #[inline(always)]
    fn reaches(&self, end: u32) -> bool {
        let reaches = end <= self.len;
        if !reaches {
            self.missed.set(true);
        }
        reaches
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<InPacket<N>> {
        let at = at as usize;
        if is_constant(at) && at + N <= FIXED_HEADERS_LEN {
            return Some(InPacket(self.start + at));
        }
        // Opaque, so that the pointer that is compared is the one that is used for reading: the
        // verifier does not apply the comparison to a sum that was computed separately.
        let start = opaque((self.start + at) as u64) as usize;
        if start + N > self.end {
            self.missed.set(true);
            return None;
        }
        Some(InPacket(start))
    }

    #[inline(always)]
    fn tags_taken_off(&self) -> u32 {
        self.tags
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        self.merged
    }

    /// Rare headers form chains, whose offsets are costly to verify. They are not read here.
    #[inline(always)]
    fn read_rare<const N: usize>(&self, _: u32) -> Option<InPacket<N>> {
        self.missed.set(true);
        None
    }
}

/// Returns whether the compiler knows a value. Only then may the check of its bounds be omitted,
/// because the verifier forgets the checked bounds of a pointer to which an unknown value was
/// added.
#[inline(always)]
fn is_constant(value: usize) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        core::intrinsics::is_val_statically_known(value)
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = value;
        false
    }
}

/// All buffers of a frame, read by copying.
struct AllBuffers<'a, C> {
    ctx: &'a C,
    len: u32,
}

impl<C: Context> Packet for AllBuffers<'_, C> {
    type Bytes<const N: usize> = [u8; N];
    const KNOWN_OFFSETS_ARE_CHEAP: bool = false;

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `bytes` has room for the `N` bytes that are requested. The helper checks the
        // offset against the frame and writes all of them, or fails.
        let copied = unsafe { self.ctx.copy(at, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper has written all bytes if it succeeds.
        if copied { Some(unsafe { bytes.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn tags_taken_off(&self) -> u32 {
        self.ctx.tag().count()
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        self.ctx.is_merged()
    }
}

/// Returns the time that a test run passes as metadata in front of the frame, in ticks; 0 without
/// metadata.
#[inline(always)]
pub(crate) fn metadata_clock(ctx: &XdpContext) -> u64 {
    let start = ctx.metadata();
    if start + size_of::<u64>() > ctx.metadata_end() {
        return 0;
    }
    // SAFETY: the 8 bytes were just compared with the end of the metadata, which is the start of
    // the packet. A byte array has no alignment to violate.
    u64::from_ne_bytes(unsafe { *(start as *const [u8; 8]) })
}
