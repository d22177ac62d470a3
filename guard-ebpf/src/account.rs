//! Exact counters: per CPU, by interface and verdict.

use aya_ebpf::programs::XdpContext;
use guard_common::layout::{COUNTERS_PER_INTERFACE, InterfaceRow, MAX_INTERFACES};

use crate::maps::{TG_COUNTERS, TG_INTERFACES};

/// Counts a frame of `len` bytes, in this counter of the interface that it came from.
#[inline(always)]
pub(crate) fn count(ctx: &XdpContext, len: u64, counter: u32) {
    let index = first(ctx.ingress_ifindex() as u32) + counter;
    if let Some(counter) = TG_COUNTERS.get_ptr_mut(index) {
        // SAFETY: the value of this CPU; a program is not preempted by another on the same CPU,
        // so nobody else writes it, and the pointer lives until the program ends.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(len);
        }
    }
}

/// The first counter of an interface; that of the last row, which many may share, for one that has
/// no row of its own.
#[inline(always)]
fn first(ifindex: u32) -> u32 {
    for place in InterfaceRow::places(ifindex) {
        if let Some(entry) = TG_INTERFACES.get(place)
            && entry.ifindex == ifindex
        {
            return entry.first;
        }
    }
    (MAX_INTERFACES - 1) * COUNTERS_PER_INTERFACE
}
