//! Intervals and time limits of the daemon and of the commands that talk to it.
//!
//! A node runs with the defaults. Hidden options shorten them for tests, which would otherwise spend
//! most of their time waiting.

use std::{str::FromStr, time::Duration};

use crate::api::{client::COMMAND_TIMEOUT, control::MIN_DURATION};

/// Minimum and maximum of a time that an option accepts. With an interval of zero the loop would never
/// rest, and a deadline that is years away overflows the clock.
const BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_hours(24)];

/// Intervals and time limits of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Interval between two checks of the interfaces, links and pins. A change of a device triggers
    /// further checks.
    pub look: Duration,
    /// Pause after a change of a device, so that a burst of changes is handled together.
    pub settle: Duration,
    /// Interval at which events are read from the kernel's ring buffer.
    pub events: Duration,
    /// Interval between two summaries of drops, and of omitted records, in the log.
    pub summary: Duration,
    /// Interval at which files are checked for changes, and trials and mode overrides for their
    /// deadlines.
    pub files: Duration,
    /// Time for which a file that is written in place must stay unchanged before it is read. Rounded up
    /// to a multiple of `files`.
    pub rest: Duration,
    /// Interval at which the daemon checks whether the service manager needs a message.
    pub manager: Duration,
    /// Age at which the state line of the service manager is renewed.
    pub line: Duration,
    /// Maximum age of the last check of files, of interfaces and of events. If one of the three is
    /// older, the service manager gets no keep-alive. Loading a policy of a million prefixes keeps
    /// the loop busy for seconds.
    pub fresh: Duration,
    /// Time for which a new connection cannot be evicted to make room for another one.
    pub grace: Duration,
    /// Time that a connection has to send its request, and again to take its answer; also the time
    /// within which an answer on the statistics sockets must be ready.
    pub request: Duration,
    /// Time that a command may take after it was read, including the commands queued before it. Some
    /// commands build a generation, which takes seconds for a large policy or on a busy machine.
    pub command: Duration,
    /// Delay before the end of a trial or of a mode override is tried again after a failure.
    pub retry: Duration,
    /// Time that the kernel may take to list the devices for a status. Listing hundreds of devices
    /// takes a millisecond.
    pub netlink: Duration,
    /// Shortest duration that the daemon accepts for a trial or a mode override.
    pub shortest: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(2),
            settle: Duration::from_millis(50),
            events: Duration::from_millis(200),
            summary: Duration::from_mins(1),
            files: Duration::from_millis(250),
            rest: Duration::from_secs(2),
            manager: Duration::from_secs(1),
            line: Duration::from_secs(5),
            fresh: Duration::from_secs(15),
            grace: Duration::from_millis(50),
            request: Duration::from_secs(10),
            command: COMMAND_TIMEOUT,
            retry: Duration::from_secs(5),
            netlink: Duration::from_millis(500),
            shortest: MIN_DURATION,
        }
    }
}

impl Timing {
    /// Number of successive checks for which a file that is written in place must be unchanged.
    pub(super) fn checks_at_rest(&self) -> u32 {
        let checks = self.rest.as_nanos().div_ceil(self.files.as_nanos().max(1));
        u32::try_from(checks).unwrap_or(u32::MAX).max(1)
    }

    /// Returns all fields with the keys that the option uses for them.
    fn by_key(&mut self) -> [(&'static str, &mut Duration); 15] {
        let Self {
            look,
            settle,
            events,
            summary,
            files,
            rest,
            manager,
            line,
            fresh,
            grace,
            request,
            command,
            retry,
            netlink,
            shortest,
        } = self;
        [
            ("look", look),
            ("settle", settle),
            ("events", events),
            ("summary", summary),
            ("files", files),
            ("rest", rest),
            ("manager", manager),
            ("line", line),
            ("fresh", fresh),
            ("grace", grace),
            ("request", request),
            ("command", command),
            ("retry", retry),
            ("netlink", netlink),
            ("shortest", shortest),
        ]
    }
}

/// `KEY=TIME,...`: the defaults, with the given values instead.
impl FromStr for Timing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut timing = Self::default();
        let mut given = Vec::new();
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}`: expected KEY=TIME, such as look=200ms"))?;
            if given.contains(&key) {
                return Err(format!("`{key}` is given twice"));
            }
            let mut fields = timing.by_key();
            let keys = fields.each_ref().map(|(known, _)| *known).join(", ");
            let field = fields.iter_mut().find(|(known, _)| *known == key);
            let (_, field) =
                field.ok_or_else(|| format!("unknown key `{key}`; the keys are {keys}"))?;
            **field = time(value).map_err(|why| format!("`{key}`: {why}"))?;
            given.push(key);
        }
        Ok(timing)
    }
}

/// Parses an interval or a time limit of an option, such as `200ms`.
///
/// # Errors
/// The text is no duration, or not between a millisecond and a day.
pub fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (BOUNDS[0]..=BOUNDS[1]).contains(&time) {
        return Ok(time);
    }
    let [shortest, longest] = BOUNDS.map(humantime::format_duration);
    Err(format!("expected {shortest} to {longest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        client::AnswerTimeouts,
        control::{CONFIRM_WITHIN, MODE_FOR},
    };

    #[test]
    fn the_defaults_are_those_of_a_release() {
        let expected = [
            ("look", 2_000),
            ("settle", 50),
            ("events", 200),
            ("summary", 60_000),
            ("files", 250),
            ("rest", 2_000),
            ("manager", 1_000),
            ("line", 5_000),
            ("fresh", 15_000),
            ("grace", 50),
            ("request", 10_000),
            ("command", 120_000),
            ("retry", 5_000),
            ("netlink", 500),
            ("shortest", 5_000),
        ];
        let mut timing = Timing::default();
        assert_eq!(timing.checks_at_rest(), 8);
        let values = timing.by_key().map(|(key, time)| (key, time.as_millis()));
        assert_eq!(values, expected);
        assert_eq!([CONFIRM_WITHIN[0], MODE_FOR[0]], [timing.shortest; 2]);
        let answers = AnswerTimeouts::default();
        assert_eq!([answers.query, answers.command].map(|time| time.as_secs()), [5, 115]);
        assert!(answers.command < timing.command, "the client gives up before the daemon");
    }

    #[test]
    fn omitted_keys_keep_their_defaults() {
        let timing: Timing = "look=200ms,files=50ms,request=1s".parse().expect("timing");
        let expected = Timing {
            look: Duration::from_millis(200),
            files: Duration::from_millis(50),
            request: Duration::from_secs(1),
            ..Timing::default()
        };
        assert_eq!(timing, expected);
        assert_eq!(timing.checks_at_rest(), 40);
        for mut key in Timing::default().by_key().map(|(key, _)| format!("{key}=7ms")) {
            let timing: Timing = key.parse().expect("timing");
            assert_ne!(timing, Timing::default(), "{key}");
            key.push_str(",look=8ms");
            assert_eq!(key.parse::<Timing>().is_err(), key.starts_with("look="), "{key}");
        }
    }

    #[test]
    fn a_file_is_checked_at_least_once() {
        for (text, checks) in [("rest=1ms", 1), ("rest=251ms", 2), ("files=24h", 1)] {
            assert_eq!(text.parse::<Timing>().expect("timing").checks_at_rest(), checks, "{text}");
        }
    }

    #[test]
    fn malformed_values_are_rejected() {
        for (text, part) in [
            ("", "expected KEY=TIME"),
            ("look", "expected KEY=TIME"),
            ("look=1s,", "expected KEY=TIME"),
            ("look=1s;files=1s", "`look`: "),
            ("look=", "`look`: "),
            ("look=1", "`look`: "),
            ("look=0s", "`look`: expected 1ms to 1day"),
            ("files=2days", "`files`: expected 1ms to 1day"),
            ("look=1s,look=2s", "`look` is given twice"),
            (" look=1s", "unknown key ` look`"),
            ("looks=1s", "unknown key `looks`; the keys are look, settle, "),
        ] {
            let why = text.parse::<Timing>().expect_err(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
