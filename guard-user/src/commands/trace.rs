//! `trainguard trace`: shows every step of the decision about one packet.

use std::net::{IpAddr, SocketAddr};

use guard_common::{
    Addr, Observer, evaluate, observe::Step, packet::Frame, parse::transport, stack::Offline,
    verdict::Verdict,
};

use super::shared::load;
use crate::{
    cli::{Expected, TraceArgs},
    exit::Exit,
    output,
    policy::limiter::HostLimiter,
    probe::{self, Probe},
    report,
};

/// Runs `trainguard trace`.
pub fn run(args: &TraceArgs) -> Exit {
    let packet = match packet(args) {
        Ok(packet) => packet,
        Err(error) => {
            output::error(error);
            return Exit::NoAnswer;
        }
    };
    let Some(offline) = load::prepare(&args.node) else { return Exit::NoAnswer };
    let (to, node) = (packet.to.0, &offline.policy.node);
    match (offline.addresses.contains(&Addr::from(to)), args.forwarded) {
        (true, true) => output::message(format_args!(
            "note: {to} is an address of `{node}`, which forwards no packets to itself"
        )),
        (false, false) => output::message(format_args!(
            "note: {to} is not an address of `{node}`; this does not change the verdict, unless the \
             node only forwards the packet (`--forwarded`)"
        )),
        _ => {}
    }
    let frame = packet.frame();
    let mut recorder = Recorder::default();
    let tables = offline.policy.host();
    let stack = Offline { forwards: args.forwarded };
    // Buckets are full, because no other packets were sent.
    let limiter = HostLimiter::new([0; 2]);
    let verdict: Verdict = evaluate(&Frame::new(&frame), &tables, &stack, &limiter, &mut recorder);
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

/// Returns the packet that the arguments describe.
fn packet(args: &TraceArgs) -> Result<Probe, String> {
    let from = endpoint(&args.from).map_err(|error| format!("--from {error}"))?;
    let to = endpoint(&args.to).map_err(|error| format!("--to {error}"))?;
    if from.0.is_ipv4() != to.0.is_ipv4() {
        return Err(format!("{} and {} are of different address families", from.0, to.0));
    }
    let protocol = probe::protocol(&args.proto).map_err(|error| format!("--proto {error}"))?;
    if transport(protocol).is_some() && to.1.is_none() {
        return Err(format!("--to needs a port for {}: ADDRESS:PORT", args.proto));
    }
    Ok(Probe {
        from: (from.0, from.1.unwrap_or(probe::SOURCE_PORT)),
        to: (to.0, to.1.unwrap_or(0)),
        protocol,
        flags: probe::flags(&args.flags).map_err(|error| format!("--flags {error}"))?,
        later_fragment: false,
    })
}

/// Parses an address with an optional port.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(addr) = bare.parse() {
        return Ok((addr, None));
    }
    let both: SocketAddr = text.parse().map_err(|_invalid| {
        format!("`{text}`: expected an address or ADDRESS:PORT, for IPv6 [ADDRESS]:PORT")
    })?;
    Ok((both.ip(), Some(both.port())))
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
}
