//! Exact counters: per CPU, by interface and verdict.

use guard_common::layout::counters::InterfaceRow;

use crate::{
    context::Context,
    maps::{TG_COUNTERS, TG_INTERFACES},
};

/// The longest first buffer that is taken for a whole frame, in bytes: one that fills an MTU of
/// 1500, with room for tags.
const ONE_BUFFER: u64 = 1536;

/// Counts a frame, in this counter of the interface that it came from; its length in bytes, without
/// a tag that was taken off. `len` is what [`receive`](crate::frame::receive) said it is.
///
/// Merged packets count as many as they were; their bytes are those of the merged one, which has
/// its headers once.
#[inline(always)]
pub(crate) fn count<C: Context>(ctx: &C, len: u64, packets: u32, counter: u32) -> u64 {
    let row = row(ctx);
    let is_whole = C::LEN_IS_CHEAP || (row.has_one_buffer() && len <= ONE_BUFFER);
    let len = if is_whole { len } else { ctx.len() };
    let (packets, bytes) = (packets.into(), len.wrapping_add(ctx.tag().len().into()));
    if let Some(counter) = TG_COUNTERS.get_ptr_mut(row.first() + counter) {
        // SAFETY: the value of this CPU; a program is not preempted by another on the same CPU,
        // so nobody else writes it, and the pointer lives until the program ends.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(packets);
            (*counter).bytes = (*counter).bytes.wrapping_add(bytes);
        }
    }
    len
}

/// What is known of the interface that the frame came from.
#[inline(always)]
fn row(ctx: &impl Context) -> InterfaceRow {
    let ifindex = ctx.ifindex();
    for place in InterfaceRow::places(ifindex) {
        if let Some(entry) = TG_INTERFACES.get(place)
            && entry.ifindex() == ifindex
        {
            return *entry;
        }
    }
    InterfaceRow::OTHERS
}
