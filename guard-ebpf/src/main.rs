//! The XDP programs: a thin shell around `guard_common::parse` and `guard_common::decide`.
//!
//! `guard` is attached. `guard_verdict` does the same and returns the packed verdict; it is only
//! ever run by `BPF_PROG_TEST_RUN`, which hands it the clock as XDP metadata.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "core has no compare-and-swap for this target")
)]
#![expect(clippy::inline_always, reason = "the verifier loses packet bounds across calls")]

mod account;
mod atomic;
mod buckets;
mod emit;
mod frame;
mod maps;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use guard_common::{Action, Silent, Verdict, decide};

use crate::{buckets::Buckets, maps::Maps};

/// Judges a received frame.
#[xdp(frags)]
fn guard(ctx: XdpContext) -> u32 {
    if run(&ctx, &Buckets::live()).passes() { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

/// Judges a frame of a test run; the packed verdict.
#[xdp(frags)]
fn guard_verdict(ctx: XdpContext) -> u32 {
    run(&ctx, &Buckets::at(frame::metadata_clock(&ctx))).pack()
}

#[inline(always)]
fn run(ctx: &XdpContext, buckets: &Buckets) -> Verdict {
    let (len, zero) = frame::len(ctx);
    let headers = frame::parse(ctx, len, zero);
    let verdict = decide(&headers, len, &Maps, buckets, &mut Silent);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "verdict {:x}", verdict.pack());
    account::count(ctx, len, verdict);
    if verdict.action != Action::Pass {
        emit::sample(ctx, len, verdict);
    }
    verdict
}

/// Loops, so that the verifier refuses a program in which a panic can be reached.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence that the kernel asks programs for; these helpers need none in particular.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
