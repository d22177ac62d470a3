//! `trainguard trace`: every step of the decision about one packet.

use std::net::{IpAddr, SocketAddr};

use guard_common::{
    Addr, Observer, flow::Transport, judge, observe::Step, packet::Frame, parse::transport,
    verdict::Verdict, wire,
};

use super::offline;
use crate::{
    cli::{Expected, TraceArgs},
    exit::Exit,
    policy::limiter::HostLimiter,
    report,
};

/// A source port for those who do not care: it decides nothing.
const SOURCE_PORT: u16 = 40_000;

/// Runs the verb.
pub fn run(args: &TraceArgs) -> Exit {
    let asked = match Asked::new(args) {
        Ok(asked) => asked,
        Err(error) => {
            report::error(error);
            return Exit::NoAnswer;
        }
    };
    let Some(offline) = offline::prepare(&args.node) else { return Exit::NoAnswer };
    if !offline.addresses.contains(&Addr::from(asked.to.0)) {
        report::talk(format_args!(
            "note: {} is no address of `{}`; the verdict does not depend on that",
            asked.to.0, offline.policy.node
        ));
    }
    let frame = asked.frame();
    let mut recorder = Recorder::default();
    let tables = offline.policy.host();
    // Full buckets: nobody else has sent anything.
    let limiter = HostLimiter::new([0; 2]);
    let verdict: Verdict = judge(&Frame::new(&frame), &tables, &limiter, &mut recorder);
    let trace = report::trace::Trace {
        loaded: &offline.loaded,
        policy: &offline.policy,
        steps: &recorder.steps,
        verdict,
    };
    trace.print(args.format);
    let expected = match args.expect {
        None => true,
        Some(Expected::Pass) => verdict.passes(),
        Some(Expected::Drop) => !verdict.passes(),
    };
    if expected { Exit::Yes } else { Exit::No }
}

#[derive(Debug, Default)]
struct Recorder {
    steps: Vec<Step>,
}

impl Observer for Recorder {
    fn note(&mut self, step: Step) {
        self.steps.push(step);
    }
}

/// The packet that was asked about.
#[derive(Debug)]
struct Asked {
    from: (IpAddr, Option<u16>),
    to: (IpAddr, Option<u16>),
    protocol: u8,
    flags: u8,
}

impl Asked {
    fn new(args: &TraceArgs) -> Result<Self, String> {
        let from = endpoint(&args.from).map_err(|error| format!("--from {error}"))?;
        let to = endpoint(&args.to).map_err(|error| format!("--to {error}"))?;
        if from.0.is_ipv4() != to.0.is_ipv4() {
            return Err(format!("{} and {} are not of one family", from.0, to.0));
        }
        let protocol = protocol(&args.proto)?;
        if transport(protocol).is_some() && to.1.is_none() {
            return Err(format!("--to needs a port for {}: ADDRESS:PORT", args.proto));
        }
        Ok(Self { from, to, protocol, flags: flags(&args.flags)? })
    }

    /// An Ethernet frame with this packet, without checksums: nobody looks at them.
    fn frame(&self) -> Vec<u8> {
        let segment = self.segment();
        // Locally administered addresses.
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
        match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend(wire::ETHERTYPE_IPV4.to_be_bytes());
                frame.extend([0x45, 0]);
                frame.extend((length + 20).to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, self.protocol, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            (from, to) => {
                let octets = |addr| match addr {
                    IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
                    IpAddr::V6(addr) => addr.octets(),
                };
                frame.extend(wire::ETHERTYPE_IPV6.to_be_bytes());
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.protocol, 64]);
                frame.extend(octets(from));
                frame.extend(octets(to));
            }
        }
        frame.extend(segment);
        frame
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        if let Some(transport) = transport(self.protocol) {
            segment.extend(self.from.1.unwrap_or(SOURCE_PORT).to_be_bytes());
            segment.extend(self.to.1.unwrap_or(0).to_be_bytes());
            match transport {
                Transport::Tcp => {
                    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.flags]);
                    segment.extend([0xff, 0xff, 0, 0, 0, 0]);
                }
                Transport::Udp => segment.extend([0, 8, 0, 0]),
                Transport::Sctp => segment.extend([0; 8]),
            }
        }
        segment
    }
}

/// An address, with a port if there is one.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(addr) = bare.parse() {
        return Ok((addr, None));
    }
    let both: SocketAddr = text.parse().map_err(|_invalid| {
        format!("`{text}`: expected an address or ADDRESS:PORT, an IPv6 one as [ADDRESS]:PORT")
    })?;
    Ok((both.ip(), Some(both.port())))
}

fn protocol(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(wire::PROTO_TCP),
        "udp" => Ok(wire::PROTO_UDP),
        "udplite" => Ok(wire::PROTO_UDPLITE),
        "sctp" => Ok(wire::PROTO_SCTP),
        number => number.parse().map_err(|_invalid| {
            format!("--proto `{text}`: expected tcp, udp, udplite, sctp or a number up to 255")
        }),
    }
}

/// TCP flags by their letters (RFC 9293 3.1).
fn flags(text: &str) -> Result<u8, String> {
    text.chars().try_fold(0, |flags, letter| {
        let bit = match letter.to_ascii_uppercase() {
            'F' => 0x01,
            'S' => wire::TCP_SYN,
            'R' => 0x04,
            'P' => 0x08,
            'A' => wire::TCP_ACK,
            'U' => 0x20,
            _ => return Err(format!("--flags `{text}`: `{letter}` is none of S, A, F, R, P, U")),
        };
        Ok(flags | bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_with_or_without_a_port() {
        let v6: IpAddr = "fd00::7".parse().expect("an address");
        assert_eq!(endpoint("10.0.0.7"), Ok(("10.0.0.7".parse().expect("an address"), None)));
        assert_eq!(endpoint("fd00::7"), Ok((v6, None)));
        assert_eq!(endpoint("[fd00::7]"), Ok((v6, None)));
        assert_eq!(endpoint("[fd00::7]:22"), Ok((v6, Some(22))));
        assert!(endpoint("10.0.0.7:99999").is_err());
        assert!(endpoint("host").is_err());
    }

    #[test]
    fn flags_are_letters() {
        assert_eq!(flags("SA"), Ok(0x12));
        assert_eq!(flags(""), Ok(0));
        assert!(flags("SYN").is_err());
    }
}
