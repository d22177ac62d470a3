//! The kernel programs: thin wrappers around `guard_common::parse` and `guard_common::decide`.
//!
//! `guard` is attached to the XDP hook and `guard_tc` to the tc hook (TCX). The other programs are
//! only run by `BPF_PROG_TEST_RUN` and return the packed verdict. `guard_verdict` and `tc_verdict`
//! work like `guard` and `guard_tc`, but take the time from the XDP metadata or the control buffer.
//! `guard_self_test` decides by the same tables without any side effects.
//!
//! Decision: `docs/decisions/0055-code-that-linux-6-1-loads.md`.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "core has no compare-and-swap for this target")
)]
#![expect(clippy::inline_always, reason = "the verifier loses packet bounds across calls")]
#![expect(clippy::cast_possible_truncation, reason = "lengths and indices of the kernel are u32")]
#![expect(clippy::needless_pass_by_value, reason = "the signature of an XDP program")]

mod account;
mod atomic;
mod buckets;
mod context;
mod emit;
mod frame;
mod maps;
mod runtime;
mod stack;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, tcx_action_base::TCX_NEXT, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use guard_common::{
    Action, Limiter, NoTrace, decide, limit::Merged, stack::Offline, tables::Unlimited,
};

use crate::{
    buckets::{Buckets, Clock, FixedClock, Jiffies},
    context::{Context, Skb},
    frame::Received,
    maps::Maps,
    stack::Kernel,
};

/// Decides about a received frame.
#[xdp(frags)]
fn guard(ctx: XdpContext) -> u32 {
    if run(&ctx, Jiffies, |buckets, _| buckets) & 0xff == Action::Drop as u32 {
        xdp_action::XDP_DROP
    } else {
        xdp_action::XDP_PASS
    }
}

/// Decides about a frame of a test run. Returns the packed verdict.
#[xdp(frags)]
fn guard_verdict(ctx: XdpContext) -> u32 {
    run(&ctx, FixedClock(frame::metadata_clock(&ctx)), |buckets, _| buckets)
}

/// Decides about a packet of the network stack. A packet that passes continues to the other tc
/// programs of the interface; `TCX_PASS` would end their chain.
#[classifier]
fn guard_tc(ctx: TcContext) -> i32 {
    if run(&Skb::received(ctx), Jiffies, Merged::new) & 0xff == Action::Drop as u32 {
        TC_ACT_SHOT
    } else {
        TCX_NEXT
    }
}

/// Decides about a packet of a test run. Returns the packed verdict.
#[classifier]
fn tc_verdict(ctx: TcContext) -> i32 {
    let (skb, clock) = Skb::tested(ctx);
    run(&skb, FixedClock(clock), Merged::new).cast_signed()
}

/// Decides about a frame of the self-test, before the new program is attached. Returns the packed
/// verdict. Charges no limits, counts nothing and emits no events, because the maps are shared with
/// the program that is currently attached. Queries the policy alone and not the network stack.
#[xdp(frags)]
fn guard_self_test(ctx: XdpContext) -> u32 {
    let Received { headers, len, zero } = frame::receive(&ctx, false);
    let buckets = Buckets::new(FixedClock(0), zero);
    let stack = Offline::default();
    decide(&headers, len as u32, &Unlimited(Maps), &stack, &buckets, &mut NoTrace).packed
}

/// Decides about a frame, counts it, and reports it to user space if it is refused. Returns the
/// packed verdict. `clock` is the clock of the limits. `limiter` makes the limiter from the buckets
/// and the number of packets to charge.
#[inline(always)]
fn run<C: Clock, L: Limiter>(
    ctx: &impl Context,
    clock: C,
    limiter: impl FnOnce(Buckets<C>, u32) -> L,
) -> u32 {
    let Received { headers, len, zero } = frame::receive(ctx, maps::limits_bytes());
    let packets = ctx.packets(zero);
    let limiter = limiter(Buckets::new(clock, zero), packets);
    let bytes = (len as u32).wrapping_add(ctx.tag().len());
    let stack = Kernel { ctx, zero };
    let decision = decide(&headers, bytes, &Maps, &stack, &limiter, &mut NoTrace);
    let verdict = decision.packed;
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "verdict {:x}", verdict);
    let len = account::count(ctx, len, packets, decision.counter);
    if verdict & 0xff != Action::Pass as u32 {
        // The verdict is mixed with `zero` so that the verifier does not know it: it then verifies
        // this code once, and not once for every path to it.
        emit::sample(ctx, len as u32, zero, verdict ^ zero as u32);
    }
    verdict
}
