//! Log records as text on standard error. The first line of a record begins in the first column;
//! further lines are indented, so none of them looks like a record.

use std::{io, os::fd::AsFd as _, time::SystemTime};

use tracing::Level;

use super::{SendTimeout, journal, record::Record};
use crate::output;

/// Number of bytes that a pipe with room accepts without blocking (`PIPE_BUF`, pipe(7)).
const PIPE_BUF: usize = 4096;

/// A writer of records to standard error.
#[derive(Debug)]
pub(super) struct Text {
    form: LineStyle,
    timeout: SendTimeout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineStyle {
    /// For a terminal, with colours.
    Colour,
    Plain,
    /// For a journal that reads standard error: without the time, which the journal adds, and with
    /// the priority in front of each line (sd-daemon(3)).
    Prefixed,
}

impl Text {
    /// Creates a writer; `terminal` is true if standard error is a terminal.
    pub(super) fn new(terminal: bool) -> Self {
        let colour = terminal && output::allows_colour();
        Self {
            form: if colour { LineStyle::Colour } else { LineStyle::Plain },
            timeout: SendTimeout::default(),
        }
    }

    /// Creates a writer for a journal that reads standard error.
    pub(super) fn for_journal() -> Self {
        Self { form: LineStyle::Prefixed, timeout: SendTimeout::default() }
    }

    /// Writes a record. Returns false if standard error does not accept it in time.
    pub(super) fn write(&self, record: &Record) -> bool {
        let text = render(record, self.form, SystemTime::now()) + "\n";
        let stderr = io::stderr();
        text.as_bytes().chunks(PIPE_BUF).all(|part| {
            self.timeout.has_room(stderr.as_fd()) && output::message_bytes(part).is_ok()
        })
    }
}

fn render(record: &Record, form: LineStyle, now: SystemTime) -> String {
    let text = record.text();
    if form == LineStyle::Prefixed {
        let prefix = format!("<{}>", journal::priority(record.level));
        let lines: Vec<String> = text.lines().map(|line| format!("{prefix}{line}")).collect();
        return lines.join("\n");
    }
    // Empty lines are not indented.
    let text = text.replace('\n', "\n    ").replace("\n    \n", "\n\n");
    let (name, colour) = match record.level {
        Level::ERROR => ("ERROR", "31"),
        Level::WARN => ("WARN", "33"),
        Level::INFO => ("INFO", "32"),
        Level::DEBUG => ("DEBUG", "34"),
        Level::TRACE => ("TRACE", "35"),
    };
    let time = crate::text::time(now);
    if form == LineStyle::Colour {
        format!("{time} \u{1b}[{colour}m{name:>5}\u{1b}[0m {text}")
    } else {
        format!("{time} {name:>5} {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut record = Record::new(Level::WARN, "one\ntwo".to_owned());
        record.hint = Some("three".to_owned());
        record
    }

    #[test]
    fn further_lines_are_indented() {
        let text = render(&record(), LineStyle::Plain, SystemTime::UNIX_EPOCH);
        assert_eq!(text, "1970-01-01T00:00:00.000Z  WARN one\n    two\n    hint: three");
        let text = render(&record(), LineStyle::Colour, SystemTime::UNIX_EPOCH);
        assert!(
            text.starts_with("1970-01-01T00:00:00.000Z \u{1b}[33m WARN\u{1b}[0m one"),
            "{text}"
        );
    }

    #[test]
    fn each_line_for_a_journal_has_the_priority_in_front() {
        let text = render(&record(), LineStyle::Prefixed, SystemTime::UNIX_EPOCH);
        assert_eq!(text, "<4>one\n<4>two\n<4>hint: three");
    }
}
