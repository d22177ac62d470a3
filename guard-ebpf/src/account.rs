//! Exact counters: per CPU, by interface and verdict.

use aya_ebpf::programs::XdpContext;
use guard_common::layout::InterfaceRow;

use crate::maps::{TG_COUNTERS, TG_INTERFACES};

/// Counts a frame of `len` bytes, in this counter of the interface that it came from.
#[inline(always)]
pub(crate) fn count(row: InterfaceRow, len: u64, counter: u32) {
    if let Some(counter) = TG_COUNTERS.get_ptr_mut(u32::from(row.first) + counter) {
        // SAFETY: the value of this CPU; a program is not preempted by another on the same CPU,
        // so nobody else writes it, and the pointer lives until the program ends.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(len);
        }
    }
}

/// What is known of the interface that the frame came from.
#[inline(always)]
pub(crate) fn row(ctx: &XdpContext) -> InterfaceRow {
    let ifindex = ctx.ingress_ifindex() as u32;
    for place in InterfaceRow::places(ifindex) {
        if let Some(entry) = TG_INTERFACES.get(place)
            && entry.ifindex == ifindex
        {
            return *entry;
        }
    }
    InterfaceRow::OTHERS
}
