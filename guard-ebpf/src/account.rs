//! Exact counters: per CPU, by interface and verdict.

use guard_common::layout::counters::InterfaceRow;

use crate::{
    context::Context,
    maps::{TG_COUNTERS, TG_INTERFACES},
};

/// Maximum length, in bytes, of a first buffer that is treated as a whole frame: a frame at an MTU
/// of 1500, with room for tags.
const ONE_BUFFER: u64 = 1536;

/// Adds a frame to a counter of the interface that received it. `len` is the length that
/// [`receive`](crate::frame::receive) returned, `counter` the number within the row. Returns the
/// length of the frame in bytes, without a tag that was removed from it.
///
/// A merged packet counts as all the packets it consists of. Its bytes are those of the merged
/// packet, which has the headers only once.
#[inline(always)]
pub(crate) fn count<C: Context>(ctx: &C, len: u64, packets: u32, counter: u32) -> u64 {
    let row = row(ctx);
    let is_whole = C::LEN_IS_CHEAP || (row.has_one_buffer() && len <= ONE_BUFFER);
    let len = if is_whole { len } else { ctx.len() };
    let (packets, bytes) = (packets.into(), len.wrapping_add(ctx.tag().len().into()));
    if let Some(counter) = TG_COUNTERS.get_ptr_mut(row.first() + counter) {
        // SAFETY: the value belongs to this CPU, and another program does not preempt this one on
        // the same CPU, so there is no other writer. The pointer is valid until the program ends.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(packets);
            (*counter).bytes = (*counter).bytes.wrapping_add(bytes);
        }
    }
    len
}

/// Returns the counter row of the interface that received the frame.
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
