//! The statistics in a pipe: rows of text, or one JSON document per line.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

use super::{
    document::Document,
    model::Reading,
    number_format,
    rates::{self, BYTES, Change, DROPPED, PASSED, Rates, WOULD_DROP},
    signals,
    terminal::is_closed,
};
use crate::{api::stats::Stats, exit::Exit, output};

/// Number of rows between two headings.
const PAGE: usize = 20;

/// Output format of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// Rows with fixed columns.
    Rows,
    /// A JSON document per line.
    Lines,
    /// One JSON document at the end, with the rates over the whole time.
    Document,
}

/// What to write, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Output format.
    pub form: OutputFormat,
    /// Time between two readings.
    pub interval: Duration,
    /// Number of readings; none to continue until the reader closes the pipe or the user
    /// interrupts.
    pub count: Option<u64>,
}

/// Reads and writes as planned, beginning with a reading that was made just now. Readings without
/// statistics are not counted.
pub fn run(first: Reading, plan: Plan, mut read: impl FnMut() -> Reading) -> Exit {
    if let Err(error) = signals::end_on_interrupt() {
        output::error(format_args!("installing the signal handler: {error}"));
        return Exit::NoAnswer;
    }
    let mut rows = Rows::default();
    let mut gone = first.trouble().is_some();
    let mut reading = first;
    let mut begun = Instant::now();
    let mut before: Option<(Stats, Instant)> = None;
    let mut done = 0;
    loop {
        let now = Instant::now();
        note_change(&reading, &mut gone);
        if let Reading::Answered(stats) | Reading::Pinned(stats, _) = reading {
            let rates = before.as_ref().map_or_else(Rates::default, |(before, then)| {
                Rates::between(before, &stats, now.duration_since(*then))
            });
            done += 1;
            let last = plan.count == Some(done);
            let written = match plan.form {
                OutputFormat::Rows => rows.of(&stats, &rates).iter().all(output::answer),
                OutputFormat::Lines => output::answer_sample(&Document::new(&stats, &rates)),
                OutputFormat::Document => {
                    !last || output::answer_sample(&Document::new(&stats, &rates))
                }
            };
            if !written || last {
                return Exit::Yes;
            }
            // A single document has the rates over the whole time, the others those since the
            // previous one.
            if plan.form != OutputFormat::Document || before.is_none() {
                before = Some((*stats, now));
            }
        }
        begun = (begun + plan.interval).max(Instant::now());
        if !wait_until(begun) {
            return Exit::Yes;
        }
        reading = read();
    }
}

/// Waits until a time; returns false if the reader closes the pipe first.
fn wait_until(until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        // Rounded up, so that the last part of a millisecond does not become a busy loop.
        let milliseconds = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        if is_closed(PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)) {
            return false;
        }
    }
}

/// Prints one note when the daemon stops responding, and one when it responds again.
fn note_change(reading: &Reading, gone: &mut bool) {
    let now = reading.trouble();
    match now {
        Some(why) if !*gone => {
            let what = match reading {
                Reading::Pinned(..) => "reading the pinned maps instead, without top sources",
                _ => "waiting for the daemon",
            };
            output::message(format_args!("note: {why}"));
            output::message(format_args!("note: {what}"));
        }
        None if *gone => output::message("note: the daemon answers again"),
        _ => {}
    }
    *gone = now.is_some();
}

/// Rows, with repeated headings.
#[derive(Debug, Default)]
struct Rows {
    written: usize,
}

impl Rows {
    /// Returns a reading's rows: the interfaces, and the reasons for which frames were refused.
    fn of(&mut self, stats: &Stats, rates: &Rates) -> Vec<String> {
        let mut lines = Vec::new();
        let time = word(&stats.time);
        for row in &stats.interfaces {
            let change = rates.interface(row);
            let picked = [PASSED, DROPPED, WOULD_DROP, BYTES + PASSED, BYTES + DROPPED];
            let numbers = numbers(&change, &rates::interface(row), picked);
            let words = [&time, "interface", &word(&row.name)];
            self.add(words, unit(&change, rates), &numbers, &mut lines);
        }
        for (name, row) in &stats.reasons {
            // The other frames of the reason passed.
            let passed = row.packets.saturating_sub(row.dropped).saturating_sub(row.would_drop);
            let change = match rates.reason(name) {
                Change::Rates([all, dropped, would, _]) => {
                    Change::Rates([(all - dropped - would).max(0.0), dropped, would])
                }
                Change::Restarted => Change::Restarted,
                Change::New => Change::New,
            };
            let refused = match change {
                Change::Rates([_, dropped, would]) => dropped + would > 0.0,
                Change::New | Change::Restarted => row.dropped + row.would_drop > 0,
            };
            if refused {
                let counts = [passed, row.dropped, row.would_drop];
                // Bytes are counted by reason, not by action.
                let numbers = numbers(&change, &counts, [0, 1, 2, usize::MAX, usize::MAX]);
                let words = [&time, "reason", &word(name)];
                self.add(words, unit(&change, rates), &numbers, &mut lines);
            }
        }
        lines
    }

    fn add(
        &mut self,
        words: [&str; 3],
        unit: &str,
        numbers: &[String; 5],
        lines: &mut Vec<String>,
    ) {
        if self.written.is_multiple_of(PAGE) {
            let heads = ["PASSED", "DROPPED", "WOULD_DROP", "PASSED_BYTES", "DROPPED_BYTES"];
            lines.push(line(["TIME", "KIND", "NAME"], "UNIT", &heads.map(str::to_owned)));
        }
        self.written += 1;
        lines.push(line(words, unit, numbers));
    }
}

fn line([time, kind, name]: [&str; 3], unit: &str, numbers: &[String; 5]) -> String {
    let [passed, dropped, would, passed_bytes, dropped_bytes] = numbers;
    format!(
        "{time:<24} {kind:<9} {name:<16} {unit:<9} {passed:>12} {dropped:>12} {would:>12} \
         {passed_bytes:>15} {dropped_bytes:>15}"
    )
}

/// Returns the unit of a row: increments per second, or totals in the first reading and for
/// counters that were reset.
fn unit<const N: usize>(change: &Change<N>, rates: &Rates) -> &'static str {
    match change {
        Change::Rates(_) => "/s",
        Change::Restarted => "restarted",
        // The row appeared between two readings.
        Change::New if rates.span.is_some() => "new",
        Change::New => "total",
    }
}

/// Formats five of the numbers; a dash for a missing one.
fn numbers<const N: usize>(
    change: &Change<N>,
    counts: &[u64; N],
    picked: [usize; 5],
) -> [String; 5] {
    picked.map(|index| match change {
        Change::Rates(rates) => rates.get(index).map_or_else(dash, |rate| format!("{rate:.1}")),
        _ => counts.get(index).map_or_else(dash, u64::to_string),
    })
}

fn dash() -> String {
    "-".to_owned()
}

/// Formats a foreign text as one word of a row.
fn word(raw: &str) -> String {
    let shown = number_format::name(raw, false);
    if shown.is_empty() {
        return dash();
    }
    let blank = |c: char| c.is_whitespace();
    shown.chars().map(|c| if blank(c) { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::stats::{InterfaceStats, ReasonStats};

    fn stats(dropped: u64) -> Stats {
        let reason = ReasonStats { packets: dropped, dropped, ..ReasonStats::default() };
        let interface =
            InterfaceStats { name: "eth0".to_owned(), dropped, ..InterfaceStats::default() };
        Stats {
            time: "2026-01-02T03:04:05.678Z".to_owned(),
            interfaces: vec![interface],
            reasons: [
                ("allowed".to_owned(), ReasonStats::default()),
                ("not_allowed".to_owned(), reason),
            ]
            .into(),
            ..Stats::default()
        }
    }

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn totals_come_first_and_rates_after_them() {
        let mut rows = Rows::default();
        let lines = rows.of(&stats(10), &Rates::default());
        assert_eq!(lines.len(), 3, "{lines:?}");
        let heads = words(&lines[0]);
        assert_eq!(heads.len(), 9);
        let first = words(&lines[1]);
        assert_eq!(first[1..], ["interface", "eth0", "total", "0", "10", "0", "0", "0"]);
        assert_eq!(words(&lines[2])[1..6], ["reason", "not_allowed", "total", "0", "10"]);
        let rates = Rates::between(&stats(10), &stats(30), Duration::from_secs(2));
        let lines = rows.of(&stats(30), &rates);
        assert_eq!(words(&lines[0])[3..6], ["/s", "0.0", "10.0"]);
        assert_eq!(words(&lines[1])[1..6], ["reason", "not_allowed", "/s", "0.0", "10.0"]);
        let rates = Rates::between(&stats(30), &stats(5), Duration::from_secs(2));
        let lines = rows.of(&stats(5), &rates);
        assert_eq!(words(&lines[0])[3..6], ["restarted", "0", "5"]);
        let rates = Rates::between(&stats(5), &stats(5), Duration::from_secs(2));
        assert_eq!(rows.of(&stats(5), &rates).len(), 1, "a reason without new refusals has no row");
    }

    #[test]
    fn a_heading_comes_every_twenty_rows_and_columns_stay_in_place() {
        let mut rows = Rows::default();
        let mut lines = Vec::new();
        for _ in 0..21 {
            lines.extend(rows.of(&stats(0), &Rates::default()));
        }
        let heads = lines.iter().enumerate().filter(|(_, line)| line.starts_with("TIME"));
        assert_eq!(heads.map(|(at, _)| at).collect::<Vec<_>>(), [0, 21]);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{lines:#?}");
    }

    #[test]
    fn a_name_is_one_word() {
        assert_eq!(word("a b\u{1b}[2J\nc"), "a_b\\u{1b}[2J\\u{a}c");
        assert_eq!(word(""), "-");
    }
}
