//! A received frame: the only code that touches packet memory.
//!
//! There are two ways to read it. The fast way goes through packet pointers and sees the first
//! buffer only, which holds the headers of nearly every frame. The copying way goes through a
//! helper and sees the whole frame. [`parse`] takes the fast way and, when that missed something,
//! starts again the other way: both run the same parser.

use core::{cell::Cell, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use guard_common::{Packet, Silent, flow::Headers};

/// Length of the frame over all buffers, in bytes, and a zero that the verifier does not know to
/// be one. `data_end - data` is only the length of the first buffer, and the verifier refuses the
/// subtraction without `CAP_PERFMON`.
#[inline(always)]
pub(crate) fn len(ctx: &XdpContext) -> (u32, u64) {
    // SAFETY: the context is the one that the kernel passed to this program.
    let len = unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) };
    (len as u32, opaque(len) >> 32)
}

/// Reads the headers of the frame.
#[inline(always)]
pub(crate) fn parse(ctx: &XdpContext, len: u32, zero: u64) -> Headers {
    let linear = Linear { ctx, len, missed: Cell::new(false) };
    let headers = written(guard_common::parse(&linear, &mut Silent));
    let headers = if linear.missed.get() { parse_whole(ctx, len) } else { headers };
    headers.masked(zero)
}

/// Reads the headers of the frame wherever they lie. A function of its own: it is rarely called,
/// and from two places.
#[inline(never)]
pub(crate) fn parse_whole(ctx: &XdpContext, len: u32) -> Headers {
    written(guard_common::parse(&Whole { ctx, len }, &mut Silent))
}

/// Keeps the compiler from leaving out words that it sees nobody read on some path: it would still
/// copy the registers that they live in, and the verifier refuses to copy what was never written.
#[inline(always)]
fn written(headers: Headers) -> Headers {
    let Headers { facts, source: [high, low] } = headers;
    Headers { facts: opaque(facts), source: [opaque(high), opaque(low)] }
}

/// The same value, of which the compiler knows nothing.
#[inline(always)]
fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // A real instruction: an empty one would leave two line records for the next, which the
        // kernel refuses (`check_btf_line`, kernel/bpf/verifier.c).
        // SAFETY: moves a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    core::hint::black_box(value)
}

/// The first buffer of a frame. Remembers when something was asked for that is not in it.
struct Linear<'a> {
    ctx: &'a XdpContext,
    len: u32,
    missed: Cell<bool>,
}

impl Packet for Linear<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        // Opaque, so that the pointer that is compared is the one that is read through: the
        // verifier learns nothing about a sum that was computed another way.
        let start = opaque((self.ctx.data() + at as usize) as u64) as usize;
        if start + N > self.ctx.data_end() {
            self.missed.set(true);
            return None;
        }
        // SAFETY: `start..start + N` was just compared with the end of the first buffer; that is
        // what the verifier checks, too. A byte array has no alignment to violate.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    /// Rare headers come in chains, whose offsets cost the verifier dearly: not here.
    #[inline(always)]
    fn read_rare<const N: usize>(&self, _: u32) -> Option<[u8; N]> {
        self.missed.set(true);
        None
    }
}

/// All buffers of a frame, read by copying.
struct Whole<'a> {
    ctx: &'a XdpContext,
    len: u32,
}

impl Packet for Whole<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `bytes` has room for the `N` bytes that are asked for; the helper checks the
        // offset against the frame and writes all of them, or fails.
        let result = unsafe {
            bpf_xdp_load_bytes(self.ctx.as_ptr().cast(), at, bytes.as_mut_ptr().cast(), N as u32)
        };
        // SAFETY: the helper has written all bytes when it returns 0.
        if result == 0 { Some(unsafe { bytes.assume_init() }) } else { None }
    }
}

/// The clock that a test run passes as metadata in front of the frame, in ticks; 0 without it.
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
