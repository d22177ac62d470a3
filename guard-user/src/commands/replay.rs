//! `trainguard replay`: judges the frames of a capture, on the host or in the kernel.

use std::{
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    path::Path,
};

use guard_common::{
    Addr, Packet as _, Silent, Verdict, bucket, judge,
    packet::{Fields as _, Frame},
    wire,
};

use super::offline::{self, Offline};
use crate::{
    capture::{self, Captured},
    cli::ReplayArgs,
    exit::Exit,
    kernel::{
        error::KernelError,
        generation::{Generation, SHORTEST_FRAME},
    },
    policy::{compiled::HostTables, limiter::HostLimiter},
    report::{self, replay::Summary},
};

/// Hashed buckets start empty and end with the replay, so their key need be no secret.
const KEY: [u64; 2] = [0x7472_6169_6e67, 0x7561_7264];
/// The longest frame that is given to the kernel, which takes little more: the longest IPv4 packet
/// behind an Ethernet header and two VLAN tags.
const MAX_FRAME: usize = 14 + 2 * 4 + 65_535;
/// The longest step of the clock, in nanoseconds: every bucket is full again after it.
const LONGEST_STEP: u64 = bucket::MAX_TICKS / bucket::TICKS_PER_NS;
/// Where the clock stops: buckets count in ticks below 2^63.
const LAST_NS: u64 = (1 << 63) / bucket::TICKS_PER_NS - 1;

/// Runs the verb.
pub fn run(args: &ReplayArgs) -> Exit {
    let Some(offline) = offline::prepare(&args.node) else { return Exit::NoAnswer };
    let input: Box<dyn Read> = if args.capture == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        match File::open(&args.capture) {
            Ok(file) => Box::new(file),
            Err(error) => {
                report::error(format_args!("cannot open `{}`: {error}", args.capture.display()));
                return Exit::NoAnswer;
            }
        }
    };
    let tables = offline.policy.host();
    let host = Host { tables: &tables, limiter: HostLimiter::new(KEY) };
    let kernel = if args.kernel {
        match Generation::for_tests(&offline.policy, KEY) {
            Ok(generation) => Some(generation),
            Err(error) => return refuse(&error),
        }
    } else {
        None
    };
    let judges = Judges { host, kernel };
    match replay(args, input, &offline, &judges) {
        Ok(summary) if summary.frames() == 0 => {
            report::error(if args.received && summary.left_out > 0 {
                "no frame of the capture is for this node"
            } else {
                "the capture has no frames"
            });
            Exit::NoAnswer
        }
        Ok(summary) => {
            summary.finish(args.format);
            Exit::Yes
        }
        Err(Failure::Capture(error)) => {
            report::error(format_args!("`{}`: {error}", args.capture.display()));
            Exit::NoAnswer
        }
        Err(Failure::Kernel(error)) => refuse(&error),
    }
}

fn refuse(error: &KernelError) -> Exit {
    report::refusal(error);
    Exit::NoAnswer
}

enum Failure {
    Capture(capture::CaptureError),
    Kernel(KernelError),
}

fn replay<'a>(
    args: &ReplayArgs,
    input: impl Read,
    offline: &'a Offline,
    judges: &Judges<'_>,
) -> Result<Summary<'a>, Failure> {
    let mut summary = Summary::new(&offline.policy);
    let mut failed = None;
    let mut clock = Clock::default();
    let read = capture::read(input, |frame| {
        let now_ns = clock.at(frame.time_ns);
        if args.received && !is_received(frame.bytes, &offline.addresses) {
            summary.left_out += 1;
            return ControlFlow::Continue(());
        }
        match judges.judge(&frame, now_ns, &mut summary) {
            Ok(verdict) => summary.add(&frame, verdict, args.format),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match (failed, read) {
        (Some(error), _) => Err(Failure::Kernel(error)),
        (None, Ok(_)) => Ok(summary),
        (None, Err(error)) => Err(Failure::Capture(error)),
    }
}

/// The time since the first frame that has one. It never runs backwards nor out of what buckets
/// can count, whatever the capture says.
#[derive(Debug, Default)]
struct Clock {
    latest: Option<u64>,
    now_ns: u64,
}

impl Clock {
    fn at(&mut self, time_ns: Option<u64>) -> u64 {
        if let Some(time_ns) = time_ns {
            let latest = *self.latest.get_or_insert(time_ns);
            let step = time_ns.saturating_sub(latest).min(LONGEST_STEP);
            self.latest = Some(latest.max(time_ns));
            self.now_ns = self.now_ns.saturating_add(step).min(LAST_NS);
        }
        self.now_ns
    }
}

struct Host<'a> {
    tables: &'a HostTables<'a>,
    limiter: HostLimiter,
}

struct Judges<'a> {
    host: Host<'a>,
    kernel: Option<Generation>,
}

impl Judges<'_> {
    fn judge(
        &self,
        frame: &Captured<'_>,
        now_ns: u64,
        summary: &mut Summary<'_>,
    ) -> Result<Verdict, KernelError> {
        let wire_len = usize::try_from(frame.wire_len).unwrap_or(usize::MAX);
        match &self.kernel {
            Some(_) if !(SHORTEST_FRAME..=MAX_FRAME).contains(&wire_len) => summary.on_host += 1,
            Some(generation) if wire_len > frame.bytes.len() => {
                summary.filled_up += 1;
                let mut whole = frame.bytes.to_vec();
                whole.resize(wire_len, 0);
                return generation.judge(&whole, now_ns);
            }
            Some(generation) => return generation.judge(frame.bytes, now_ns),
            None => {}
        }
        self.host.limiter.set_now_ns(now_ns);
        let packet = Frame::cut(frame.bytes, frame.wire_len);
        Ok(judge(&packet, self.host.tables, &self.host.limiter, &mut Silent))
    }
}

/// Whether a frame is for a host with these addresses: sent to one of them, or to a group.
fn is_received(bytes: &[u8], addresses: &[Addr]) -> bool {
    // The lowest bit of the first octet marks a group address (IEEE 802).
    if bytes.first().is_some_and(|first| first & 1 != 0) {
        return true;
    }
    destination(&Frame::new(bytes)).is_some_and(|addr| addresses.contains(&addr))
}

fn destination(frame: &Frame<'_>) -> Option<Addr> {
    let mut at = wire::ETHERTYPE_AT;
    let mut ethertype = frame.read::<2>(at)?.be16::<0>();
    while matches!(ethertype, wire::ETHERTYPE_VLAN | wire::ETHERTYPE_SERVICE_VLAN) {
        at = at.checked_add(wire::VLAN_TAG_LEN)?;
        ethertype = frame.read::<2>(at)?.be16::<0>();
    }
    // Behind the EtherType: 16 bytes into the IPv4 header, 24 into the IPv6 header.
    match ethertype {
        wire::ETHERTYPE_IPV4 => Some(Addr::V4(frame.read::<4>(at + 2 + 16)?.be32::<0>())),
        wire::ETHERTYPE_IPV6 => {
            let half = |at| frame.read::<8>(at).map(|half| half.be64::<0>());
            Some(Addr::V6([half(at + 2 + 24)?, half(at + 2 + 32)?]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_with_the_first_time_and_never_goes_back() {
        let mut clock = Clock::default();
        let epoch = 1_790_000_000_000_000_000;
        let times = [None, Some(epoch), Some(epoch + 5), None, Some(epoch + 2), Some(epoch + 7)];
        assert_eq!(times.map(|time| clock.at(time)), [0, 0, 5, 5, 5, 7]);
    }

    #[test]
    fn the_clock_goes_on_after_a_leap_and_stays_within_what_buckets_count() {
        let mut clock = Clock::default();
        let epoch = 1_790_000_000_000_000_000;
        assert_eq!(clock.at(Some(0)), 0);
        let leapt = clock.at(Some(epoch));
        assert_eq!(clock.at(Some(epoch + 9)), leapt + 9);
        for leap in 1..32 {
            clock.at(Some(u64::MAX / 32 * leap));
        }
        assert!(clock.at(Some(u64::MAX)) < (1 << 63) / bucket::TICKS_PER_NS);
    }
}
