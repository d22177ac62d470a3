//! Evaluates the frames of `replay` and `test`, on the host or with the real program in the kernel.
//!
//! Decision: `docs/decisions/0030-verdicts-on-cut-frames.md`.

use std::{cell::Cell, rc::Rc};

use guard_common::{
    NoTrace, Observer, Packet, Reason, Tables as _, Verdict, bucket, evaluate, flow::Parsed,
    observe::Step, packet::Frame, parse, stack::Offline, tables::Setting,
};

use crate::{
    bpf::loader::{Generation, MIN_FRAME_LEN},
    capture::Captured,
    policy::{
        compiled::{CompiledPolicy, HostTables},
        limiter::HostLimiter,
    },
    report::replay::Evaluated,
    system_error::SystemError,
};

/// Key of the hashed buckets. It need not be secret: the buckets exist only during the replay.
const KEY: [u64; 2] = [0x7472_6169_6e67, 0x7561_7264];
/// Maximum length in bytes of a frame for the kernel, whose own limit is only slightly higher: the
/// longest IPv4 packet after an Ethernet header and two VLAN tags.
const MAX_FRAME: usize = 14 + 2 * 4 + 65_535;
/// Maximum step of the clock, in nanoseconds; every bucket is full again after it.
const LONGEST_STEP: u64 = bucket::MAX_TICKS / bucket::TICKS_PER_NS;
/// Maximum of the clock, in nanoseconds: buckets count in ticks below 2^63.
pub(crate) const LAST_NS: u64 = (1 << 63) / bucket::TICKS_PER_NS - 1;

/// Time in nanoseconds since the first frame with a timestamp. It never runs backwards and never
/// exceeds `LAST_NS`, whatever the timestamps of the capture are.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    latest: Option<u64>,
    now_ns: u64,
}

impl Clock {
    pub(crate) fn at(&mut self, time_ns: Option<u64>) -> u64 {
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

/// Evaluates frames on the host or in the kernel, starting with full buckets.
pub(crate) struct Backends<'a> {
    host: Host<'a>,
    stack: Offline,
    kernel: Option<Rc<Generation>>,
}

/// Loads a policy into the kernel for test runs of the program.
pub(crate) fn in_kernel(policy: &CompiledPolicy) -> Result<Rc<Generation>, SystemError> {
    Generation::for_tests(policy, KEY).map(Rc::new)
}

impl<'a> Backends<'a> {
    /// Evaluates with `kernel` if there is one, otherwise on the host.
    pub(crate) fn new(tables: &'a HostTables<'a>, kernel: Option<Rc<Generation>>) -> Self {
        let host = Host { tables, limiter: HostLimiter::new(KEY) };
        Self { host, stack: Offline::default(), kernel }
    }

    /// Evaluates as if the node only forwarded every frame, always on the host: the kernel would look
    /// up the routes of this machine.
    pub(crate) fn forwarded(tables: &'a HostTables<'a>) -> Self {
        Self { stack: Offline { forwards: true }, ..Self::new(tables, None) }
    }

    pub(crate) fn evaluate(
        &self,
        frame: &Captured<'_>,
        now_ns: u64,
    ) -> Result<Evaluated, SystemError> {
        let (mut on_host, mut filled_up) = (false, false);
        let wire_len = usize::try_from(frame.wire_len).unwrap_or(usize::MAX);
        let kept = CapturedBytes::of(frame);
        let verdict = match &self.kernel {
            Some(_) if !(MIN_FRAME_LEN..=MAX_FRAME).contains(&wire_len) => {
                on_host = true;
                None
            }
            Some(generation) if wire_len > frame.bytes.len() => {
                filled_up = true;
                let mut whole = frame.bytes.to_vec();
                whole.resize(wire_len, 0);
                Some(generation.evaluate(&whole, now_ns)?)
            }
            Some(generation) => Some(generation.evaluate(frame.bytes, now_ns)?),
            None => None,
        };
        let (verdict, parsed) = if let Some(verdict) = verdict {
            (verdict, parse(&kept, &mut NoTrace).parsed().ok())
        } else {
            self.host.limiter.set_now_ns(now_ns);
            let mut recorder = ParsedRecorder::default();
            let stack = self.stack;
            let verdict =
                evaluate(&kept, self.host.tables, &stack, &self.host.limiter, &mut recorder);
            (verdict, recorder.parsed)
        };
        let truncated = kept.is_short.get() && self.depends_on_more(verdict, parsed.as_ref());
        Ok(Evaluated { verdict, parsed, truncated, on_host, filled_up })
    }

    /// Reports whether the whole frame could get another verdict than its captured part, given that
    /// the decision tried to read bytes that were not captured.
    fn depends_on_more(&self, verdict: Verdict, parsed: Option<&Parsed>) -> bool {
        if parsed.is_none() {
            return true;
        }
        // Everything except the TCP flags was captured.
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

/// The captured bytes of a frame. Records reads beyond them that the whole frame would satisfy.
pub(crate) struct CapturedBytes<'a> {
    frame: Frame<'a>,
    /// Whether a read failed that would have succeeded on the whole frame.
    pub(crate) is_short: Cell<bool>,
}

impl<'a> CapturedBytes<'a> {
    pub(crate) fn of(frame: &Captured<'a>) -> Self {
        Self { frame: Frame::cut(frame.bytes, frame.wire_len), is_short: Cell::new(false) }
    }
}

impl<'a> Packet for CapturedBytes<'a> {
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

/// Remembers the parsed headers of a frame.
#[derive(Debug, Default)]
struct ParsedRecorder {
    parsed: Option<Parsed>,
}

impl Observer for ParsedRecorder {
    fn note(&mut self, step: Step) {
        if let Step::Parsed(parsed) = step {
            self.parsed = Some(parsed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_at_the_first_timestamp_and_never_goes_back() {
        let mut clock = Clock::default();
        let epoch = 1_790_000_000_000_000_000;
        let times = [None, Some(epoch), Some(epoch + 5), None, Some(epoch + 2), Some(epoch + 7)];
        assert_eq!(times.map(|time| clock.at(time)), [0, 0, 5, 5, 5, 7]);
    }

    #[test]
    fn the_clock_continues_after_a_jump_and_stays_within_the_range_of_buckets() {
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
