//! Reference programs for `cargo xtask bench`: an empty program, the parser alone, and variators,
//! which give every packet a new source. They are in a kernel object of their own that no released
//! binary contains.
//!
//! A benchmark that repeats one packet makes every lookup by source look too fast, because all the
//! memory that it reads stays in the first-level cache. A variator writes the next address of a
//! table into the packet and jumps to the program under test. The jump is one tail call with a
//! constant index, which the JIT turns into a plain jump. Programs with and without `xdp.frags`
//! cannot share a program array (`bpf_prog_map_compatible`, kernel/bpf/core.c), so there is a
//! variator of each kind.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "an intrinsic reports whether a value is a constant")
)]
#![expect(clippy::inline_always, reason = "the verifier loses packet bounds across calls")]
#![expect(clippy::cast_possible_truncation, reason = "lengths and indices of the kernel are u32")]
#![expect(clippy::needless_pass_by_value, reason = "the signature of an XDP program")]

#[expect(dead_code, reason = "the other shell is the guard's")]
mod context;
#[expect(dead_code, reason = "the clock of test runs is the guard's")]
mod frame;
mod runtime;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{tcx_action_base::TCX_NEXT, xdp_action},
    btf_maps::{Array, ProgramArray},
    helpers::generated::{bpf_fib_lookup, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use guard_common::flow::Headers;

use crate::frame::Received;

/// Number of addresses in a table. A power of two, and more than the number of hosts in any
/// benchmark.
const SOURCES: u32 = 1 << 18;
/// Offset of the source address in a packet without VLAN tags: RFC 791 section 3.1, RFC 8200
/// section 3.
const IPV4_SOURCE: usize = 14 + 12;
const IPV6_SOURCE: usize = 14 + 8;

/// Addresses as words in network byte order. An IPv4 address is in the lower half.
#[btf_map]
static SOURCES4: Array<[u64; 1], { SOURCES as usize }> = Array::new();
#[btf_map]
static SOURCES6: Array<[u64; 2], { SOURCES as usize }> = Array::new();
/// Number of packets that were given a source.
#[btf_map]
static POSITION: Array<u64, 1> = Array::new();
/// The program under test, with `xdp.frags` and without.
#[btf_map]
static JUMP: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static JUMP_LINEAR: ProgramArray<1> = ProgramArray::new();

/// The parameters of a lookup: `struct bpf_sock_tuple` of IPv4 or IPv6, or `struct bpf_fib_lookup`
/// (include/uapi/linux/bpf.h).
#[btf_map]
static REQUEST: Array<[u32; 16], 1> = Array::new();

/// Looks up a TCP socket of IPv4 for a fixed tuple, without reading the packet. Returns its state, 0
/// if there is none.
#[xdp(frags)]
fn socket4(ctx: XdpContext) -> u32 {
    socket_state(&ctx, 12)
}

/// [`socket4`] for IPv6.
#[xdp(frags)]
fn socket6(ctx: XdpContext) -> u32 {
    socket_state(&ctx, 36)
}

#[inline(always)]
fn socket_state(ctx: &XdpContext, size: u32) -> u32 {
    let Some(tuple) = REQUEST.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the context is that of this program, the value is longer than a tuple, and a socket is
    // valid until it is released, once.
    unsafe {
        let socket = bpf_skc_lookup_tcp(ctx.as_ptr(), tuple.cast(), size, u64::MAX, 0);
        if socket.is_null() {
            return 0;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    }
}

/// Looks up a route for fixed parameters, without reading the packet. Returns the result of the
/// helper.
#[xdp(frags)]
fn route(ctx: XdpContext) -> u32 {
    let Some(request) = REQUEST.get(0) else {
        return u32::MAX;
    };
    // The helper writes its results into the parameters.
    let mut request = *request;
    // SAFETY: the context is that of this program, and the parameters have the size of their struct.
    let result = unsafe { bpf_fib_lookup(ctx.as_ptr(), request.as_mut_ptr().cast(), 64, 0) };
    result.cast_unsigned() as u32
}

/// Drops every packet without reading it.
#[xdp(frags)]
fn drop_all(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Passes every packet without reading it.
#[xdp(frags)]
fn pass_all(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Passes every packet at the tc hook on to the next program, without reading it.
#[classifier]
fn tc_next(_ctx: TcContext) -> i32 {
    TCX_NEXT
}

/// Parses like the guard, then drops.
#[xdp(frags)]
fn parse_only(ctx: XdpContext) -> u32 {
    let Received { headers, .. } = frame::receive(&ctx, false);
    let [high, low] = headers.source;
    // The result depends on the parsed headers, so that the compiler cannot omit the parser. No
    // packet of a benchmark produces this value.
    if headers.facts ^ high ^ low == u64::MAX {
        return xdp_action::XDP_ABORTED;
    }
    xdp_action::XDP_DROP
}

/// Parses like the guard, then adds in registers for about as long as the guard's decision takes in
/// a test run. Accesses no other memory, and so shows the cost of computing where packets come from
/// another CPU.
#[xdp(frags)]
fn parse_busy(ctx: XdpContext) -> u32 {
    let Received { headers, .. } = frame::receive(&ctx, false);
    if add_up(headers) == u64::MAX {
        return xdp_action::XDP_ABORTED;
    }
    xdp_action::XDP_DROP
}

/// Adds 1 to each of two words, 45 times. Returns a value that depends on all words of the headers.
#[inline(always)]
fn add_up(headers: Headers) -> u64 {
    let [mut high, mut low] = headers.source;
    #[cfg(target_arch = "bpf")]
    // SAFETY: changes only the two registers that it names.
    unsafe {
        core::arch::asm!(
            ".rept 45",
            "{0} += 1",
            "{1} += 1",
            ".endr",
            inout(reg) high,
            inout(reg) low,
            options(nomem, nostack)
        );
    }
    // So that the crate can be checked and linted on the host.
    #[cfg(not(target_arch = "bpf"))]
    {
        (high, low) = (high.wrapping_add(45), low.wrapping_add(45));
    }
    headers.facts ^ high ^ low
}

/// Writes the next source into an IPv4 packet, then jumps.
#[xdp(frags)]
fn vary4(ctx: XdpContext) -> u32 {
    vary::<4, 1>(&ctx, &SOURCES4, IPV4_SOURCE, &JUMP)
}

/// Writes the next source into an IPv6 packet, then jumps.
#[xdp(frags)]
fn vary6(ctx: XdpContext) -> u32 {
    vary::<16, 2>(&ctx, &SOURCES6, IPV6_SOURCE, &JUMP)
}

/// [`vary4`] for programs without `xdp.frags`.
#[xdp]
fn vary4_linear(ctx: XdpContext) -> u32 {
    vary::<4, 1>(&ctx, &SOURCES4, IPV4_SOURCE, &JUMP_LINEAR)
}

/// [`vary6`] for programs without `xdp.frags`.
#[xdp]
fn vary6_linear(ctx: XdpContext) -> u32 {
    vary::<16, 2>(&ctx, &SOURCES6, IPV6_SOURCE, &JUMP_LINEAR)
}

/// Writes the next address of a table, `N` bytes in `WORDS` words, at an offset, then jumps.
/// Returns `XDP_ABORTED`, which no benchmark expects, if that is impossible.
#[inline(always)]
fn vary<const N: usize, const WORDS: usize>(
    ctx: &XdpContext,
    table: &Array<[u64; WORDS], { SOURCES as usize }>,
    offset: usize,
    jump: &ProgramArray<1>,
) -> u32 {
    let start = ctx.data() + offset;
    if start + N > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let Some(position) = POSITION.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the value is valid until the program ends. Only one thread at a time runs a variator,
    // so there is no other writer.
    let at = unsafe { *position };
    // SAFETY: as above.
    unsafe { *position = at.wrapping_add(1) };
    let Some(source) = table.get(at as u32 & (SOURCES - 1)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: `start..start + N` was just compared with the end of the first buffer, and no
    // reference to the packet exists.
    unsafe { store::<N, WORDS>(start, source) };
    // SAFETY: no value here has a destructor to run. A failed jump returns.
    unsafe { jump.tail_call(ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// Stores words into the packet, unaligned and as a whole. With the byte stores that Rust
/// generates, the program under test would have to wait until the CPU has combined them.
///
/// # Safety
/// `start` must point to `N` bytes that may be written.
#[inline(always)]
unsafe fn store<const N: usize, const WORDS: usize>(start: usize, words: &[u64; WORDS]) {
    #[cfg(target_arch = "bpf")]
    {
        use core::arch::asm;
        match words.as_slice() {
            // SAFETY: stores 4 bytes at `start`; the caller guarantees them.
            [word] if N == 4 => unsafe {
                asm!("*(u32 *)({0} + 0) = {1}", in(reg) start, in(reg) *word, options(nostack));
            },
            // SAFETY: stores 16 bytes at `start`; the caller guarantees them.
            [high, low] if N == 16 => unsafe {
                asm!("*(u64 *)({0} + 0) = {1}", in(reg) start, in(reg) *high, options(nostack));
                asm!("*(u64 *)({0} + 8) = {1}", in(reg) start, in(reg) *low, options(nostack));
            },
            _ => {}
        }
    }
    // So that the crate can be checked and linted on the host.
    #[cfg(not(target_arch = "bpf"))]
    for (at, byte) in words.iter().flat_map(|word| word.to_ne_bytes()).take(N).enumerate() {
        // SAFETY: the caller guarantees the bytes.
        unsafe { ((start + at) as *mut u8).write(byte) };
    }
}
