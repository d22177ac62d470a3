//! A traffic generator for benchmarks over a wire. Never part of the released object.
//!
//! `BPF_PROG_TEST_RUN` runs `flood` on live frames. The program gives each frame the next source
//! address of a table and sends it out of an interface.
#![no_std]
#![no_main]
#![expect(clippy::inline_always, reason = "the verifier loses packet bounds across calls")]
#![expect(clippy::cast_possible_truncation, reason = "lengths and indices of the kernel are u32")]
#![expect(clippy::needless_pass_by_value, reason = "the signature of an XDP program")]

mod runtime;

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    btf_maps::Array,
    helpers::generated::{bpf_ktime_get_ns, bpf_redirect},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// Number of sources in the table. A power of two.
const SOURCES: usize = 1 << 16;
/// Index of the byte of an IPv4 entry in the table that is a mask of bits of the second octet.
/// These bits change with each pass through the table, so that there are more sources than entries.
const VARIED_BITS_AT: usize = 15;
/// Offset of the IPv4 source address in a frame.
const SOURCE4: usize = 14 + 12;
/// Offset of the IPv6 source address in a frame.
const SOURCE6: usize = 14 + 8;

/// Source addresses in network byte order. IPv4 is in the first four bytes.
#[btf_map]
static FLOOD_SOURCES: Array<[u8; 16], SOURCES> = Array::new();
/// State of the flood, by index: [`SENT`], [`PAUSE_NS`], [`NEXT_NS`].
#[btf_map]
static FLOOD_STATE: Array<u64, 3> = Array::new();
/// Number of frames sent, which selects the source of the next frame.
const SENT: u32 = 0;
/// Nanoseconds from the start of a burst to the start of the next.
const PAUSE_NS: u32 = 1;
/// Time at which the next burst may start, in nanoseconds of the monotonic clock.
const NEXT_NS: u32 = 2;
/// Number of frames in a burst: as many as the ring of a veth holds (`VETH_RING_SIZE`,
/// drivers/net/veth.c). A power of two.
const BURST: u64 = 256;
/// Maximum number of clock reads in one wait. The verifier follows at most 8,192 jumps; these reads
/// take some hundred microseconds.
const MAX_CLOCK_READS: u32 = 7 << 10;

/// Index of the interface through which frames are sent.
#[unsafe(no_mangle)]
static FLOOD_TO: Global<u32> = Global::new(0);

/// Writes the next source into the frame and sends the frame.
#[xdp]
fn flood(ctx: XdpContext) -> u32 {
    if send(&ctx).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the helper takes no pointers.
    let action = unsafe { bpf_redirect(FLOOD_TO.load(), 0) };
    u32::try_from(action).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn send(ctx: &XdpContext) -> Option<()> {
    let sent = FLOOD_STATE.get_ptr_mut(SENT)?;
    // SAFETY: the pointer refers to an element of the map, and only one thread runs this program.
    let number = unsafe {
        *sent = (*sent).wrapping_add(1);
        *sent
    };
    // Two waits, because the verifier limits the length of one.
    match number & (BURST - 1) {
        0 => pause(0)?,
        1 => pause(*FLOOD_STATE.get(PAUSE_NS)?)?,
        _ => {}
    }
    let source = FLOOD_SOURCES.get(number as u32 & (SOURCES as u32 - 1))?;
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + SOURCE6 + 16 > end {
        return None;
    }
    // SAFETY: the frame reaches to the end of an IPv6 source, as was just checked, and everything
    // that is read and written here is in front of that. Byte arrays have no alignment to violate.
    unsafe {
        let version = *((start + 14) as *const u8) >> 4;
        if version == 4 {
            let mut octets = *source.first_chunk::<4>()?;
            octets[1] ^= (number >> 16) as u8 & source[VARIED_BITS_AT];
            *((start + SOURCE4) as *mut [u8; 4]) = octets;
        } else {
            *((start + SOURCE6) as *mut [u8; 16]) = *source;
        }
    }
    Some(())
}

/// Waits until the next burst may start. Then sets the start of the burst after it to `put_off`
/// nanoseconds later, unless `put_off` is 0.
#[inline(never)]
fn pause(put_off: u64) -> Option<()> {
    let next = FLOOD_STATE.get_ptr_mut(NEXT_NS)?;
    let mut now = 0;
    for _ in 0..MAX_CLOCK_READS {
        // SAFETY: the helper takes no arguments; the element is as in `send`.
        unsafe {
            now = bpf_ktime_get_ns();
            if now >= *next {
                break;
            }
        }
    }
    // SAFETY: as above.
    unsafe { *next = if put_off == 0 { *next } else { now.wrapping_add(put_off) } };
    Some(())
}
