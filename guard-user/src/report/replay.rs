//! The result of a replay: a JSON line for each frame, or a summary.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    time::{Duration, UNIX_EPOCH},
};

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;

use crate::{
    capture::Captured,
    output::{self, Format, Lines},
    policy::{Loaded, compiled::CompiledPolicy, resolve::provenance::KnownAddress},
    text::counted,
};
use guard_common::{
    Addr,
    flow::Parsed,
    layout::counters::{self, COUNTERS_PER_INTERFACE},
    verdict::{Action, MAX_SERVICES, Verdict},
};

/// Maximum number of refused frames and of sources in the summary.
const MAX_SHOWN: usize = 10;
/// Maximum number of refused sources that are counted separately.
const MAX_SOURCES: usize = 1 << 16;

/// A verdict as a JSON line. The first four fields are a stable interface.
#[derive(Serialize)]
struct Line<'a> {
    frame: u64,
    action: &'static str,
    reason: &'static str,
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    would_drop: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
}

/// The result of evaluating a frame.
#[derive(Debug, Clone, Copy)]
pub struct Evaluated {
    /// The verdict on the captured part of the frame.
    pub verdict: Verdict,
    /// The parsed headers; none if they cannot be parsed.
    pub parsed: Option<Parsed>,
    /// Whether the whole frame could get another verdict.
    pub truncated: bool,
    /// The host evaluated the frame, because the kernel does not accept its length.
    pub on_host: bool,
    /// The missing bytes were filled with zeros for the kernel.
    pub filled_up: bool,
}

/// Number, bytes and time range of frames.
#[derive(Debug, Clone, Copy, Default)]
struct FrameTally {
    frames: u64,
    bytes: u64,
    times: Option<(u64, u64)>,
}

impl FrameTally {
    fn add(&mut self, frame: &Captured<'_>) {
        self.frames += 1;
        self.bytes += u64::from(frame.wire_len);
        if let Some(time) = frame.time_ns {
            let (first, last) = self.times.unwrap_or((time, time));
            self.times = Some((first.min(time), last.max(time)));
        }
    }
}

/// The summary of a replay.
#[derive(Debug)]
pub struct Summary<'a> {
    loaded: &'a Loaded,
    policy: &'a CompiledPolicy,
    format: Format,
    /// Name of the service in each slot.
    names: Vec<Option<&'a str>>,
    /// Frames by the index of the verdict's counter in the kernel.
    verdicts: Vec<FrameTally>,
    all: FrameTally,
    /// Number of frames that the capture cut too short to be evaluated.
    truncated: u64,
    refused: Vec<String>,
    sources: RefusedSources,
    lines: Lines,
    /// Number of frames that were not for this node.
    pub left_out: u64,
    /// Number of evaluated frames from other hosts that were sent to addresses of other hosts.
    pub elsewhere: u64,
    /// Number of frames that the host evaluated, because the kernel does not accept their length.
    on_host: u64,
    /// Number of cut frames that were filled with zeros for the kernel.
    filled_up: u64,
}

impl<'a> Summary<'a> {
    /// Creates an empty summary.
    pub fn new(loaded: &'a Loaded, policy: &'a CompiledPolicy, format: Format) -> Self {
        let name =
            |slot| policy.name_of_service(&Verdict::of_service(ANY_VERDICT.0, ANY_VERDICT.1, slot));
        Self {
            loaded,
            policy,
            format,
            names: (0..MAX_SERVICES).map(name).collect(),
            verdicts: vec![FrameTally::default(); COUNTERS_PER_INTERFACE as usize],
            all: FrameTally::default(),
            truncated: 0,
            refused: Vec::new(),
            sources: RefusedSources::default(),
            lines: Lines::new(),
            left_out: 0,
            elsewhere: 0,
            on_host: 0,
            filled_up: 0,
        }
    }

    /// Returns the number of frames.
    pub fn frames(&self) -> u64 {
        self.all.frames
    }

    /// Returns the number of frames that could be evaluated.
    pub fn evaluated(&self) -> u64 {
        self.all.frames - self.truncated
    }

    /// Adds a verdict, and prints it with `--format json`. Breaks if standard output is closed.
    pub fn add(&mut self, frame: &Captured<'_>, evaluated: &Evaluated) -> ControlFlow<()> {
        let Evaluated { verdict, parsed, truncated, on_host, filled_up } = *evaluated;
        self.all.add(frame);
        self.on_host += u64::from(on_host);
        self.filled_up += u64::from(filled_up);
        if self.format == Format::Json {
            let line = self.line(frame, evaluated);
            if !self.lines.add(&line) {
                return ControlFlow::Break(());
            }
        }
        if truncated {
            self.truncated += 1;
            return ControlFlow::Continue(());
        }
        let counter = usize::try_from(counters::counter(verdict)).unwrap_or(usize::MAX);
        if let Some(tally) = self.verdicts.get_mut(counter) {
            tally.add(frame);
        }
        if verdict.action != Action::Pass && self.format == Format::Text {
            if self.refused.len() < MAX_SHOWN {
                let refused = self.describe(frame, verdict, parsed);
                self.refused.push(refused);
            }
            if let Some(addr) = parsed.and_then(source) {
                self.sources.add(addr, verdict.service);
            }
        }
        ControlFlow::Continue(())
    }

    fn name(&self, verdict: Verdict) -> Option<&'a str> {
        self.names.get(usize::from(verdict.service?)).copied().flatten()
    }

    fn line(&self, frame: &Captured<'_>, evaluated: &Evaluated) -> Line<'a> {
        let Evaluated { verdict, parsed, truncated, .. } = *evaluated;
        let flow = match parsed {
            Some(Parsed::Flow(flow)) => Some(flow),
            _ => None,
        };
        Line {
            frame: frame.number,
            action: if verdict.passes() { "pass" } else { "drop" },
            reason: verdict.reason.name(),
            service: self.name(verdict),
            would_drop: verdict.action == Action::WouldDrop,
            truncated,
            time_ns: frame.time_ns,
            source: parsed.and_then(source).map(IpAddr::from),
            transport: flow.map(|flow| flow.transport.name()),
            destination_port: flow.map(|flow| flow.port),
        }
    }

    /// Describes a refused frame, with the position of the service that refused it.
    fn describe(&self, frame: &Captured<'_>, verdict: Verdict, parsed: Option<Parsed>) -> String {
        let by = self.name(verdict).map(|name| format!(" by {name}")).unwrap_or_default();
        let service = verdict.service.and_then(|slot| self.policy.service_in(slot));
        let origin = service
            .and_then(|service| self.loaded.origin(&service.label))
            .map(|origin| format!(" ({origin})"))
            .unwrap_or_default();
        format!(
            "frame {}: {}: {}, {}{by}{origin}",
            frame.number,
            describe(parsed),
            action(verdict.action),
            verdict.reason.name(),
        )
    }

    /// Prints the summary and the notes.
    pub fn finish(&mut self) {
        self.lines.flush();
        if self.format == Format::Text {
            output::answer(self.text());
        }
        for (count, what) in [
            (self.on_host, "too short or too long for the kernel: evaluated on the host"),
            (self.filled_up, "truncated by the capture: padded with zeros for the kernel"),
        ] {
            if count > 0 {
                output::message(format_args!("note: {} {what}", counted(count, "frame")));
            }
        }
        if self.elsewhere > 0 {
            let were = if self.elsewhere == 1 { "was" } else { "were" };
            output::message(format_args!(
                "note: {} of other hosts {were} sent to addresses that the manifest does not give to \
                 `{}`; offline every frame is treated as for this node (`--received` leaves them \
                 out, `--own` names further addresses)",
                counted(self.elsewhere, "frame"),
                self.policy.node
            ));
        }
        if self.format == Format::Json && self.truncated > 0 {
            output::message(format_args!("note: {}", too_short(self.truncated)));
        }
    }

    fn text(&self) -> String {
        let mut rows: Vec<(&str, &str, &str, &FrameTally)> = (0..)
            .zip(&self.verdicts)
            .filter(|(_, tally)| tally.frames > 0)
            .filter_map(|(counter, tally)| {
                let (_, verdict) = counters::counter_meaning(counter)?;
                let service = self.name(verdict).unwrap_or("-");
                Some((service, action(verdict.action), verdict.reason.name(), tally))
            })
            .collect();
        rows.sort_by_key(|(service, action, reason, _)| (*service, *action, *reason));
        let mut table = Table::new();
        table.load_style(NOTHING).set_header([
            "service", "action", "reason", "frames", "share", "bytes", "first", "last",
        ]);
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let time = |time: Option<u64>| match (time, self.all.times) {
            (Some(time), Some((start, _))) => seconds(time.saturating_sub(start)),
            _ => "-".to_owned(),
        };
        for (service, action, reason, tally) in &rows {
            table.add_row([
                *service,
                action,
                reason,
                &tally.frames.to_string(),
                &share(tally.frames, self.evaluated()),
                &tally.bytes.to_string(),
                &time(tally.times.map(|(first, _)| first)),
                &time(tally.times.map(|(_, last)| last)),
            ]);
        }
        let mut lines: Vec<String> =
            table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
        if !self.refused.is_empty() {
            lines.push("first refused frames:".to_owned());
            lines.extend(self.refused.iter().map(|frame| format!("  {frame}")));
        }
        lines.extend(self.top());
        if self.truncated > 0 {
            lines.push(too_short(self.truncated));
        }
        let of = |wanted: Action| -> u64 {
            let rows = rows.iter().filter(|(_, action, ..)| *action == self::action(wanted));
            rows.map(|(.., tally)| tally.frames).sum()
        };
        let mut counts =
            format!("{}, {} dropped", counted(self.frames(), "frame"), of(Action::Drop));
        let further = [
            (of(Action::WouldDrop), "would be dropped"),
            (self.truncated, "not evaluated"),
            (self.left_out, "not for this node left out"),
        ];
        let further = further.iter().filter(|(count, _)| *count > 0);
        counts.extend(further.map(|(count, what)| format!(", {count} {what}")));
        let time = self.all.times.map(|(first, last)| {
            let start = UNIX_EPOCH + Duration::from_nanos(first);
            let start = humantime::format_rfc3339_millis(start);
            format!(" in {} s from {start}", seconds(last - first))
        });
        lines.push(format!(
            "as node `{}`: {counts}; {}{}",
            self.policy.node,
            counted(self.all.bytes, "byte"),
            time.unwrap_or_default()
        ));
        lines.join("\n")
    }

    /// Returns lines about the most refused sources.
    fn top(&self) -> Vec<String> {
        let top = self.sources.top();
        if top.is_empty() {
            return Vec::new();
        }
        let mut lines = vec!["most refused sources:".to_owned()];
        for (addr, refused) in &top {
            let services: Vec<&str> = (0..)
                .zip(&self.names)
                .filter(|(slot, _)| refused.services >> slot & 1 != 0)
                .filter_map(|(_, name)| *name)
                .collect();
            let at = match services.as_slice() {
                [] => String::new(),
                names => format!(" by {}", names.join(", ")),
            };
            lines.push(format!(
                "  {}: {}{at}; {}",
                IpAddr::from(*addr),
                counted(refused.frames, "frame"),
                KnownAddress::of(&self.loaded.cluster, addr).describe(&self.loaded.report.sources)
            ));
        }
        let more = self.sources.seen.len() - top.len();
        if self.sources.discarded > 0 {
            lines.push(format!(
                "  and more than {MAX_SOURCES} others; to limit memory, the rarest were discarded \
                 during the replay, so a source may have up to {} more",
                counted(self.sources.discarded, "frame")
            ));
        } else if more > 0 {
            lines.push(format!("  and {}", counted(u64::try_from(more).unwrap_or(0), "other")));
        }
        lines
    }
}

/// Any verdict of a service, to look up the service's name.
const ANY_VERDICT: (Action, guard_common::Reason) = (Action::Pass, guard_common::Reason::Allowed);

/// The refused sources, in bounded memory.
#[derive(Debug, Default)]
struct RefusedSources {
    seen: HashMap<Addr, SourceTally>,
    /// Maximum number of frames that a source may have in addition to its count.
    discarded: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct SourceTally {
    frames: u64,
    /// Bit `n` is set if the service in slot `n` refused it.
    services: u64,
}

impl RefusedSources {
    fn add(&mut self, addr: Addr, service: Option<u8>) {
        if self.seen.len() >= MAX_SOURCES && !self.seen.contains_key(&addr) {
            self.discard_rarest();
        }
        let of = self.seen.entry(addr).or_default();
        of.frames += 1;
        of.services |= service.map_or(0, |slot| 1_u64.wrapping_shl(slot.into()));
    }

    /// Removes at least half of the sources, those with the fewest frames. A source loses at most
    /// the highest count among the removed ones.
    fn discard_rarest(&mut self) {
        let mut counts: Vec<u64> = self.seen.values().map(|of| of.frames).collect();
        let middle = counts.len() / 2;
        let (_, limit, _) = counts.select_nth_unstable(middle);
        let limit = *limit;
        self.seen.retain(|_, of| of.frames > limit);
        self.discarded += limit;
    }

    fn top(&self) -> Vec<(Addr, SourceTally)> {
        let mut all: Vec<(Addr, SourceTally)> = self.seen.iter().map(|(a, of)| (*a, *of)).collect();
        all.sort_unstable_by_key(|(addr, of)| (std::cmp::Reverse(of.frames), *addr));
        all.truncate(MAX_SHOWN);
        all
    }
}

/// Returns the name of an action in tables.
pub fn action(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::WouldDrop => "would drop",
    }
}

fn too_short(frames: u64) -> String {
    let are = if frames == 1 { "is" } else { "are" };
    format!(
        "{} {are} too short in the capture to be evaluated; raise the snap length (tcpdump -s 0)",
        counted(frames, "frame")
    )
}

/// Formats nanoseconds as seconds, with milliseconds.
fn seconds(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000_000, ns / 1_000_000 % 1000)
}

fn share(part: u64, whole: u64) -> String {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{}%", permille / 10, permille % 10)
}

/// Returns the source address of a packet.
pub fn source(parsed: Parsed) -> Option<Addr> {
    match parsed {
        Parsed::Flow(flow) => Some(flow.source),
        Parsed::LaterFragment { source, .. } | Parsed::Portless { source, .. } => Some(source),
        Parsed::NotIp => None,
    }
}

fn describe(parsed: Option<Parsed>) -> String {
    match parsed {
        Some(Parsed::Flow(flow)) => {
            let source = SocketAddr::new(IpAddr::from(flow.source), flow.source_port);
            format!("{source} to {}/{}", flow.transport.name(), flow.port)
        }
        Some(Parsed::LaterFragment { source, protocol }) => {
            format!("later fragment of IP protocol {protocol} from {}", IpAddr::from(source))
        }
        Some(Parsed::Portless { source, protocol }) => {
            format!("IP protocol {protocol} from {}", IpAddr::from(source))
        }
        Some(Parsed::NotIp) => "not IP".to_owned(),
        None => "not readable".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_sources_survive_a_flood_of_forged_ones_in_bounded_memory() {
        let mut refused = RefusedSources::default();
        let frequent = Addr::V4(1);
        for forged in 0..4_u32 << 16 {
            refused.add(Addr::V4(0x0a00_0000 | forged), None);
            if forged % 4 == 0 {
                refused.add(frequent, Some(3));
            }
            assert!(refused.seen.len() <= MAX_SOURCES);
        }
        let top = refused.top();
        let (addr, of) = top.first().expect("a source");
        assert_eq!((*addr, of.services), (frequent, 1 << 3));
        let sent = 1 << 16;
        assert!(of.frames <= sent && of.frames + refused.discarded >= sent, "{refused:?}");
        assert!(refused.discarded > 0);
    }

    #[test]
    fn shares_and_seconds_are_rounded_down() {
        assert_eq!(share(1, 3), "33.3%");
        assert_eq!(share(0, 0), "0.0%");
        assert_eq!(share(u64::MAX, u64::MAX), "100.0%");
        assert_eq!(seconds(61_002_999_999), "61.002");
    }
}
