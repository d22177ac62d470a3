//! The headers of a refused frame: the bytes that the decision read, without payload.

use std::{cell::Cell, net::IpAddr};

use guard_common::{
    Observer, Packet, Reason, flow::Parsed, observe::Step, packet::Frame, parse,
    port_table::Transport, wire,
};

/// The headers of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// The frame up to the last byte that the decision read, at least to the end of the fixed IP
    /// header.
    pub bytes: Vec<u8>,
    /// Source port; none if the packet has no ports.
    pub source_port: Option<u16>,
    /// Destination address; none if it cannot be read.
    pub destination: Option<IpAddr>,
    /// TCP flags; none if the packet has none.
    pub flags: Option<u8>,
    /// Bytes after the TCP or UDP header, according to the length fields; 0 if they cannot be read.
    pub payload: u32,
}

/// Extracts the headers from the first bytes of a frame that had `len` bytes on the wire.
pub fn of(head: &[u8], len: u32) -> Headers {
    let recorder =
        ReadRecorder { frame: Frame::cut(head, len), end: Cell::new(0), ports_at: Cell::new(0) };
    let mut ip = Ip { at: None, ethertype: 0 };
    let parsed = parse(&recorder, &mut ip).parsed();
    let mut headers = Headers::default();
    let mut end = recorder.end.get();
    let mut ip_end = u32::MAX;
    // A malformed packet need not have an IP header.
    let has_ip_header = match parsed {
        Ok(parsed) => parsed != Parsed::NotIp,
        Err(reason) => matches!(reason, Reason::MalformedL4 | Reason::TooManyHeaders),
    };
    if let Some(at) = ip.at
        && has_ip_header
    {
        let is_v4 = ip.ethertype == wire::ETHERTYPE_IPV4;
        let fixed = if is_v4 { wire::IPV4_MIN_LEN } else { wire::IPV6_LEN };
        let short = |at| part::<2>(head, at).map_or(0, |word| u32::from(u16::from_be_bytes(word)));
        ip_end = at.saturating_add(if is_v4 { short(at + 2) } else { fixed + short(at + 4) });
        end = end.max(at + fixed);
        headers.destination = if is_v4 {
            part::<4>(head, at + 16).map(IpAddr::from)
        } else {
            part::<16>(head, at + 24).map(IpAddr::from)
        };
    }
    if let Ok(Parsed::Flow(flow)) = parsed {
        headers.source_port = Some(flow.source_port);
        let flags_at = recorder.ports_at.get() + wire::TCP_FLAGS_AT;
        if flow.transport == Transport::Tcp && flags_at < ip_end {
            headers.flags = part::<1>(head, flags_at).map(|[flags]| flags);
        }
        let l4_at = recorder.ports_at.get();
        // The data offset is in units of four bytes, in the upper half of the byte before the flags.
        let tcp_header = part::<1>(head, flags_at - 1).map(|[words]| u32::from(words >> 4) * 4);
        let header = match flow.transport {
            Transport::Tcp => tcp_header,
            Transport::Udp => Some(8),
            Transport::Sctp => None,
        };
        // A jumbogram has a length field of zero, so its payload length is unknown.
        let payload = header.map(|header| ip_end.saturating_sub(l4_at.saturating_add(header)));
        headers.payload = payload.filter(|_| ip_end != u32::MAX).unwrap_or(0);
    }
    headers.bytes = head.iter().take(end as usize).copied().collect();
    // The bytes after the IP packet are padding, which may contain memory of the sender.
    for byte in headers.bytes.iter_mut().skip(ip_end as usize) {
        *byte = 0;
    }
    headers
}

fn part<const N: usize>(head: &[u8], at: u32) -> Option<[u8; N]> {
    let at = usize::try_from(at).ok()?;
    head.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Offset of the IP header, and its EtherType.
struct Ip {
    at: Option<u32>,
    ethertype: u16,
}

impl Observer for Ip {
    fn note(&mut self, step: Step) {
        if let Step::Ethernet { ethertype, tags } = step {
            self.ethertype = ethertype;
            self.at = Some(wire::ETHERTYPE_AT + tags * wire::VLAN_TAG_LEN + 2);
        }
    }
}

/// A frame that records how far it was read.
struct ReadRecorder<'a> {
    frame: Frame<'a>,
    end: Cell<u32>,
    /// Offset of the last read of four bytes. For a flow this is the read of its ports, which is the
    /// last.
    ports_at: Cell<u32>,
}

impl<'a> Packet for ReadRecorder<'a> {
    type Bytes<const N: usize> = <Frame<'a> as Packet>::Bytes<N>;
    const KNOWN_OFFSETS_ARE_CHEAP: bool = <Frame<'a> as Packet>::KNOWN_OFFSETS_ARE_CHEAP;

    fn len(&self) -> u32 {
        self.frame.len()
    }

    fn read<const N: usize>(&self, at: u32) -> Option<Self::Bytes<N>> {
        let bytes = self.frame.read::<N>(at)?;
        let end = u32::try_from(N).map_or(u32::MAX, |len| at.saturating_add(len));
        self.end.set(self.end.get().max(end));
        if N == 4 {
            self.ports_at.set(at);
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use guard_common::NoTrace;
    use proptest::prelude::*;

    use super::*;

    /// Returns a frame with known headers, and the length of the headers. All bytes after them are
    /// `0xee`.
    fn framed(
        v4: bool,
        tags: usize,
        extensions: usize,
        protocol: u8,
        payload: usize,
    ) -> (Vec<u8>, usize) {
        let mut frame = vec![2; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 5]);
        }
        let l4 = match protocol {
            wire::PROTO_TCP => 20,
            wire::PROTO_UDP => 8,
            _ => 0,
        };
        if v4 {
            let options = extensions * 4;
            frame.extend([8, 0, 0x45 + u8::try_from(extensions).expect("few"), 0]);
            let total = u16::try_from(20 + options + l4 + payload).expect("short");
            frame.extend(total.to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            frame.extend(vec![1; options]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            let length = u16::try_from(8 * extensions + l4 + payload).expect("short");
            frame.extend(length.to_be_bytes());
            frame.extend([if extensions > 0 { wire::PROTO_DESTINATION } else { protocol }, 64]);
            frame.extend([0xfd; 16]);
            frame.extend([0xfc; 16]);
            for left in (0..extensions).rev() {
                let next = if left > 0 { wire::PROTO_DESTINATION } else { protocol };
                frame.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
        }
        if l4 > 0 {
            frame.extend(40_000_u16.to_be_bytes());
            frame.extend(9091_u16.to_be_bytes());
            frame
                .extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x12, 0, 0, 0, 0, 0, 0].iter().take(l4 - 4));
        }
        let headers = frame.len();
        frame.resize(headers + payload, 0xee);
        (frame, headers)
    }

    proptest! {
        #[test]
        fn payload_is_never_extracted(
            v4 in any::<bool>(),
            tags in 0..3_usize,
            extensions in 0..6_usize,
            protocol in prop_oneof![Just(6_u8), Just(17), Just(41), Just(1), Just(58)],
            payload in 0..200_usize,
        ) {
            let (frame, end) = framed(v4, tags, extensions, protocol, payload);
            let len = u32::try_from(frame.len()).expect("short");
            let head = frame.get(..128).unwrap_or(&frame);
            let headers = of(head, len);
            prop_assert!(headers.bytes.len() <= end, "{} of {end}", headers.bytes.len());
            prop_assert!(frame.starts_with(&headers.bytes));
            // If all headers are in `head`, parsing the extracted bytes has the same result.
            if end <= 128 {
                let cut = Frame::cut(&headers.bytes, len);
                prop_assert_eq!(
                    parse(&cut, &mut NoTrace).parsed(),
                    parse(&Frame::new(&frame), &mut NoTrace).parsed()
                );
                let v4_to: IpAddr = "10.0.0.2".parse().expect("an address");
                prop_assert_eq!(headers.destination.map(|addr| addr == v4_to), Some(v4));
                prop_assert_eq!(headers.flags, (protocol == 6).then_some(0x12));
                let has_ports = matches!(protocol, 6 | 17);
                prop_assert_eq!(headers.source_port, has_ports.then_some(40_000));
            }
        }

        #[test]
        fn extracted_bytes_are_those_of_the_frame_or_zero(
            head in proptest::collection::vec(any::<u8>(), 0..128),
            more in 0..2000_u32,
        ) {
            let len = u32::try_from(head.len()).expect("short") + more;
            let headers = of(&head, len);
            let kept = headers.bytes.iter().zip(&head);
            prop_assert!(headers.bytes.len() <= head.len());
            prop_assert!(kept.into_iter().all(|(kept, was)| kept == was || *kept == 0));
            let again = parse(&Frame::cut(&headers.bytes, len), &mut NoTrace).parsed();
            prop_assert_eq!(again, parse(&Frame::cut(&head, len), &mut NoTrace).parsed());
        }
    }

    #[test]
    fn padding_after_a_fragment_is_not_a_header() {
        // An IP packet of 24 bytes that ends after the ports, followed by padding.
        let (mut frame, end) = framed(true, 0, 0, wire::PROTO_TCP, 0);
        frame[17] = 24;
        for byte in &mut frame[38..end] {
            *byte = 0xee;
        }
        frame.resize(60, 0xee);
        let headers = of(&frame, 60);
        assert_eq!(headers.flags, None);
        assert!(!headers.bytes.contains(&0xee));
        let again = parse(&Frame::cut(&headers.bytes, 60), &mut NoTrace).parsed();
        assert_eq!(again, parse(&Frame::new(&frame), &mut NoTrace).parsed());
    }
}
