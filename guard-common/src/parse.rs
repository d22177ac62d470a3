//! From a frame to what a policy speaks about. Every length is checked against the frame; what
//! cannot be followed is an error with a reason, never a guess.

use crate::{
    flow::{Addr, Flow, Headers, Parsed, Transport},
    observe::{Observer, Step},
    packet::{Packet, Rarely},
    verdict::Reason,
    wire,
};

/// The transport of a protocol number, for the protocols that have ports we judge.
#[inline(always)]
pub fn transport(protocol: u8) -> Option<Transport> {
    match protocol {
        wire::PROTO_TCP => Some(Transport::Tcp),
        wire::PROTO_UDP | wire::PROTO_UDPLITE => Some(Transport::Udp),
        wire::PROTO_SCTP => Some(Transport::Sctp),
        _ => None,
    }
}

/// Reads the headers of a frame. [`Headers::parsed`] says what they are, or why they cannot be
/// read: [`Reason::Undecodable`], [`Reason::MalformedIp`], [`Reason::TooManyHeaders`] or
/// [`Reason::MalformedL4`].
#[inline(always)]
pub fn parse(packet: &impl Packet, observer: &mut impl Observer) -> Headers {
    Headers::new(ethernet(packet, observer))
}

#[inline(always)]
fn ethernet(packet: &impl Packet, observer: &mut impl Observer) -> Result<Parsed, Reason> {
    let mut at = wire::ETHERTYPE_AT;
    let mut tags = 0_u32;
    let mut ethertype = ethertype_at(packet, at)?;
    while is_vlan(ethertype) {
        if tags == wire::MAX_VLAN_TAGS {
            return Err(Reason::Undecodable);
        }
        tags = tags.wrapping_add(1);
        at = at.wrapping_add(wire::VLAN_TAG_LEN);
        ethertype = ethertype_at(packet, at)?;
    }
    observer.note(Step::Ethernet { ethertype, tags });
    let at = at.wrapping_add(2);
    match ethertype {
        wire::ETHERTYPE_IPV4 => ipv4(packet, at, observer),
        wire::ETHERTYPE_IPV6 => ipv6(packet, at, observer),
        _ => Ok(Parsed::NotIp),
    }
}

#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, wire::ETHERTYPE_VLAN | wire::ETHERTYPE_SERVICE_VLAN)
}

#[inline(always)]
fn ethertype_at(packet: &impl Packet, at: u32) -> Result<u16, Reason> {
    packet.read(at).map(u16::from_be_bytes).ok_or(Reason::Undecodable)
}

/// RFC 791.
#[inline(always)]
fn ipv4(packet: &impl Packet, at: u32, observer: &mut impl Observer) -> Result<Parsed, Reason> {
    let [version_ihl] = packet.read(at).ok_or(Reason::MalformedIp)?;
    let total_len = be16(packet, at.wrapping_add(2))?;
    let fragment = be16(packet, at.wrapping_add(6))?;
    let [protocol] = packet.read(at.wrapping_add(9)).ok_or(Reason::MalformedIp)?;
    let source = packet.read(at.wrapping_add(12)).ok_or(Reason::MalformedIp)?;
    let source = Addr::V4(u32::from_be_bytes(source));

    let header_len = u32::from(version_ihl & 0x0f).wrapping_mul(4);
    let end = at.wrapping_add(total_len);
    if version_ihl >> 4 != 4
        || header_len < wire::IPV4_MIN_LEN
        || total_len < header_len
        || end > packet.len()
    {
        return Err(Reason::MalformedIp);
    }
    if fragment & 0x1fff != 0 {
        return Ok(Parsed::LaterFragment(source));
    }
    let body = Body { source, at: at.wrapping_add(header_len), end };
    if is_ipv4_extension(protocol) {
        return extensions(&Rarely(packet), body, protocol, is_ipv4_extension, observer);
    }
    ports(packet, body, protocol)
}

/// RFC 8200.
#[inline(always)]
fn ipv6(packet: &impl Packet, at: u32, observer: &mut impl Observer) -> Result<Parsed, Reason> {
    let [version] = packet.read(at).ok_or(Reason::MalformedIp)?;
    let payload_len = be16(packet, at.wrapping_add(4))?;
    let [next] = packet.read(at.wrapping_add(6)).ok_or(Reason::MalformedIp)?;
    let high = packet.read(at.wrapping_add(8)).ok_or(Reason::MalformedIp)?;
    let low = packet.read(at.wrapping_add(16)).ok_or(Reason::MalformedIp)?;
    let source = Addr::V6([u64::from_be_bytes(high), u64::from_be_bytes(low)]);

    let start = at.wrapping_add(wire::IPV6_LEN);
    // A jumbogram (RFC 2675) says 0 here, so its headers lie beyond the end and are refused.
    let end = start.wrapping_add(payload_len);
    if version >> 4 != 6 || end > packet.len() {
        return Err(Reason::MalformedIp);
    }
    let body = Body { source, at: start, end };
    if is_ipv6_extension(next) {
        return extensions(&Rarely(packet), body, next, is_ipv6_extension, observer);
    }
    ports(packet, body, next)
}

/// A 16-bit field of an IP header.
#[inline(always)]
fn be16(packet: &impl Packet, at: u32) -> Result<u32, Reason> {
    match packet.read(at) {
        Some(field) => Ok(u16::from_be_bytes(field).into()),
        None => Err(Reason::MalformedIp),
    }
}

/// What follows a header: who sent it, where it starts and where the IP packet ends.
#[derive(Clone, Copy)]
struct Body {
    source: Addr,
    at: u32,
    end: u32,
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

/// Over IPv4 only the authentication header is transparent: Linux takes it off and goes on.
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
) -> Result<Parsed, Reason> {
    for _ in 0..wire::MAX_EXTENSION_HEADERS {
        if !is_extension(protocol) {
            return ports(packet, body, protocol);
        }
        observer.note(Step::Extension(protocol));
        let [next, units, f0, f1]: [u8; 4] = packet.read(body.at).ok_or(Reason::MalformedIp)?;
        let len = match protocol {
            wire::PROTO_FRAGMENT => 8,
            // RFC 4302: in 4-byte words, minus 2.
            wire::PROTO_AH => u32::from(units).wrapping_add(2).wrapping_mul(4),
            // RFC 8200: in 8-byte units, not counting the first.
            _ => u32::from(units).wrapping_add(1).wrapping_mul(8),
        };
        let next_at = body.at.wrapping_add(len);
        if next_at > body.end {
            return Err(Reason::MalformedIp);
        }
        // The offset counts 8-byte units in the upper 13 bits.
        if protocol == wire::PROTO_FRAGMENT && u16::from_be_bytes([f0, f1]) & 0xfff8 != 0 {
            return Ok(Parsed::LaterFragment(body.source));
        }
        body.at = next_at;
        protocol = next;
    }
    if is_extension(protocol) {
        return Err(Reason::TooManyHeaders);
    }
    ports(packet, body, protocol)
}

#[inline(always)]
fn ports(packet: &impl Packet, body: Body, protocol: u8) -> Result<Parsed, Reason> {
    let Body { source, at, end } = body;
    let Some(transport) = transport(protocol) else {
        return Ok(Parsed::Portless { source, protocol });
    };
    if at.wrapping_add(4) > end {
        return Err(Reason::MalformedL4);
    }
    let [s0, s1, d0, d1]: [u8; 4] = packet.read(at).ok_or(Reason::MalformedL4)?;
    let opening = transport == Transport::Tcp && {
        let flags_at = at.wrapping_add(wire::TCP_FLAGS_AT);
        match packet.read::<1>(flags_at) {
            Some([flags]) if flags_at < end => {
                flags & (wire::TCP_SYN | wire::TCP_ACK) == wire::TCP_SYN
            }
            // Cut off: the next fragment may bring a SYN (RFC 1858, RFC 3128).
            _ => true,
        }
    };
    Ok(Parsed::Flow(Flow {
        source,
        transport,
        source_port: u16::from_be_bytes([s0, s1]),
        port: u16::from_be_bytes([d0, d1]),
        opening,
    }))
}
