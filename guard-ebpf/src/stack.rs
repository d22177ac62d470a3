//! The network stack of the node, as the kernel answers.
//!
//! All lookups are in functions that are not inlined: they are made for few packets, and from
//! several places.

use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
};
use guard_common::{
    Addr, Stack,
    flow::Headers,
    layout::node::{DeviceKey, NodeState},
    stack::{LOOKUP_ROUTES, LOOKUP_SOCKETS, Peer, Socket},
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

/// Number of bytes that are read from the IP header on: an IPv6 header and ports.
const HEAD_LEN: usize = 44;
/// Number of words that hold them.
const HEAD_WORDS: usize = HEAD_LEN / 4;

/// The network stack of the node, for the packet in this context.
pub(crate) struct Kernel<'a, C>(pub(crate) &'a C);

impl<C: Context> Stack for Kernel<'_, C> {
    #[inline(always)]
    fn forwards(&self, headers: &Headers) -> bool {
        let forwards =
            if headers.is_ipv6() { NodeState::FORWARDS_IPV6 } else { NodeState::FORWARDS_IPV4 };
        lookups() & LOOKUP_ROUTES != 0
            && node_flags() & forwards != 0
            && is_sent_on(self.0, headers.facts, &headers.source) != 0
    }

    #[inline(always)]
    fn socket(&self, headers: &Headers, peer: Peer) -> Socket {
        if lookups() & LOOKUP_SOCKETS == 0 {
            return Socket::None;
        }
        match socket_of(self.0, headers.facts, &headers.source, peer as u64) {
            1 => Socket::Listening,
            2 => Socket::Connected,
            _ => Socket::None,
        }
    }

    #[inline(always)]
    fn holds(&self, addr: &Addr, _: &Source) -> bool {
        TG_NODE.get(0).is_some_and(|state| state.may_own(addr)) && is_own(addr.mapped()) != 0
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
fn is_own(mapped: [u64; 2]) -> u64 {
    // SAFETY: the value is not read, only whether there is one.
    u64::from(unsafe { TG_OWN.get(mapped) }.is_some())
}

/// The first bytes of a packet from its IP header on, and the ports, in network byte order.
struct Head {
    /// The words of the IP header. Over IPv4, the words after the fifth have no meaning.
    ip: [u32; HEAD_WORDS],
    /// Source port in the lower half, destination port in the upper half (little endian); 0 if the
    /// packet has none.
    ports: u32,
}

impl Head {
    /// Reads a packet whose headers were parsed. Returns `None` if a read fails.
    #[inline(always)]
    fn read(ctx: &impl Context, headers: &Headers, ip_at: u32) -> Option<Self> {
        let fixed = if headers.is_ipv6() { wire::IPV6_LEN } else { wire::IPV4_MIN_LEN };
        let mut ip = [0_u32; HEAD_WORDS];
        let (start, end) = (ctx.start() + ip_at as usize, ctx.end());
        if start + HEAD_LEN <= end {
            for (nth, word) in ip.iter_mut().enumerate() {
                // SAFETY: the bytes were just compared with the end of the first buffer.
                *word = unsafe { ((start + 4 * nth) as *const u32).read_unaligned() };
            }
        } else {
            let to: *mut u8 = ip.as_mut_ptr().cast();
            // SAFETY: `ip` has room for the longer header.
            let is_read = unsafe {
                if headers.is_ipv6() {
                    ctx.copy(ip_at, to, wire::IPV6_LEN)
                } else {
                    ctx.copy(ip_at, to, wire::IPV4_MIN_LEN)
                }
            };
            if !is_read {
                return None;
            }
        }
        let mut ports = 0_u32;
        if headers.is_flow() {
            let at = ip_at + fixed + headers.extra();
            // SAFETY: `ports` has room for the bytes.
            if !unsafe { ctx.copy(at, (&raw mut ports).cast(), 4) } {
                return None;
            }
        }
        Some(Self { ip, ports })
    }

    /// Returns the protocol in the IP header: the first extension header, if there is one.
    #[inline(always)]
    fn protocol(&self, is_ipv6: bool) -> u32 {
        let [_, second, third, ..] = self.ip;
        // Byte 6 of IPv6, byte 9 of IPv4.
        if is_ipv6 { second >> 16 & 0xff } else { third >> 8 & 0xff }
    }
}

/// Returns 1 if the node would send the packet on, otherwise 0.
#[inline(never)]
fn is_sent_on<C: Context>(ctx: &C, facts: u64, source: &[u64; 2]) -> u64 {
    let headers = Headers { facts, source: *source, source_port: 0 };
    u64::from(route(ctx, &headers).is_some())
}

#[inline(always)]
fn route(ctx: &impl Context, headers: &Headers) -> Option<()> {
    let ip_at = headers.ip_at()?;
    let head = Head::read(ctx, headers, ip_at)?;
    let ifindex = receiver(ctx, ip_at)?;
    let is_ipv6 = headers.is_ipv6();
    // Addresses that routes do not decide about: the lookup reports a default route for them, and the
    // network stack delivers them to sockets of this node.
    let [first, w1, w2, src4, dst4, w5, d0, d1, d2, d3, _] = head.ip;
    let is_local = if is_ipv6 {
        d0 & 0xff == 0xff || d0 | d1 | d2 | d3 == 0
    } else {
        matches!(dst4 & 0xff, 0 | 0xe0..=0xef) || dst4 == u32::MAX
    };
    if is_local {
        return None;
    }
    let protocol = if headers.is_flow() { transport_number(headers) } else { head.protocol(is_ipv6) };
    let ports = head.ports;
    // `struct bpf_fib_lookup` (include/uapi/linux/bpf.h) in words: family, protocol and source port;
    // destination port and length; device; type of service or flow; source; destination; results.
    let mut params = [0_u32; 16];
    let [p0, p1, p2, p3, s0, s1, s2, s3, t0, t1, t2, t3, ..] = &mut params;
    *p2 = ifindex;
    if is_ipv6 {
        let len = u32::from((w1 as u16).swap_bytes()).wrapping_add(wire::IPV6_LEN);
        *p0 = AF_INET6 | protocol << 8 | ports << 16;
        *p1 = ports >> 16 | len << 16;
        // Traffic class and flow label, without the version.
        *p3 = first & u32::from_be(0x0fff_ffff);
        (*s0, *s1, *s2, *s3) = (w2, src4, dst4, w5);
        (*t0, *t1, *t2, *t3) = (d0, d1, d2, d3);
    } else {
        let len = u32::from(((first >> 16) as u16).swap_bytes());
        *p0 = AF_INET | protocol << 8 | ports << 16;
        *p1 = ports >> 16 | len << 16;
        *p3 = first >> 8 & 0xff;
        (*s0, *t0) = (src4, dst4);
    }
    // SAFETY: the context is that of this program, and the helper reads and writes the parameters,
    // which have the size of its struct.
    let result = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr(),
            params.as_mut_ptr().cast(),
            size_of_val(&params) as i32,
            0,
        )
    };
    matches!(result as i64, SUCCESS | NO_NEIGH | FRAG_NEEDED).then_some(())
}

/// Returns the protocol number of a transport. UDP-Lite counts as UDP.
#[inline(always)]
fn transport_number(headers: &Headers) -> u32 {
    match headers.facts >> 16 & 3 {
        0 => wire::PROTO_TCP.into(),
        1 => wire::PROTO_UDP.into(),
        _ => wire::PROTO_SCTP.into(),
    }
}

/// Returns the index of the device at which the IP stack receives the frame, or `None` if that is not
/// known.
#[inline(always)]
fn receiver(ctx: &impl Context, ip_at: u32) -> Option<u32> {
    // The addresses and up to two tags. An IP header of 20 bytes follows, so the frame has as many.
    let mut front = [0_u64; 3];
    // SAFETY: `front` has room for the bytes.
    if !unsafe { ctx.copy(0, front.as_mut_ptr().cast(), 24) } {
        return None;
    }
    let [first, second, third] = front;
    let mut key = DeviceKey {
        mac: u64::from_be(first) >> 16,
        outer: 0,
        inner: 0,
        ifindex: ctx.ifindex(),
        zero: 0,
    };
    add_tag(&mut key, ctx.tag().0);
    if ip_at > wire::ETHERNET_LEN {
        add_tag(&mut key, ((second >> 32) as u32).swap_bytes());
    }
    if ip_at > wire::ETHERNET_LEN + wire::VLAN_TAG_LEN {
        add_tag(&mut key, (third as u32).swap_bytes());
    }
    // SAFETY: the value is a word that is copied at once. User space may replace it at the same time;
    // the result is then that of either value.
    unsafe { TG_DEVICES.get(key) }.copied()
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

/// Returns the socket that would receive a packet, as a number of [`Socket`]. `peer` is a number of
/// [`Peer`].
#[inline(never)]
fn socket_of<C: Context>(ctx: &C, facts: u64, source: &[u64; 2], peer: u64) -> u64 {
    let headers = Headers { facts, source: *source, source_port: 0 };
    find_socket(ctx, &headers, peer).unwrap_or(Socket::None) as u64
}

#[inline(always)]
fn find_socket(ctx: &impl Context, headers: &Headers, peer: u64) -> Option<Socket> {
    let ip_at = headers.ip_at()?;
    let head = Head::read(ctx, headers, ip_at)?;
    let is_ipv6 = headers.is_ipv6();
    let [_, _, w2, src4, dst4, w5, d0, d1, d2, d3, _] = head.ip;
    // No connection has the source port 0.
    let ports = if peer == Peer::Anyone as u64 { head.ports & 0xffff_0000 } else { head.ports };
    // `struct bpf_sock_tuple` (include/uapi/linux/bpf.h) in words: addresses, then ports.
    let mut tuple = [0_u32; 9];
    let size = if is_ipv6 {
        tuple = [w2, src4, dst4, w5, d0, d1, d2, d3, ports];
        36
    } else {
        let [source, destination, both, ..] = &mut tuple;
        (*source, *destination, *both) = (src4, dst4, ports);
        12
    };
    if headers.is_tcp() {
        // SAFETY: the context is that of this program, and the tuple has at least `size` bytes.
        let socket = unsafe {
            bpf_skc_lookup_tcp(ctx.as_ptr(), tuple.as_mut_ptr().cast(), size, CURRENT_NETNS, 0)
        };
        if socket.is_null() {
            return is_bound_port(u32::from(((ports >> 16) as u16).swap_bytes()))
                .then_some(Socket::Listening);
        }
        // SAFETY: the helper returned a socket, which is valid until it is released, once.
        let state = unsafe {
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            state
        };
        let is_listening = state == TCP_LISTEN;
        return Some(if is_listening { Socket::Listening } else { Socket::Connected });
    }
    // UDP-Lite has sockets of its own, which cannot be looked up.
    let is_udp = headers.extra() == 0 && head.protocol(is_ipv6) == u32::from(wire::PROTO_UDP);
    if !is_udp {
        return None;
    }
    // SAFETY: as above.
    let socket = unsafe {
        bpf_sk_lookup_udp(ctx.as_ptr(), tuple.as_mut_ptr().cast(), size, CURRENT_NETNS, 0)
    };
    if socket.is_null() {
        return None;
    }
    // SAFETY: as above.
    let state = unsafe {
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    };
    // A UDP socket with a peer has this state (`__ip4_datagram_connect`, net/ipv4/datagram.c), and
    // receives packets of its peer only.
    let is_connected = state == TCP_ESTABLISHED;
    Some(if is_connected { Socket::Connected } else { Socket::Listening })
}

/// Returns whether a socket that is bound to a device on top of a guarded interface listens on a TCP
/// port. Such a socket is not found from the guarded interface.
#[inline(always)]
fn is_bound_port(port: u32) -> bool {
    node_flags() & NodeState::BOUND_LISTENERS != 0
        && TG_BOUND.get(port >> 6).is_some_and(|word| word >> (port & 63) & 1 != 0)
}
