//! `trainguard events`
#![expect(clippy::doc_markdown, reason = "clap shows these comments as they are")]

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Args;
use guard_common::verdict::{Action, Reason};

use super::ClientArgs;
use crate::{
    api::events::filter::{self, FilterValue, Source},
    output::Colour,
    policy::syntax::scalars::PortRange,
    report::events::EventsFormat,
};

const AFTER_HELP: &str = "\
Filters: several values of one flag are alternatives; different flags are combined with AND. A `!`
in front of a value excludes it; quote it for the shell: --source '!10.30.0.0/16'. Records of kind
`lost` report how many events were not recorded; they are shown whatever the filters are, unless
--kind '!lost' is given. Packets are sampled; the counters of `stats` are exact.

In a pipe, events are JSON lines that other subcommands read:
  trainguard events | trainguard replay --manifest cluster.yaml -
  trainguard events --reason not_allowed | trainguard test --record refused.test.yaml

Times are UTC. Exit codes: 0 done, also after an interrupt or when the reader closes the pipe; with
--missing-members 0 if no member is missing, 1 if some are; 2 error; 3 daemon not reachable";

/// `trainguard events`
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct EventsArgs {
    /// Follow new events, also across a restart of the daemon
    #[arg(short, long)]
    pub follow: bool,
    /// Start at this time: a duration ago (10m, 2h) or a time in UTC (14:05, 2026-01-31T14:05:00Z)
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<SystemTime>,
    /// Show only the last NUMBER of the stored events [default: all; with --follow 10]
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub last: Option<usize>,
    /// Output format [default: compact on a terminal, ndjson otherwise]
    #[arg(long, value_enum)]
    pub format: Option<EventsFormat>,
    /// When verdicts are coloured; NO_COLOR is respected
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub color: Colour,
    /// Only packets from this source: an address, a prefix, the name of a node, or `unknown` for
    /// addresses that are not in the manifest; may be repeated
    #[arg(long = "source", value_name = "SOURCE", value_parser = filter::source)]
    pub sources: Vec<FilterValue<Source>>,
    /// Only packets refused by this service; may be repeated
    #[arg(long = "service", value_name = "NAME", value_parser = filter::service)]
    pub services: Vec<FilterValue<String>>,
    /// Only packets refused for this reason; may be repeated
    #[arg(long = "reason", value_name = "REASON", value_parser = filter::reason)]
    pub reasons: Vec<FilterValue<Reason>>,
    /// Only packets with this verdict: drop or would-drop
    #[arg(long = "verdict", value_name = "VERDICT", value_parser = filter::verdict)]
    pub verdicts: Vec<FilterValue<Action>>,
    /// Only packets received on this interface, and changes of it; may be repeated
    #[arg(long = "interface", value_name = "NAME", value_parser = filter::interface)]
    pub interfaces: Vec<FilterValue<String>>,
    /// Only packets to these ports, such as tcp/9091 or udp/5000-5099; may be repeated
    #[arg(long = "port", value_name = "PORTS", value_parser = filter::port)]
    pub ports: Vec<FilterValue<PortRange>>,
    /// Only events of this kind: packet, policy, interface, audit (commands of users) or lost; may
    /// be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = filter::kind)]
    pub kinds: Vec<FilterValue<&'static str>>,
    /// Instead of events, list refused sources that behave like members missing from the manifest,
    /// each with the manifest lines that would admit it. Changes nothing
    #[arg(
        long,
        conflicts_with_all = [
            "follow", "since", "last", "sources", "services", "reasons", "verdicts", "interfaces",
            "ports", "kinds",
        ]
    )]
    pub missing_members: bool,
    /// The manifest to compare with [default: the daemon's]
    #[arg(long, value_name = "FILE", requires = "missing_members")]
    pub manifest: Option<PathBuf>,
    /// Options of the request to the daemon.
    #[command(flatten)]
    pub daemon: ClientArgs,
}

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// Parses a point in time.
pub(super) fn since(text: &str) -> Result<SystemTime, String> {
    since_at(text, SystemTime::now())
}

fn since_at(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let expected = || {
        "expected a duration (10m, 2h) or a time in UTC (14:05, 2026-01-31T14:05:00Z)".to_owned()
    };
    if let Ok(ago) = humantime::parse_duration(text) {
        let at = now.checked_sub(ago).filter(|at| *at >= SystemTime::UNIX_EPOCH);
        return at.ok_or_else(expected);
    }
    if let Ok(at) = humantime::parse_rfc3339(text) {
        return Ok(at);
    }
    let of_day = time_of_day(text).ok_or_else(expected)?;
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let midnight = since_epoch - since_epoch % DAY;
    let today = midnight + of_day;
    // A time of day later than now is that of yesterday.
    let at = if today > since_epoch { today.saturating_sub(DAY) } else { today };
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
}

/// Parses `HH:MM` or `HH:MM:SS`, and returns the seconds since midnight.
fn time_of_day(text: &str) -> Option<u64> {
    let mut seconds = 0;
    let mut parts = 0;
    for (part, limit) in text.split(':').zip([24, 60, 60]) {
        let two_digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = part.parse().ok().filter(|number| two_digits && *number < limit)?;
        seconds = seconds * 60 + number;
        parts += 1;
    }
    match (parts, text.split(':').count()) {
        (2, 2) => Some(seconds * 60),
        (3, 3) => Some(seconds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_durations_points_or_times_of_day() {
        let now = humantime::parse_rfc3339("2026-01-31T14:05:30Z").expect("a time");
        let is = |text: &str| {
            since_at(text, now).map(|at| humantime::format_rfc3339_seconds(at).to_string())
        };
        for (text, expected) in [
            ("10m", "2026-01-31T13:55:30Z"),
            ("14:05", "2026-01-31T14:05:00Z"),
            ("14:05:31", "2026-01-30T14:05:31Z"),
            ("23:59", "2026-01-30T23:59:00Z"),
            ("2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(is(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["", "10", "24:00", "1:00", "14:60", "14:05:30:00", "yesterday", "99999999y"] {
            assert!(is(bad).is_err(), "{bad}");
        }
    }
}
