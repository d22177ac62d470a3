//! Sampled drop events. Counters are exact; events are examples, bounded per CPU and reason, so a
//! flood costs no more than a trickle. What is not told is counted.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ringbuf_query},
    programs::XdpContext,
};
use guard_common::{
    Addr,
    event::Event,
    flow::{Parsed, Transport},
    layout::{EVENT_RING_BYTES, SAMPLING_BUDGET, SAMPLING_WINDOW_SHIFT},
    wire,
};

use crate::{
    frame,
    maps::{TG_EVENTS, TG_LISTENER, TG_SAMPLING, sampling},
};

/// Tells user space of a refused frame with this packed verdict, if the budget allows.
#[inline(always)]
pub(crate) fn sample(ctx: &XdpContext, len: u32, zero: u64, verdict: u32) {
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
        state.window = window;
        state.used = if is_heard() { 0 } else { SAMPLING_BUDGET.into() };
    }
    if state.used >= SAMPLING_BUDGET.into() {
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
    entry.write(event(ctx, len, zero, verdict));
    // No wake-up: the reader looks on a timer, and a wake-up costs more than all the rest. Only
    // when so much waits that the timer may come too late is the reader told.
    let flags = if waiting() > u64::from(EVENT_RING_BYTES / 2) {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(flags.into());
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

/// Reads the headers again: only sampled frames pay for it.
#[inline(always)]
fn event(ctx: &XdpContext, len: u32, zero: u64, verdict: u32) -> Event {
    let (source, port, protocol) = match frame::parse_whole(ctx, len).masked(zero).parsed() {
        Ok(Parsed::Flow(flow)) => (Some(flow.source), flow.port, protocol(flow.transport)),
        Ok(Parsed::Portless { source, protocol }) => (Some(source), 0, protocol),
        Ok(Parsed::LaterFragment(source)) => (Some(source), 0, 0),
        Ok(Parsed::NotIp) | Err(_) => (None, 0, 0),
    };
    Event {
        source: source.map_or([0; 2], |addr| addr.mapped()),
        verdict,
        ifindex: ctx.ingress_ifindex() as u32,
        len,
        port,
        protocol,
        family: match source {
            Some(Addr::V4(_)) => Event::IPV4,
            Some(Addr::V6(_)) => Event::IPV6,
            None => 0,
        },
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
