//! What programs and people read: answers on standard output, messages on standard error.

use std::{
    fmt::Display,
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::ValueEnum;

use crate::system_error::SystemError;

/// Output of a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Whether to use colours.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(clippy::doc_markdown, reason = "clap shows these comments as they are")]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Says something about the work, for people.
pub fn talk(message: impl Display) {
    // A closed standard error must not end the work.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Writes a part of a text that talks, as it is.
///
/// # Errors
/// Standard error takes no more.
pub fn talk_part(part: &[u8]) -> io::Result<()> {
    io::stderr().write_all(part)
}

/// Says why there is no answer. `{:#}` of an [`anyhow::Error`] is its whole chain.
pub fn error(message: impl Display) {
    talk(format_args!("error: {message}"));
}

/// Says what the kernel refused, and what can be done about it.
pub fn refusal(error: &SystemError) {
    self::error(error);
    if let Some(hint) = error.hint_text() {
        self::hint(hint);
    }
}

/// Whether the environment has nothing against colours on a terminal (<https://no-color.org>).
pub fn allows_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Adds what can be done about the message before.
pub fn hint(message: impl Display) {
    talk(format_args!("  hint: {message}"));
}

static INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Writes a piece of the answer; false when it cannot be written. That nobody reads it any more is
/// no error; anything else is said, and remembered for the exit code.
pub fn answer(piece: impl Display) -> bool {
    written(writeln!(io::stdout(), "{piece}"))
}

fn written(result: io::Result<()>) -> bool {
    let Err(failure) = result else { return true };
    if failure.kind() != io::ErrorKind::BrokenPipe && !INCOMPLETE.swap(true, Ordering::Relaxed) {
        error(format_args!("writing the answer: {failure}"));
    }
    false
}

/// An answer of many documents, one a line, written in large parts. [`Lines::flush`] ends it.
#[derive(Debug)]
pub struct Lines(io::BufWriter<io::Stdout>);

impl Lines {
    /// No line yet.
    pub fn new() -> Self {
        Self(io::BufWriter::with_capacity(1 << 16, io::stdout()))
    }

    /// Adds a document; false as [`answer`] says it.
    pub fn add(&mut self, document: &impl serde::Serialize) -> bool {
        let line = serde_json::to_writer(&mut self.0, document).map_err(io::Error::from);
        written(line.and_then(|()| self.0.write_all(b"\n")))
    }

    /// Adds a line of text; false as [`answer`] says it.
    pub fn add_text(&mut self, line: &str) -> bool {
        written(writeln!(self.0, "{line}"))
    }

    /// Writes what has not been written yet; false as [`answer`] says it.
    pub fn flush(&mut self) -> bool {
        written(self.0.flush())
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a part of the answer could not be written.
pub fn is_incomplete() -> bool {
    INCOMPLETE.load(Ordering::Relaxed)
}

/// Writes a document as the answer, on one line.
pub fn answer_json(document: &impl serde::Serialize) {
    answer_sample(document);
}

/// Writes a document of several as the answer, on one line; false as [`answer`] says it.
pub fn answer_sample(document: &impl serde::Serialize) -> bool {
    // Our documents have string keys only, which is all that JSON asks.
    answer(serde_json::to_string(document).unwrap_or_default())
}
