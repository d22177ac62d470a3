//! `trainguard replay`: judges the frames of a capture, on the host or in the kernel.

use std::{
    cell::Cell,
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    path::Path,
};

use guard_common::{
    Addr, Observer, Packet, Reason, Silent, Tables as _, Verdict, bucket,
    flow::Parsed,
    judge,
    observe::Step,
    packet::{Fields as _, Frame},
    parse,
    tables::Setting,
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
    report::{
        self,
        replay::{Judged, Summary},
    },
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
    let mut length = None;
    let input: Box<dyn Read> = if args.capture == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        match File::open(&args.capture) {
            Ok(file) => {
                // A pipe with a name has no length.
                length = file.metadata().ok().map(|data| data.len()).filter(|length| *length > 0);
                Box::new(file)
            }
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
    let mut summary = Summary::new(&offline.loaded, &offline.policy, args.format);
    let progress = report::replay::progress(length, args.format);
    let result = replay(args, progress.wrap_read(input), &offline, &judges, &mut summary);
    progress.finish_and_clear();
    if summary.frames() > 0 {
        summary.finish();
    }
    match result {
        Err(Failure::Capture(error)) => {
            report::error(format_args!("`{}`: {error}", args.capture.display()));
            Exit::NoAnswer
        }
        Err(Failure::Kernel(error)) => refuse(&error),
        Ok(()) if summary.frames() == 0 => {
            report::error(if args.received && summary.left_out > 0 {
                "no frame of the capture is for this node"
            } else {
                "the capture has no frames"
            });
            Exit::NoAnswer
        }
        Ok(()) if summary.judged() == 0 => {
            report::error("the capture has cut every frame too short to be judged");
            Exit::NoAnswer
        }
        Ok(()) => Exit::Yes,
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

fn replay(
    args: &ReplayArgs,
    input: impl Read,
    offline: &Offline,
    judges: &Judges<'_>,
    summary: &mut Summary<'_>,
) -> Result<(), Failure> {
    let mut failed = None;
    let mut clock = Clock::default();
    let read = capture::read(input, |frame| {
        let now_ns = clock.at(frame.time_ns);
        if args.received && !is_received(&frame, &offline.addresses) {
            summary.left_out += 1;
            return ControlFlow::Continue(());
        }
        match judges.judge(&frame, now_ns, summary) {
            Ok(found) => summary.add(&frame, &found),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match (failed, read) {
        (Some(error), _) => Err(Failure::Kernel(error)),
        (None, Ok(_)) => Ok(()),
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
    ) -> Result<Judged, KernelError> {
        let wire_len = usize::try_from(frame.wire_len).unwrap_or(usize::MAX);
        let kept = Kept::of(frame);
        let verdict = match &self.kernel {
            Some(_) if !(SHORTEST_FRAME..=MAX_FRAME).contains(&wire_len) => {
                summary.on_host += 1;
                None
            }
            Some(generation) if wire_len > frame.bytes.len() => {
                summary.filled_up += 1;
                let mut whole = frame.bytes.to_vec();
                whole.resize(wire_len, 0);
                Some(generation.judge(&whole, now_ns)?)
            }
            Some(generation) => Some(generation.judge(frame.bytes, now_ns)?),
            None => None,
        };
        let (verdict, parsed) = if let Some(verdict) = verdict {
            (verdict, parse(&kept, &mut Silent).parsed().ok())
        } else {
            self.host.limiter.set_now_ns(now_ns);
            let mut noted = Noted::default();
            let verdict = judge(&kept, self.host.tables, &self.host.limiter, &mut noted);
            (verdict, noted.parsed)
        };
        let truncated = kept.is_short.get() && self.depends_on_more(verdict, parsed.as_ref());
        Ok(Judged { verdict, parsed, truncated })
    }

    /// Whether a verdict on what was kept of a frame could be another one on all of it, when the
    /// decision asked for bytes that were not kept.
    fn depends_on_more(&self, verdict: Verdict, parsed: Option<&Parsed>) -> bool {
        if parsed.is_none() {
            return true;
        }
        // All but the flags of TCP was there.
        let bit = verdict.service.map_or(0, |slot| 1_u64.wrapping_shl(slot.into()));
        let is = |setting| self.host.tables.setting(setting) & bit != 0;
        match verdict.reason {
            Reason::NotIp
            | Reason::Unguarded
            | Reason::Fragment
            | Reason::Tunnel
            | Reason::Martian => false,
            Reason::NotAllowed => is(Setting::NewConnections),
            Reason::Allowed => is(Setting::NewConnections) || is(Setting::LimitsConnections),
            _ => true,
        }
    }
}

/// What a capture kept of a frame; knows when more was asked for than that.
struct Kept<'a> {
    frame: Frame<'a>,
    /// Whether a read failed that the whole frame would have answered.
    is_short: Cell<bool>,
}

impl<'a> Kept<'a> {
    fn of(frame: &Captured<'a>) -> Self {
        Self { frame: Frame::cut(frame.bytes, frame.wire_len), is_short: Cell::new(false) }
    }
}

impl<'a> Packet for Kept<'a> {
    type Bytes<const N: usize> = <Frame<'a> as Packet>::Bytes<N>;
    const KNOWN_OFFSETS_ARE_CHEAP: bool = <Frame<'a> as Packet>::KNOWN_OFFSETS_ARE_CHEAP;

    fn len(&self) -> u32 {
        self.frame.len()
    }

    fn read<const N: usize>(&self, at: u32) -> Option<Self::Bytes<N>> {
        let read = self.frame.read(at);
        if read.is_none() {
            let end = u32::try_from(N).ok().and_then(|len| at.checked_add(len));
            if end.is_some_and(|end| self.frame.reaches(end)) {
                self.is_short.set(true);
            }
        }
        read
    }
}

/// Remembers what a frame was read as.
#[derive(Debug, Default)]
struct Noted {
    parsed: Option<Parsed>,
}

impl Observer for Noted {
    fn note(&mut self, step: Step) {
        if let Step::Parsed(parsed) = step {
            self.parsed = Some(parsed);
        }
    }
}

/// Whether a frame is for a host with these addresses: sent to one of them, or to a group.
/// A frame that is cut in front of its destination is: then it is told that it cannot be judged.
fn is_received(frame: &Captured<'_>, addresses: &[Addr]) -> bool {
    // The lowest bit of the first octet marks a group address (IEEE 802).
    if frame.bytes.first().is_some_and(|first| first & 1 != 0) {
        return true;
    }
    let kept = Kept::of(frame);
    let destination = destination(&kept);
    kept.is_short.get() || destination.is_some_and(|addr| addresses.contains(&addr))
}

fn destination(frame: &Kept<'_>) -> Option<Addr> {
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
