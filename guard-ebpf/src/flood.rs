//! A sender of floods for benchmarks on a wire, never part of the object that is released.
//!
//! `flood` is run by `BPF_PROG_TEST_RUN` on live frames: it gives each frame the next source
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

/// Sources of a flood. A power of two.
const SOURCES: usize = 1 << 16;
/// Which byte of an IPv4 source in the table says which bits of its second octet change, each time
/// that the table is through: so it holds more sources than it has entries.
const VARIED_BITS_AT: usize = 15;
/// Where an IPv4 source lies in a frame.
const SOURCE4: usize = 14 + 12;
/// Where an IPv6 source lies in a frame.
const SOURCE6: usize = 14 + 8;

/// Source addresses in network byte order; IPv4 in the first four bytes.
#[btf_map]
static FLOOD_SOURCES: Array<[u8; 16], SOURCES> = Array::new();
/// Where the flood stands: [`SENT`], [`PAUSE_NS`], [`NEXT_NS`].
#[btf_map]
static FLOOD_STATE: Array<u64, 3> = Array::new();
/// How many frames were sent: the next one's source.
const SENT: u32 = 0;
/// Nanoseconds from the start of a burst to the next.
const PAUSE_NS: u32 = 1;
/// When the next burst may start.
const NEXT_NS: u32 = 2;
/// Frames of a burst. As many as the ring of a veth holds (`VETH_RING_SIZE`,
/// drivers/net/veth.c), and a power of two.
const BURST: u64 = 256;
/// Looks at the clock between two bursts, at most: the verifier follows 8,192 jumps,
/// these are some hundred microseconds.
const MAX_CLOCK_READS: u32 = 7 << 10;

/// Index of the interface that frames are sent out of.
#[unsafe(no_mangle)]
static FLOOD_TO: Global<u32> = Global::new(0);

/// Gives the frame the next source and sends it.
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
    // SAFETY: an element of the map, and one thread runs this program.
    let number = unsafe {
        *sent = (*sent).wrapping_add(1);
        *sent
    };
    // Twice, because the verifier bounds a wait.
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
    // SAFETY: the frame was just found to reach to the end of an IPv6 source, behind everything
    // that is read and written here. Byte arrays have no alignment to violate.
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

/// Waits for the time of the next burst, and puts off the one after it.
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
