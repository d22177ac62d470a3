//! What the kernel hands to a program: a buffer of a driver, or a packet of the network stack. All
//! other code is the same for both.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use guard_common::wire;

/// A frame, from the first byte of its Ethernet header.
pub(crate) trait Context: EbpfContext {
    /// Whether [`Context::len`] is one load and no call. Calls are what costs on a CPU whose
    /// returns are mitigated.
    const LEN_IS_CHEAP: bool;

    /// Where the first buffer begins.
    fn start(&self) -> usize;

    /// Where it ends. The frame may go on in other buffers.
    fn end(&self) -> usize;

    /// Length over all buffers, in bytes, without tags that were taken off.
    fn len(&self) -> u64;

    /// Copies `count` bytes at offset `at`; whether they are all there.
    ///
    /// # Safety
    /// `to` has room for `count` bytes.
    unsafe fn copy(&self, at: u32, to: *mut u8, count: u32) -> bool;

    /// Index of the interface that the frame came from.
    fn ifindex(&self) -> u32;

    /// The VLAN tag that was taken off in front of us, if there was one.
    #[inline(always)]
    fn tag(&self) -> Tag {
        Tag::NONE
    }

    /// Packets that came over the wire: more than one if they were merged. `zero` is one that the
    /// verifier does not know to be zero.
    #[inline(always)]
    fn packets(&self, _zero: u64) -> u32 {
        1
    }

    /// Whether it may be longer than its IP header can say.
    #[inline(always)]
    fn is_merged(&self) -> bool {
        false
    }
}

/// A VLAN tag as it lies in a frame: EtherType, then priority and VLAN. 0 is none.
///
/// No question about it is a branch: the verifier would walk all that follows once for each answer.
#[derive(Clone, Copy)]
pub(crate) struct Tag(pub(crate) u32);

impl Tag {
    const NONE: Self = Self(0);

    /// How many tags this is. Each `EtherType` of a tag has its first bit set.
    #[inline(always)]
    pub(crate) fn count(self) -> u32 {
        self.0 >> 31
    }

    /// Its length in bytes.
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
        // SAFETY: the context is the one that the kernel passed to this program.
        unsafe { bpf_xdp_get_buff_len(self.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn copy(&self, at: u32, to: *mut u8, count: u32) -> bool {
        // SAFETY: as above; the caller vouches for the room.
        unsafe { bpf_xdp_load_bytes(self.as_ptr().cast(), at, to.cast(), count) == 0 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex() as u32
    }
}

/// A packet of the network stack, before anybody there has looked at it but packet sockets.
///
/// Two things are no longer as they were on the wire. The first VLAN tag is never in the data: the
/// driver or `skb_vlan_untag` (net/core/skbuff.c) has taken it off. And packets of a stream may have
/// been merged into one (GRO).
pub(crate) struct Skb {
    ctx: TcContext,
    tag: Tag,
}

impl Skb {
    /// What the kernel passed.
    #[inline(always)]
    pub(crate) fn received(ctx: TcContext) -> Self {
        // SAFETY: the context is the one that the kernel passed to this program, and these fields
        // may be read.
        let (present, tci, kind) = unsafe {
            let skb = ctx.skb.skb;
            ((*skb).vlan_present, (*skb).vlan_tci, (*skb).vlan_proto)
        };
        let kind: u32 = u16::from_be(kind as u16).into();
        let all_or_nothing = (present & 1).wrapping_neg();
        Self { ctx, tag: Tag((kind << 16 | tci & 0xffff) & all_or_nothing) }
    }

    /// What a test run passes: its control buffer holds a clock and the tag that was taken off,
    /// which nobody can pass otherwise (`convert___skb_to_skb`, `net/bpf/test_run.c`). The clock is
    /// the second result.
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
        // SAFETY: the context is the one that the kernel passed to this program; the caller vouches
        // for the room.
        unsafe { bpf_skb_load_bytes(self.ctx.as_ptr().cast(), at, to.cast(), count) == 0 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above; the field may be read.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    #[inline(always)]
    fn tag(&self) -> Tag {
        self.tag
    }

    /// 0 where a driver has merged and does not tell how many: then it counts as one.
    #[inline(always)]
    fn packets(&self, zero: u64) -> u32 {
        // SAFETY: as above.
        let segments = unsafe { (*self.ctx.skb.skb).gso_segs };
        // Mixed, so that the verifier forgets which of the two it was.
        (if segments == 0 { 1 } else { segments }) ^ zero as u32
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).gso_size != 0 }
    }
}
