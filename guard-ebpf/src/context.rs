//! The context that the kernel passes to a program: a buffer of a driver (XDP) or a packet of the
//! network stack (tc). All other code is the same for both.
//!
//! Decision: `docs/decisions/0011-tc-hook-runs-the-same-decision.md`.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use guard_common::wire;

/// A frame, from the first byte of its Ethernet header.
pub(crate) trait Context: EbpfContext {
    /// Whether [`Context::len`] is one load and no call. Calls are expensive on CPUs with
    /// mitigations for returns.
    const LEN_IS_CHEAP: bool;

    /// Returns the start of the first buffer.
    fn start(&self) -> usize;

    /// Returns the end of the first buffer. The frame may continue in other buffers.
    fn end(&self) -> usize;

    /// Returns the length over all buffers in bytes, without removed tags.
    fn len(&self) -> u64;

    /// Copies `count` bytes from offset `at`. Returns whether all of them exist.
    ///
    /// # Safety
    /// `to` must have room for `count` bytes.
    unsafe fn copy(&self, at: u32, to: *mut u8, count: u32) -> bool;

    /// Returns the index of the interface that received the frame.
    fn ifindex(&self) -> u32;

    /// Returns the VLAN tag that was removed before this program ran, if there was one.
    #[inline(always)]
    fn tag(&self) -> Tag {
        Tag::NONE
    }

    /// Returns how many packets arrived over the wire: more than one if they were merged. `zero` is
    /// a zero whose value the verifier does not know.
    #[inline(always)]
    fn packets(&self, _zero: u64) -> u32 {
        1
    }

    /// Returns whether the frame may be longer than its IP header can express.
    #[inline(always)]
    fn is_merged(&self) -> bool {
        false
    }
}

/// A VLAN tag as in a frame: EtherType, then priority and VLAN. 0 if there is none.
///
/// The methods have no branches, because the verifier would follow the rest of the program once for
/// each outcome.
#[derive(Clone, Copy)]
pub(crate) struct Tag(pub(crate) u32);

impl Tag {
    const NONE: Self = Self(0);

    /// Returns the number of tags, 0 or 1. The `EtherType` of every tag has its highest bit set.
    #[inline(always)]
    pub(crate) fn count(self) -> u32 {
        self.0 >> 31
    }

    /// Returns the length of the tag in bytes.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        self.count() * wire::VLAN_TAG_LEN
    }
}

impl Context for XdpContext {
    const LEN_IS_CHEAP: bool = false;

    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn len(&self) -> u64 {
        // SAFETY: the kernel passed this context to the program.
        unsafe { bpf_xdp_get_buff_len(self.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn copy(&self, at: u32, to: *mut u8, count: u32) -> bool {
        // SAFETY: as above; the caller guarantees the room.
        unsafe { bpf_xdp_load_bytes(self.as_ptr().cast(), at, to.cast(), count) == 0 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex() as u32
    }
}

/// A packet of the network stack, before any part of the stack except packet sockets has processed
/// it.
///
/// It differs from the packet on the wire in two ways. The first VLAN tag is never in the data,
/// because the driver or `skb_vlan_untag` (net/core/skbuff.c) has removed it. And packets of a
/// stream may have been merged into one (GRO).
pub(crate) struct Skb {
    ctx: TcContext,
    tag: Tag,
}

impl Skb {
    /// Wraps the packet that the kernel passed.
    #[inline(always)]
    pub(crate) fn received(ctx: TcContext) -> Self {
        // SAFETY: the kernel passed this context to the program, and programs may read these
        // fields.
        let (present, tci, kind) = unsafe {
            let skb = ctx.skb.skb;
            ((*skb).vlan_present, (*skb).vlan_tci, (*skb).vlan_proto)
        };
        let kind: u32 = u16::from_be(kind as u16).into();
        let all_or_nothing = (present & 1).wrapping_neg();
        Self { ctx, tag: Tag((kind << 16 | tci & 0xffff) & all_or_nothing) }
    }

    /// Wraps the packet of a test run, and returns the time. The control buffer contains both the
    /// clock and the tag that was removed, because a test run has no other way to pass a tag
    /// (`convert___skb_to_skb`, `net/bpf/test_run.c`).
    #[inline(always)]
    pub(crate) fn tested(ctx: TcContext) -> (Self, u64) {
        // SAFETY: as above.
        let [low, high, tag, ..] = unsafe { (*ctx.skb.skb).cb };
        (Self { ctx, tag: Tag(tag) }, u64::from(high) << 32 | u64::from(low))
    }
}

impl EbpfContext for Skb {
    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        self.ctx.as_ptr()
    }
}

impl Context for Skb {
    const LEN_IS_CHEAP: bool = true;

    #[inline(always)]
    fn start(&self) -> usize {
        self.ctx.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.ctx.data_end()
    }

    #[inline(always)]
    fn len(&self) -> u64 {
        self.ctx.len().into()
    }

    #[inline(always)]
    unsafe fn copy(&self, at: u32, to: *mut u8, count: u32) -> bool {
        // SAFETY: the kernel passed this context to the program; the caller guarantees the room.
        unsafe { bpf_skb_load_bytes(self.ctx.as_ptr().cast(), at, to.cast(), count) == 0 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above; programs may read this field.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    #[inline(always)]
    fn tag(&self) -> Tag {
        self.tag
    }

    /// The kernel reports 0 if a driver has merged packets without giving their number. Such a
    /// packet counts as one.
    #[inline(always)]
    fn packets(&self, zero: u64) -> u32 {
        // SAFETY: as above.
        let segments = unsafe { (*self.ctx.skb.skb).gso_segs };
        // Mixed with `zero`, so that the verifier does not follow both values separately.
        (if segments == 0 { 1 } else { segments }) ^ zero as u32
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).gso_size != 0 }
    }
}
