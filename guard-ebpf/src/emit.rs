//! Sampled drop events. Counters are exact; events are examples, bounded per CPU and reason, so a
//! flood costs no more than a trickle. What is not told is counted.
//!
//! Under a flood frames are skipped at random, as many as the window before suggests: who sends one
//! per cent of what is refused is one per cent of what is told, whenever he sends. The cost is a
//! decrement; only who is told of pays for a random number.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{
        bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ringbuf_query,
    },
};
use guard_common::{
    Addr,
    flow::Parsed,
    layout::{
        EVENT_RING_BYTES, SAMPLING_AIM_SHIFT, SAMPLING_BUDGET, SAMPLING_WINDOW_SHIFT, Sampling,
        event::Event,
    },
    port_table::Transport,
    wire,
};

use crate::{
    context::Context,
    frame,
    maps::{TG_EVENTS, TG_LISTENER, TG_SAMPLING, sampling},
};

/// Tells user space of a refused frame with this packed verdict, if its turn comes.
#[inline(always)]
pub(crate) fn sample(ctx: &impl Context, len: u32, zero: u64, verdict: u32) {
    if !sampling() {
        return;
    }
    let Some(state) = TG_SAMPLING.get_ptr_mut(verdict >> 8 & 0xff) else {
        return;
    };
    // SAFETY: the value of this CPU, which no other program writes while this one runs; the
    // pointer lives until the program ends.
    let state = unsafe { &mut *state };
    // SAFETY: the helper takes no arguments and only reads a counter.
    let window = unsafe { bpf_jiffies64() } >> SAMPLING_WINDOW_SHIFT;
    if window != state.window {
        begin(state, window);
    }
    state.seen = state.seen.wrapping_add(1);
    let skipped = state.skip > 0;
    state.skip = state.skip.saturating_sub(1);
    if skipped || state.used >= SAMPLING_BUDGET.into() {
        state.suppressed = state.suppressed.wrapping_add(1);
        return;
    }
    state.used = state.used.wrapping_add(1);
    // Reserving takes no flags (`bpf_ringbuf_reserve`, kernel/bpf/ringbuf.c).
    let Some(mut entry) = TG_EVENTS.reserve(0) else {
        state.lost = state.lost.wrapping_add(1);
        return;
    };
    state.emitted = state.emitted.wrapping_add(1);
    write(ctx, len, zero, verdict, entry.as_mut_ptr());
    let weight = state.gap.wrapping_add(1) as u32;
    // SAFETY: in the record that was reserved, which is ours until it is submitted.
    unsafe { (&raw mut (*entry.as_mut_ptr()).weight).write(weight) };
    if state.gap > 0 {
        // At random: a source that knows the rhythm could send between the beats.
        // SAFETY: the helper takes no arguments.
        let random = u64::from(unsafe { bpf_get_prandom_u32() });
        // Every number from 0 to twice the gap is as likely as any other.
        state.skip = random.wrapping_mul(state.gap.wrapping_mul(2).wrapping_add(1)) >> 32;
    }
    // No wake-up: the reader looks on a timer, and a wake-up costs more than all the rest. Only
    // when so much waits that the timer may come too late is the reader told.
    let flags = if waiting() > u64::from(EVENT_RING_BYTES / 2) {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(flags.into());
}

/// Begins a window: what was refused in the one before says how many frames to skip in this one.
#[inline(always)]
fn begin(state: &mut Sampling, window: u64) {
    let is_next = window == state.window.wrapping_add(1);
    // Beyond 32 bits a gap is longer than any window.
    let gap = (state.seen >> SAMPLING_AIM_SHIFT).min(u64::from(u32::MAX) >> 1);
    state.gap = if is_next { gap } else { 0 };
    // After a flood the next event is not to wait as long as during it.
    state.skip = state.skip.min(state.gap.wrapping_mul(2));
    state.window = window;
    state.seen = 0;
    state.used = if is_heard() { 0 } else { SAMPLING_BUDGET.into() };
}

/// Whether somebody has said lately that he listens.
#[inline(always)]
fn is_heard() -> bool {
    // SAFETY: the helper takes no arguments and only reads the clock.
    TG_LISTENER.get(0).is_some_and(|until| unsafe { bpf_ktime_get_coarse_ns() } < *until)
}

/// Bytes in the ring that nobody has read yet.
#[inline(always)]
fn waiting() -> u64 {
    // SAFETY: the address of the map, and a query that only reads.
    unsafe { bpf_ringbuf_query((&raw const TG_EVENTS).cast_mut().cast(), BPF_RB_AVAIL_DATA.into()) }
}

/// Fills in a record, but for its weight. Reads the headers again: only sampled frames pay for it.
#[inline(always)]
fn write(ctx: &impl Context, len: u32, zero: u64, verdict: u32, event: *mut Event) {
    let (source, port, protocol) = match frame::parse_whole(ctx, len).masked(zero).parsed() {
        Ok(Parsed::Flow(flow)) => (Some(flow.source), flow.port, protocol(flow.transport)),
        Ok(Parsed::Portless { source, protocol }) => (Some(source), 0, protocol),
        Ok(Parsed::LaterFragment(source)) => (Some(source), 0, 0),
        Ok(Parsed::NotIp) | Err(_) => (None, 0, 0),
    };
    let family = match source {
        Some(Addr::V4(_)) => Event::IPV4,
        Some(Addr::V6(_)) => Event::IPV6,
        None => 0,
    };
    // SAFETY: a record that was reserved and is not submitted yet is ours alone. Each field is
    // written by itself, because the whole would be put together on the stack first, which is too
    // small. Of `head` the rest stays what it was: it means nothing.
    unsafe {
        (&raw mut (*event).source).write(source.map_or([0; 2], |addr| addr.mapped()));
        (&raw mut (*event).verdict).write(verdict);
        (&raw mut (*event).ifindex).write(ctx.ifindex());
        (&raw mut (*event).len).write(len.wrapping_add(ctx.tag().len()));
        (&raw mut (*event).port).write(port);
        (&raw mut (*event).protocol).write(protocol);
        (&raw mut (*event).family).write(family);
        let head_len = frame::copy_front(ctx, len, &raw mut (*event).head);
        (&raw mut (*event).head_len).write(head_len);
    }
}

#[inline(always)]
fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => wire::PROTO_TCP,
        Transport::Udp => wire::PROTO_UDP,
        Transport::Sctp => wire::PROTO_SCTP,
    }
}
