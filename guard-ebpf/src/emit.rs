//! Sampled events of refused frames.
//!
//! Counters are exact; events are a sample whose size is limited per CPU and reason, so a flood
//! costs no more than a trickle. Refused frames without an event are counted.
//!
//! In a flood, frames are skipped at random, as many as the frames of the previous window require.
//! A source behind 1 % of the refusals gets about 1 % of the events, however it times its packets.
//! A skipped frame costs one decrement, and only a frame with an event costs a random number.
//!
//! Decision: `docs/decisions/0038-samples-are-random.md`.

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

/// Emits an event for a refused frame with this packed verdict, if the frame is sampled.
#[inline(always)]
pub(crate) fn sample(ctx: &impl Context, len: u32, zero: u64, verdict: u32) {
    if !sampling() {
        return;
    }
    let Some(state) = TG_SAMPLING.get_ptr_mut(verdict >> 8 & 0xff) else {
        return;
    };
    // SAFETY: the value belongs to this CPU, and no other program writes it while this one runs.
    // The pointer is valid until the program ends.
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
    // SAFETY: within the reserved record, to which no other program has access until it is
    // submitted.
    unsafe { (&raw mut (*entry.as_mut_ptr()).weight).write(weight) };
    if state.gap > 0 {
        // The number is random so that a source cannot learn the period and send between the
        // samples.
        // SAFETY: the helper takes no arguments.
        let random = u64::from(unsafe { bpf_get_prandom_u32() });
        // All numbers from 0 to twice the gap are equally likely.
        state.skip = random.wrapping_mul(state.gap.wrapping_mul(2).wrapping_add(1)) >> 32;
    }
    // No wake-up, because the reader polls on a timer and a wake-up costs more than all the rest.
    // The reader is woken only if the ring is so full that the timer may come too late.
    let flags = if waiting() > u64::from(EVENT_RING_BYTES / 2) {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(flags.into());
}

/// Begins a window. The number of frames refused in the previous window determines how many are
/// skipped in this one.
#[inline(always)]
fn begin(state: &mut Sampling, window: u64) {
    let is_next = window == state.window.wrapping_add(1);
    // A gap of more than 32 bits would be longer than any window.
    let gap = (state.seen >> SAMPLING_AIM_SHIFT).min(u64::from(u32::MAX) >> 1);
    state.gap = if is_next { gap } else { 0 };
    // After a flood, the next event must not wait as long as during the flood.
    state.skip = state.skip.min(state.gap.wrapping_mul(2));
    state.window = window;
    state.seen = 0;
    state.used = if has_listener() { 0 } else { SAMPLING_BUDGET.into() };
}

/// Returns whether the daemon has announced recently that it reads events.
#[inline(always)]
fn has_listener() -> bool {
    // SAFETY: the helper takes no arguments and only reads the clock.
    TG_LISTENER.get(0).is_some_and(|until| unsafe { bpf_ktime_get_coarse_ns() } < *until)
}

/// Returns the number of unread bytes in the ring.
#[inline(always)]
fn waiting() -> u64 {
    // SAFETY: the address is that of the map, and the query only reads.
    unsafe { bpf_ringbuf_query((&raw const TG_EVENTS).cast_mut().cast(), BPF_RB_AVAIL_DATA.into()) }
}

/// Fills in all fields of a record except the weight. The headers are parsed again here, so that
/// only sampled frames have this cost.
#[inline(always)]
fn write(ctx: &impl Context, len: u32, zero: u64, verdict: u32, event: *mut Event) {
    let (source, port, protocol) = match frame::parse_whole(ctx, len).masked(zero).parsed() {
        Ok(Parsed::Flow(flow)) => (Some(flow.source), flow.port, protocol(flow.transport)),
        Ok(Parsed::Portless { source, protocol } | Parsed::LaterFragment { source, protocol }) => {
            (Some(source), 0, protocol)
        }
        Ok(Parsed::NotIp) | Err(_) => (None, 0, 0),
    };
    let family = match source {
        Some(Addr::V4(_)) => Event::IPV4,
        Some(Addr::V6(_)) => Event::IPV6,
        None => 0,
    };
    // SAFETY: no other program has access to a reserved record until it is submitted. Each field is
    // written separately, because a whole record would first be built on the stack, which is too
    // small. The rest of `head` keeps its previous content, which has no meaning.
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
