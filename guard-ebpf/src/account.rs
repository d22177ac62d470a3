//! Exact counters: per CPU, by interface and verdict.

use aya_ebpf::programs::XdpContext;
use guard_common::layout::{self, MAX_INTERFACES};

use crate::maps::{TG_COUNTERS, TG_INTERFACES};

/// Counts a frame with this packed verdict.
#[inline(always)]
pub(crate) fn count(ctx: &XdpContext, len: u32, verdict: u32) {
    let ifindex = ctx.ingress_ifindex() as u32;
    // SAFETY: one aligned word is copied at once. User space may remove the row of a device that is
    // gone meanwhile; the entry is then another's at worst, and one frame is counted in its row.
    let row = unsafe { TG_INTERFACES.get(ifindex) }.copied().unwrap_or(MAX_INTERFACES - 1);
    let index = layout::counter_index(row, verdict);
    if let Some(counter) = TG_COUNTERS.get_ptr_mut(index) {
        // SAFETY: the value of this CPU; a program is not preempted by another on the same CPU,
        // so nobody else writes it, and the pointer lives until the program ends.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(len.into());
        }
    }
}
