//! A log record: the message and fields of a tracing event, escaped and bounded.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::PAGE;
use crate::policy::syntax::text;

/// Maximum length of a message, in bytes.
const MESSAGE: usize = 1024;
/// Maximum length of a message of several lines ([`PAGE`]), in bytes.
const MAX_PAGE_BYTES: usize = 16 * 1024;
/// Maximum length of the value of a field, in bytes.
const MAX_VALUE_BYTES: usize = 256;

/// A log record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) level: Level,
    /// Contains line breaks only if the target is [`PAGE`].
    pub(super) message: String,
    /// What the operator can do about it.
    pub(super) hint: Option<String>,
    /// Fields: names as in the code, and values of one line.
    pub(super) fields: Vec<(&'static str, String)>,
    /// File and line of the call site.
    pub(super) place: Option<(&'static str, u32)>,
}

impl Record {
    /// Creates a record with only a message, which is not escaped.
    pub(super) fn new(level: Level, message: String) -> Self {
        Self { level, message, hint: None, fields: Vec::new(), place: None }
    }

    /// Converts an event, and escapes its text.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut record = Self::new(*metadata.level(), String::new());
        record.place = metadata.file().zip(metadata.line());
        event.record(&mut Reader { record: &mut record, page: metadata.target() == PAGE });
        record
    }

    /// Formats message and fields: `guarded interface=eth0 mode=native`.
    pub(super) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let plain = |c: char| !c.is_whitespace() && c != '"' && c != '=';
            // Writing to a string does not fail.
            let _ = if !value.is_empty() && value.chars().all(plain) {
                write!(text, " {name}={value}")
            } else {
                write!(text, " {name}=\"{}\"", value.replace('"', "\\\""))
            };
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\nhint: {hint}");
        }
        text
    }
}

struct Reader<'a> {
    record: &'a mut Record,
    page: bool,
}

impl Reader<'_> {
    fn take(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        match field.name() {
            "message" => {
                let most = if self.page { MAX_PAGE_BYTES } else { MESSAGE };
                self.record.message = clean(value, most, self.page);
            }
            "hint" => self.record.hint = Some(clean(value, MESSAGE, false)),
            // The origin of a message of a library, from `tracing-log`.
            name if name.starts_with("log.") => {}
            name => self.record.fields.push((name, clean(value, MAX_VALUE_BYTES, false))),
        }
    }
}

impl Visit for Reader<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format_args!("{value:?}"));
    }
}

/// Formats a text of about `most` bytes at most, without characters that move the cursor, reorder
/// text or break a line.
fn clean(value: fmt::Arguments<'_>, most: usize, keep_lines: bool) -> String {
    let mut clean = Clean { text: String::new(), most, keep_lines, cut: false };
    // The error means that the text is longer than `most`; it is then truncated.
    let _ = clean.write_fmt(value);
    if clean.cut {
        clean.text.push_str(" …");
    }
    let kept = clean.text.trim_end_matches('\n').len();
    clean.text.truncate(kept);
    clean.text
}

struct Clean {
    text: String,
    most: usize,
    keep_lines: bool,
    cut: bool,
}

impl fmt::Write for Clean {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        for character in piece.chars() {
            if self.text.len() >= self.most {
                self.cut = true;
                return Err(fmt::Error);
            }
            match character {
                '\n' if self.keep_lines => self.text.push('\n'),
                '\n' => self.text.push_str("\\n"),
                c if c.is_control() || text::is_forbidden(c) => {
                    self.text.extend(c.escape_unicode());
                }
                c => self.text.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_are_kept_only_in_pages() {
        let text = "one\ntwo\u{9b}31m\r\n";
        assert_eq!(clean(format_args!("{text}"), 100, true), "one\ntwo\\u{9b}31m\\u{d}");
        assert_eq!(clean(format_args!("{text}"), 100, false), "one\\ntwo\\u{9b}31m\\u{d}\\n");
    }

    #[test]
    fn long_texts_are_cut_and_marked() {
        let cut = clean(format_args!("{}", "é".repeat(1000)), 100, false);
        assert_eq!(cut, format!("{} …", "é".repeat(50)));
        assert_eq!(clean(format_args!("{}", "x".repeat(100)), 100, false), "x".repeat(100));
    }

    #[test]
    fn values_that_could_be_taken_for_more_fields_are_quoted() {
        let mut record = Record::new(Level::INFO, "guarded".to_owned());
        record.fields = vec![
            ("interface", "eth0".to_owned()),
            ("a", "b c=d".to_owned()),
            ("e", String::new()),
            ("f", "\"".to_owned()),
        ];
        record.hint = Some("do it".to_owned());
        let text = "guarded interface=eth0 a=\"b c=d\" e=\"\" f=\"\\\"\"\nhint: do it";
        assert_eq!(record.text(), text);
    }
}
