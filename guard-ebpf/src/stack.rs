//! The network stack of the node, as the kernel answers.
//!
//! All lookups are in functions that are not inlined: they are made for few packets, and from
//! several places.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::bpf_sock_tuple,
    helpers::generated::{bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use guard_common::{
    Addr, Stack,
    flow::Headers,
    layout::node::{DeviceKey, NodeState},
    parse,
    stack::{LOOKUP_ROUTES, LOOKUP_SOCKETS, Socket},
    tables::Source,
    wire,
};

use crate::{
    context::Context,
    maps::{TG_BOUND, TG_DEVICES, TG_NODE, TG_OWN, lookups},
};

/// `AF_INET` and `AF_INET6` (include/linux/socket.h).
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// The network namespace of the device (`BPF_F_CURRENT_NETNS`, include/uapi/linux/bpf.h).
const CURRENT_NETNS: u64 = u64::MAX;
/// States of a socket (`include/net/tcp_states.h`).
const TCP_ESTABLISHED: u32 = 1;
const TCP_LISTEN: u32 = 10;
/// Results of a route lookup for packets that are sent on (`BPF_FIB_LKUP_RET_*`,
/// include/uapi/linux/bpf.h): with a known neighbour, without one, and too long for the way out.
const SUCCESS: i64 = 0;
const NO_NEIGH: i64 = 7;
const FRAG_NEEDED: i64 = 8;

/// Number of words in which a lookup is prepared.
const LOOKUP_WORDS: usize = 16;
/// Number of the word at which the IP header is read. Its addresses then lie where the lookup of a route
/// has those of IPv6, and where a socket tuple can begin. The stack has no room for a copy.
const IP_WORD: usize = 2;

/// The network stack of the node, for the packet in this context.
pub(crate) struct Kernel<'a, C> {
    pub(crate) ctx: &'a C,
    /// A zero of 32 bits whose value the verifier does not know.
    pub(crate) zero: u64,
}

impl<C: Context> Stack for Kernel<'_, C> {
    #[inline(always)]
    fn forwards(&self, _: &Headers) -> bool {
        lookups() & LOOKUP_ROUTES != 0
            && node_flags() & (NodeState::FORWARDS_IPV4 | NodeState::FORWARDS_IPV6) != 0
            && is_sent_on(self.ctx) != 0
    }

    #[inline(always)]
    fn socket(&self, _: &Headers, is_opener_asked: bool) -> Socket {
        if lookups() & LOOKUP_SOCKETS == 0 {
            return Socket::Listening;
        }
        match socket_of(self.ctx, is_opener_asked.into()) {
            1 => Socket::Listening,
            2 => Socket::Connected,
            3 => Socket::Opened,
            _ => Socket::None,
        }
    }

    #[inline(always)]
    fn holds(&self, addr: &Addr, _: &Source) -> bool {
        TG_NODE.get(0).is_some_and(|state| state.may_own(addr)) && is_own(&addr.mapped()) != 0
    }

    #[inline(always)]
    fn hidden(&self, value: u32) -> u32 {
        value ^ self.zero as u32
    }
}

/// Returns the flags of the node's state.
#[inline(always)]
fn node_flags() -> u64 {
    let Some(state) = TG_NODE.get_ptr(0) else {
        return 0;
    };
    // SAFETY: the value is valid until the program ends. User space may write it at the same time; an
    // aligned word is not torn.
    unsafe { (&raw const (*state).flags).read_volatile() }
}

/// Returns 1 if the node holds the address, otherwise 0.
#[inline(never)]
fn is_own(mapped: &[u64; 2]) -> u64 {
    // SAFETY: the value is not read, only whether there is one.
    u64::from(unsafe { TG_OWN.get(mapped) }.is_some())
}

/// Words on the stack that helpers read and write.
///
/// They are aligned and accessed one by one. The compiler may otherwise access two words at once at an
/// address that is not aligned, which the verifier refuses on the stack.
#[repr(C, align(8))]
struct Words<const N: usize>([u32; N]);

impl<const N: usize> Words<N> {
    /// Sets all words to 0. Not by a value, for which the compiler would call a function: the stacks of
    /// nested calls together have at most 512 bytes.
    #[inline(always)]
    fn zero(room: &mut MaybeUninit<Self>) -> &mut Self {
        let first: *mut u64 = room.as_mut_ptr().cast();
        for pair in 0..N / 2 {
            // SAFETY: the pair is within the array, which is aligned to 8 bytes.
            unsafe { first.add(pair).write_volatile(0) };
        }
        // SAFETY: `N` is even, so all words were written.
        unsafe { room.assume_init_mut() }
    }

    #[inline(always)]
    fn get<const AT: usize>(&self) -> u32 {
        const { assert!(AT < N, "a word beyond the end") };
        // SAFETY: the word is within the array, and a reference is valid and aligned.
        unsafe { (&raw const self.0).cast::<u32>().add(AT).read_volatile() }
    }

    #[inline(always)]
    fn set<const AT: usize>(&mut self, word: u32) {
        const { assert!(AT < N, "a word beyond the end") };
        // SAFETY: as above.
        unsafe { (&raw mut self.0).cast::<u32>().add(AT).write_volatile(word) }
    }
}

/// The headers of a packet, as far as lookups need them. The frame is read again, so that only packets
/// that need a lookup have this cost.
struct Head<'a> {
    /// From [`IP_WORD`] on, the words of the IP header, in network byte order. Over IPv4, the words after
    /// the fifth have no meaning.
    words: &'a mut Words<LOOKUP_WORDS>,
    /// Offset of the IP header in bytes.
    ip_at: u32,
    /// Whether the IP header is one of IPv6.
    is_ipv6: bool,
    /// Protocol in the IP header.
    protocol: u32,
    /// Source port in the lower half, destination port in the upper half, each in network byte order;
    /// 0 if no transport header follows the IP header.
    ports: u32,
}

/// Number of bytes that are compared with the end of the first buffer once: headers without tags and
/// options, up to the ports of an IPv6 packet.
const UNTAGGED_LEN: usize = 14 + 44;

impl<'a> Head<'a> {
    #[inline(always)]
    fn new(room: &'a mut MaybeUninit<Words<LOOKUP_WORDS>>) -> Self {
        Self { words: Words::zero(room), ip_at: 0, is_ipv6: false, protocol: 0, ports: 0 }
    }

    /// Reads the headers. Returns `None` if the frame is not an IP packet behind at most two tags, or
    /// too short.
    #[inline(always)]
    fn read(&mut self, ctx: &impl Context) -> Option<()> {
        let (start, end) = (ctx.start(), ctx.end());
        let is_untagged = start + UNTAGGED_LEN <= end && {
            // SAFETY: the bytes were just compared with the end of the first buffer.
            let ethertype = u16::from_be(unsafe { ((start + 12) as *const u16).read_unaligned() });
            self.is_ipv6 = ethertype == wire::ETHERTYPE_IPV6;
            self.is_ipv6 || ethertype == wire::ETHERTYPE_IPV4
        };
        let mut next = 0;
        if is_untagged {
            self.ip_at = wire::ETHERNET_LEN;
            let words = self.words.0.iter_mut().skip(IP_WORD).take(wire::IPV6_LEN as usize / 4);
            for (nth, word) in words.enumerate() {
                // SAFETY: as above; `word` is a valid reference.
                unsafe {
                    let read = ((start + 14 + 4 * nth) as *const u32).read_unaligned();
                    (&raw mut *word).write_volatile(read);
                }
            }
            // SAFETY: as above.
            next = unsafe { ((start + 14 + 40) as *const u32).read_unaligned() };
        } else {
            self.find_ip(ctx)?;
            // SAFETY: there is room for the longer header from this word on.
            let is_read = unsafe {
                let to: *mut u8 = self.words.0.as_mut_ptr().add(IP_WORD).cast();
                if self.is_ipv6 {
                    ctx.copy(self.ip_at, to, wire::IPV6_LEN)
                } else {
                    ctx.copy(self.ip_at, to, wire::IPV4_MIN_LEN)
                }
            };
            if !is_read {
                return None;
            }
        }
        let first = self.words.get::<2>();
        // Byte 6 of IPv6, byte 9 of IPv4; the length of an IPv4 header is in units of 4 bytes; the
        // offset of a fragment is in the lower 13 bits of bytes 6 and 7.
        let (protocol, len, is_later_fragment) = if self.is_ipv6 {
            (self.words.get::<3>() >> 16 & 0xff, wire::IPV6_LEN, false)
        } else {
            let fragment = (self.words.get::<3>() >> 16) as u16;
            let is_later = fragment.swap_bytes() & 0x1fff != 0;
            (self.words.get::<4>() >> 8 & 0xff, (first & 0x0f) * 4, is_later)
        };
        self.protocol = protocol;
        if is_later_fragment || parse::transport(protocol as u8).is_none() {
            return Some(());
        }
        self.ports = if is_untagged && self.is_ipv6 {
            next
        } else if is_untagged && len == wire::IPV4_MIN_LEN {
            self.words.get::<7>()
        } else {
            let mut room = MaybeUninit::<Words<2>>::uninit();
            let ports = Words::zero(&mut room);
            // SAFETY: `ports` has room for the bytes.
            if !unsafe { ctx.copy(self.ip_at + len, ports.0.as_mut_ptr().cast(), 4) } {
                return None;
            }
            ports.get::<0>()
        };
        Some(())
    }

    /// Finds the IP header behind tags.
    #[inline(always)]
    fn find_ip(&mut self, ctx: &impl Context) -> Option<()> {
        let [_, second, third] = front(ctx)?;
        let mut kind = ((second >> 32) as u32).swap_bytes() >> 16;
        self.ip_at = wire::ETHERNET_LEN;
        if is_vlan(kind) {
            self.ip_at += wire::VLAN_TAG_LEN;
            kind = (third as u32).swap_bytes() >> 16;
            if is_vlan(kind) {
                self.ip_at += wire::VLAN_TAG_LEN;
                kind = ((third >> 32) as u32).swap_bytes() >> 16;
            }
        }
        self.is_ipv6 = kind == u32::from(wire::ETHERTYPE_IPV6);
        (self.is_ipv6 || kind == u32::from(wire::ETHERTYPE_IPV4)).then_some(())
    }

    /// Returns the index of the device at which the IP stack receives the frame, or `None` if that is
    /// not known.
    #[inline(always)]
    fn receiver(&self, ctx: &impl Context) -> Option<u32> {
        let [first, second, third] = front(ctx)?;
        let mac = u64::from_be(first) >> 16;
        let is_untagged = self.ip_at == wire::ETHERNET_LEN && ctx.tag().0 == 0;
        if is_untagged && TG_NODE.get(0).is_some_and(|state| state.is_plain(mac, ctx.ifindex())) {
            return Some(ctx.ifindex());
        }
        let mut key = DeviceKey { mac, outer: 0, inner: 0, ifindex: ctx.ifindex(), zero: 0 };
        add_tag(&mut key, ctx.tag().0);
        if self.ip_at > wire::ETHERNET_LEN {
            add_tag(&mut key, ((second >> 32) as u32).swap_bytes());
        }
        if self.ip_at > wire::ETHERNET_LEN + wire::VLAN_TAG_LEN {
            add_tag(&mut key, (third as u32).swap_bytes());
        }
        // SAFETY: the value is a word that is copied at once. User space may replace it at the same
        // time; the result is then that of either value.
        unsafe { TG_DEVICES.get(key) }.copied()
    }
}

/// Returns the first 24 bytes of a frame: the addresses, up to two tags and the type. Every IP packet
/// is at least that long.
#[inline(always)]
fn front(ctx: &impl Context) -> Option<[u64; 3]> {
    let start = ctx.start();
    if start + 24 <= ctx.end() {
        let word = |nth: usize| {
            // SAFETY: the bytes were just compared with the end of the first buffer.
            unsafe { ((start + 8 * nth) as *const u64).read_unaligned() }
        };
        return Some([word(0), word(1), word(2)]);
    }
    // Not set to 0 first: the compiler would call a function with a loop.
    let mut front = MaybeUninit::<[u64; 3]>::uninit();
    // SAFETY: `front` has room for the bytes. The helper writes all of them, or fails.
    let copied = unsafe { ctx.copy(0, front.as_mut_ptr().cast(), 24) };
    // SAFETY: the helper has written all bytes if it succeeds.
    copied.then(|| unsafe { front.assume_init() })
}

#[inline(always)]
fn is_vlan(ethertype: u32) -> bool {
    ethertype == u32::from(wire::ETHERTYPE_VLAN)
        || ethertype == u32::from(wire::ETHERTYPE_SERVICE_VLAN)
}

/// Adds a tag to a key, unless it is the tag of VLAN 0, which the kernel removes, or 0 for no tag.
#[inline(always)]
fn add_tag(key: &mut DeviceKey, tag: u32) {
    if tag & DeviceKey::VLAN_MASK == 0 {
        return;
    }
    let tag = tag & DeviceKey::TAG_MASK;
    if key.outer == 0 {
        key.outer = tag;
    } else {
        key.inner = tag;
    }
}

/// Returns 1 if the node would send the packet on, otherwise 0.
#[inline(never)]
fn is_sent_on<C: Context>(ctx: &C) -> u64 {
    u64::from(route(ctx).is_some())
}

#[inline(always)]
fn route(ctx: &impl Context) -> Option<()> {
    let mut room = MaybeUninit::uninit();
    let mut head = Head::new(&mut room);
    head.read(ctx)?;
    let Head { is_ipv6, protocol, ports, .. } = head;
    let forwards = if is_ipv6 { NodeState::FORWARDS_IPV6 } else { NodeState::FORWARDS_IPV4 };
    if node_flags() & forwards == 0 {
        return None;
    }
    let ifindex = head.receiver(ctx)?;
    let words = head.words;
    // Addresses that routes do not decide about: the lookup reports a default route for them, and the
    // network stack delivers them to sockets of this node.
    let is_local = if is_ipv6 {
        let high = words.get::<8>();
        high & 0xff == 0xff || high | words.get::<9>() | words.get::<10>() | words.get::<11>() == 0
    } else {
        let destination = words.get::<6>();
        matches!(destination & 0xff, 0 | 0xe0..=0xef) || destination == u32::MAX
    };
    if is_local {
        return None;
    }
    // `struct bpf_fib_lookup` (include/uapi/linux/bpf.h) in words: family, protocol and source port;
    // destination port and length; device; type of service or flow; four words of the source; four of
    // the destination; results. IPv6 addresses are there already.
    let (first, second) = (words.get::<2>(), words.get::<3>());
    words.set::<2>(ifindex);
    if is_ipv6 {
        let len = u32::from((second as u16).swap_bytes()).wrapping_add(wire::IPV6_LEN);
        words.set::<0>(AF_INET6 | protocol << 8 | ports << 16);
        words.set::<1>(ports >> 16 | len << 16);
        // Traffic class and flow label, without the version.
        words.set::<3>(first & u32::from_be(0x0fff_ffff));
    } else {
        let len = u32::from(((first >> 16) as u16).swap_bytes());
        words.set::<0>(AF_INET | protocol << 8 | ports << 16);
        words.set::<1>(ports >> 16 | len << 16);
        words.set::<3>(first >> 8 & 0xff);
        let (source, destination) = (words.get::<5>(), words.get::<6>());
        words.set::<4>(source);
        words.set::<8>(destination);
    }
    // SAFETY: the context is that of this program, and the helper reads and writes the parameters,
    // which have the size of its struct.
    let result = unsafe {
        let size = (size_of_val(words) as u32).cast_signed();
        bpf_fib_lookup(ctx.as_ptr(), words.0.as_mut_ptr().cast(), size, 0)
    };
    matches!(result as i64, SUCCESS | NO_NEIGH | FRAG_NEEDED).then_some(())
}

/// Returns the socket that would receive a packet, as a number of [`Socket`]. Who opened a TCP
/// connection is looked up if `is_opener_asked` is not 0.
#[inline(never)]
fn socket_of<C: Context>(ctx: &C, is_opener_asked: u64) -> u64 {
    // The socket of a packet that cannot be read here is not known, so it may be a listening one.
    find_socket(ctx, is_opener_asked).unwrap_or(Socket::Listening) as u64
}

#[inline(always)]
fn find_socket(ctx: &impl Context, is_opener_asked: u64) -> Option<Socket> {
    let mut room = MaybeUninit::uninit();
    let mut head = Head::new(&mut room);
    head.read(ctx)?;
    let Head { is_ipv6, protocol, ports, words, .. } = head;
    // `struct bpf_sock_tuple` (include/uapi/linux/bpf.h) in words: addresses, which are there already,
    // then ports.
    if is_ipv6 {
        words.set::<12>(ports);
    } else {
        words.set::<7>(ports);
    }
    if protocol == u32::from(wire::PROTO_TCP) {
        let port = ((ports >> 16) as u16).swap_bytes();
        let state = tcp_state(ctx, words, is_ipv6);
        if state == TCP_LISTEN {
            return Some(Socket::Listening);
        }
        if state == 0 {
            let socket = if is_bound_port(port.into()) { Socket::Listening } else { Socket::None };
            return Some(socket);
        }
        if is_opener_asked == 0 {
            return Some(Socket::Connected);
        }
        // No connection has the source port 0, so this finds a listening socket or nothing.
        if is_ipv6 {
            words.set::<12>(ports & 0xffff_0000);
        } else {
            words.set::<7>(ports & 0xffff_0000);
        }
        let listens = tcp_state(ctx, words, is_ipv6) != 0 || is_bound_port(port.into());
        return Some(if listens { Socket::Connected } else { Socket::Opened });
    }
    // UDP-Lite has sockets of its own, which cannot be looked up.
    if protocol != u32::from(wire::PROTO_UDP) {
        return None;
    }
    let (tuple, size) = tuple(words, is_ipv6);
    // SAFETY: the context is that of this program, and the tuple has `size` bytes.
    let socket = unsafe { bpf_sk_lookup_udp(ctx.as_ptr(), tuple, size, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return Some(Socket::None);
    }
    // SAFETY: the helper returned a socket, which is valid until it is released, once.
    let state = unsafe {
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    };
    // A UDP socket with a peer has this state (`__ip4_datagram_connect`, net/ipv4/datagram.c), and
    // receives packets of its peer only.
    Some(if state == TCP_ESTABLISHED { Socket::Opened } else { Socket::Listening })
}

/// Returns the socket tuple in the words of a lookup, and its size in bytes.
#[inline(always)]
fn tuple(words: &mut Words<LOOKUP_WORDS>, is_ipv6: bool) -> (*mut bpf_sock_tuple, u32) {
    let first: *mut u32 = words.0.as_mut_ptr();
    // SAFETY: a tuple of IPv6 has nine words, one of IPv4 three; the array has 16.
    unsafe { if is_ipv6 { (first.add(4).cast(), 36) } else { (first.add(5).cast(), 12) } }
}

/// Returns the state of the TCP socket of a tuple; 0 if there is none.
#[inline(always)]
fn tcp_state(ctx: &impl Context, words: &mut Words<LOOKUP_WORDS>, is_ipv6: bool) -> u32 {
    let (tuple, size) = tuple(words, is_ipv6);
    // SAFETY: the context is that of this program, and the tuple has `size` bytes.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), tuple, size, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: the helper returned a socket, which is valid until it is released, once.
    unsafe {
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    }
}

/// Returns whether a socket that is bound to a device on top of a guarded interface listens on a TCP
/// port. Such a socket is not found from the guarded interface.
#[inline(always)]
fn is_bound_port(port: u32) -> bool {
    node_flags() & NodeState::BOUND_LISTENERS != 0
        && TG_BOUND.get(port >> 6).is_some_and(|word| word >> (port & 63) & 1 != 0)
}
