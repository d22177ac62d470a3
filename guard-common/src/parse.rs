//! Parses a frame into the facts that a policy refers to. Every length is checked against the
//! frame. A header that cannot be parsed is an error with a reason, never a guess.

use crate::{
    flow::{Addr, Flow, Headers},
    observe::{Observer, Step},
    packet::{ColdPath, Fields, Packet},
    port_table::Transport,
    tables::FragmentKind,
    verdict::Reason,
    wire,
};

/// Returns the transport of an IP protocol number, or `None` if a policy cannot name ports of the
/// protocol. UDP-Lite counts as UDP.
#[inline(always)]
pub fn transport(protocol: u8) -> Option<Transport> {
    match protocol {
        wire::PROTO_TCP => Some(Transport::Tcp),
        wire::PROTO_UDP | wire::PROTO_UDPLITE => Some(Transport::Udp),
        wire::PROTO_SCTP => Some(Transport::Sctp),
        _ => None,
    }
}

/// Parses the headers of a frame.
///
/// [`Headers::parsed`] returns the result, or the reason why the headers cannot be parsed:
/// [`Reason::Undecodable`], [`Reason::MalformedIp`], [`Reason::TooManyHeaders`] or
/// [`Reason::MalformedL4`].
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, observer: &mut impl Observer) -> Headers {
    let mut at = wire::ETHERTYPE_AT;
    let Some(mut ethertype) = ethertype_at(packet, at) else {
        return Headers::unparsed(Reason::Undecodable);
    };
    let mut tags = packet.tags_taken_off();
    if P::KNOWN_OFFSETS_ARE_CHEAP && !is_vlan(ethertype) {
        return ip(packet, at, tags, ethertype, observer);
    }
    // A counted loop, although the last iteration always returns: Linux 6.1 rejects the code
    // generated for a `while` in the tc program as an infinite loop (`check_cfg`,
    // `kernel/bpf/verifier.c`).
    for _ in 0..=wire::MAX_VLAN_TAGS {
        if !is_vlan(ethertype) {
            break;
        }
        at = at.wrapping_add(wire::VLAN_TAG_LEN);
        tags = tags.wrapping_add(1);
        let next = if tags > wire::MAX_VLAN_TAGS { None } else { ethertype_at(packet, at) };
        let Some(next) = next else {
            return Headers::unparsed(Reason::Undecodable);
        };
        ethertype = next;
    }
    ip(packet, at, tags, ethertype, observer)
}

/// Parses the network header that follows the VLAN tags.
#[inline(always)]
fn ip(
    packet: &impl Packet,
    ethertype_at: u32,
    tags: u32,
    ethertype: u16,
    observer: &mut impl Observer,
) -> Headers {
    observer.note(Step::Ethernet { ethertype, tags });
    let at = ethertype_at.wrapping_add(2);
    match ethertype {
        wire::ETHERTYPE_IPV4 => ipv4(packet, at, observer),
        wire::ETHERTYPE_IPV6 => ipv6(packet, at, observer),
        _ => Headers::not_ip(),
    }
}

#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, wire::ETHERTYPE_VLAN | wire::ETHERTYPE_SERVICE_VLAN)
}

#[inline(always)]
fn ethertype_at(packet: &impl Packet, at: u32) -> Option<u16> {
    packet.read::<2>(at).map(|tag| tag.be16::<0>())
}

/// Parses an IPv4 header (RFC 791).
#[inline(always)]
fn ipv4<P: Packet>(packet: &P, at: u32, observer: &mut impl Observer) -> Headers {
    // From the version to the source address. The rest of the header is not needed.
    let Some(header) = packet.read::<16>(at) else {
        return Headers::unparsed(Reason::MalformedIp);
    };
    let version_ihl = header.u8::<0>();
    if P::KNOWN_OFFSETS_ARE_CHEAP && version_ihl == 0x45 {
        return ipv4_body(packet, &header, at, wire::IPV4_MIN_LEN, observer);
    }
    let header_len = u32::from(version_ihl & 0x0f).wrapping_mul(4);
    if version_ihl >> 4 != 4 || header_len < wire::IPV4_MIN_LEN {
        return Headers::unparsed(Reason::MalformedIp);
    }
    ipv4_body(&ColdPath(packet), &header, at, header_len, observer)
}

#[inline(always)]
fn ipv4_body(
    packet: &impl Packet,
    header: &impl Fields,
    at: u32,
    header_len: u32,
    observer: &mut impl Observer,
) -> Headers {
    let total_len = length(packet, header.be16::<2>(), at);
    let end = at.wrapping_add(total_len);
    if total_len < header_len || !packet.reaches(end) {
        return Headers::unparsed(Reason::MalformedIp);
    }
    let source = Addr::V4(header.be32::<12>());
    let protocol = header.u8::<9>();
    if header.be16::<6>() & 0x1fff != 0 {
        return Headers::later_fragment(source, protocol);
    }
    let body = Body { source, at: at.wrapping_add(header_len), end };
    if let Some(transport) = transport(protocol) {
        return ports(packet, body, transport);
    }
    extensions(&ColdPath(packet), body, protocol, is_ipv4_extension, observer)
}

/// Returns the length in bytes of the data that begins at offset `at`, given the value `field` of
/// the IP header. A merged packet that is too long for the field has 0 there and extends to the end
/// of the frame, as in the network stack (`skb_ip_totlen`, include/linux/ip.h).
#[inline(always)]
fn length(packet: &impl Packet, field: u16, at: u32) -> u32 {
    if field == 0 && packet.is_merged() { packet.len().wrapping_sub(at) } else { field.into() }
}

/// Parses an IPv6 header (RFC 8200).
#[inline(always)]
fn ipv6(packet: &impl Packet, at: u32, observer: &mut impl Observer) -> Headers {
    // From the version to the source address.
    let Some(header) = packet.read::<24>(at) else {
        return Headers::unparsed(Reason::MalformedIp);
    };
    let start = at.wrapping_add(wire::IPV6_LEN);
    // A jumbogram (RFC 2675) has 0 here, so its headers lie beyond the end and it is refused.
    let end = start.wrapping_add(length(packet, header.be16::<4>(), start));
    if header.u8::<0>() >> 4 != 6 || !packet.reaches(end) {
        return Headers::unparsed(Reason::MalformedIp);
    }
    let source = Addr::V6([header.be64::<8>(), header.be64::<16>()]);
    let next = header.u8::<6>();
    let body = Body { source, at: start, end };
    if let Some(transport) = transport(next) {
        return ports(packet, body, transport);
    }
    extensions(&ColdPath(packet), body, next, is_ipv6_extension, observer)
}

/// The data that follows a header: the source of the packet, the offset of the data and the end of
/// the IP packet.
#[derive(Clone, Copy)]
struct Body {
    source: Addr,
    at: u32,
    end: u32,
}

/// Returns what a fragment other than the first is known to contain, by the protocol in its header, or
/// `None` if a policy cannot name ports of the protocol.
#[inline(always)]
pub fn fragment_kind(protocol: u8) -> Option<FragmentKind> {
    match transport(protocol) {
        Some(Transport::Tcp) => Some(FragmentKind::Tcp),
        Some(Transport::Udp) => Some(FragmentKind::Udp),
        Some(Transport::Sctp) => Some(FragmentKind::Sctp),
        None if is_ipv6_extension(protocol) => Some(FragmentKind::Unknown),
        None => None,
    }
}

#[inline(always)]
fn is_ipv6_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        wire::PROTO_HOP_BY_HOP
            | wire::PROTO_ROUTING
            | wire::PROTO_FRAGMENT
            | wire::PROTO_AH
            | wire::PROTO_DESTINATION
    )
}

/// Over IPv4, only the authentication header is skipped: Linux removes it and continues with the
/// next protocol.
#[inline(always)]
fn is_ipv4_extension(protocol: u8) -> bool {
    protocol == wire::PROTO_AH
}

#[inline(always)]
fn extensions(
    packet: &impl Packet,
    mut body: Body,
    mut protocol: u8,
    is_extension: fn(u8) -> bool,
    observer: &mut impl Observer,
) -> Headers {
    for skipped in 0..wire::MAX_EXTENSION_HEADERS {
        if !is_extension(protocol) {
            let headers = innermost(packet, body, protocol);
            return if skipped == 0 { headers } else { headers.behind_extensions() };
        }
        observer.note(Step::Extension(protocol));
        let Some(header) = packet.read::<4>(body.at) else {
            return Headers::unparsed(Reason::MalformedIp);
        };
        let (next, units) = (header.u8::<0>(), u32::from(header.u8::<1>()));
        let len = match protocol {
            wire::PROTO_FRAGMENT => 8,
            // RFC 4302: in 4-byte words, minus 2.
            wire::PROTO_AH => units.wrapping_add(2).wrapping_mul(4),
            // RFC 8200: in 8-byte units, not counting the first.
            _ => units.wrapping_add(1).wrapping_mul(8),
        };
        let next_at = body.at.wrapping_add(len);
        if next_at > body.end {
            return Headers::unparsed(Reason::MalformedIp);
        }
        // The offset is in the upper 13 bits, in units of 8 bytes.
        if protocol == wire::PROTO_FRAGMENT && header.be16::<2>() & 0xfff8 != 0 {
            return Headers::later_fragment(body.source, next);
        }
        body.at = next_at;
        protocol = next;
    }
    if is_extension(protocol) {
        return Headers::unparsed(Reason::TooManyHeaders);
    }
    innermost(packet, body, protocol).behind_extensions()
}

#[inline(always)]
fn innermost(packet: &impl Packet, body: Body, protocol: u8) -> Headers {
    match transport(protocol) {
        Some(transport) => ports(packet, body, transport),
        None => Headers::portless(body.source, protocol),
    }
}

#[inline(always)]
fn ports(packet: &impl Packet, body: Body, transport: Transport) -> Headers {
    let Body { source, at, end } = body;
    if at.wrapping_add(4) > end {
        return Headers::unparsed(Reason::MalformedL4);
    }
    let Some(ports) = packet.read::<4>(at) else {
        return Headers::unparsed(Reason::MalformedL4);
    };
    let opening = transport == Transport::Tcp && {
        let flags_at = at.wrapping_add(wire::TCP_FLAGS_AT);
        match packet.read::<1>(flags_at) {
            Some(flags) if flags_at < end => {
                flags.u8::<0>() & (wire::TCP_SYN | wire::TCP_ACK) == wire::TCP_SYN
            }
            // The flags lie beyond the end of this fragment, and the next fragment may carry a SYN
            // (RFC 1858, RFC 3128).
            _ => true,
        }
    };
    Headers::flow(&Flow {
        source,
        transport,
        source_port: ports.be16::<0>(),
        port: ports.be16::<2>(),
        opening,
    })
}
