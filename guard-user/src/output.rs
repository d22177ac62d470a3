//! Output of the subcommands: answers on standard output, messages on standard error.

use std::{
    fmt::Display,
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::ValueEnum;

use crate::system_error::SystemError;

/// Format of the output of a subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for reading
    Text,
    /// JSON for programs
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

/// Writes a message to standard error. Errors are ignored.
pub fn message(message: impl Display) {
    // A closed standard error must not end the process.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Writes bytes to standard error unchanged.
///
/// # Errors
/// Standard error does not accept them.
pub fn message_bytes(part: &[u8]) -> io::Result<()> {
    io::stderr().write_all(part)
}

/// Writes an error message. `{:#}` of an [`anyhow::Error`] formats its whole chain.
pub fn error(message: impl Display) {
    self::message(format_args!("error: {message}"));
}

/// Writes an error of the system with its hint.
pub fn system_error(error: &SystemError) {
    self::error(error);
    if let Some(hint) = error.hint_text() {
        self::hint(hint);
    }
}

/// Reports whether the environment allows colours on a terminal (<https://no-color.org>).
pub fn allows_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes a hint for the message before it.
pub fn hint(message: impl Display) {
    self::message(format_args!("  hint: {message}"));
}

static INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Writes a part of the answer to standard output, with a line break. Returns false if it cannot be
/// written. A closed pipe is not an error; the first other error is reported, and [`is_incomplete`]
/// returns true from then on.
pub fn answer(piece: impl Display) -> bool {
    written(writeln!(io::stdout(), "{piece}"))
}

fn written(result: io::Result<()>) -> bool {
    let Err(failure) = result else { return true };
    if failure.kind() != io::ErrorKind::BrokenPipe && !INCOMPLETE.swap(true, Ordering::Relaxed) {
        error(format_args!("cannot write to standard output: {failure}"));
    }
    false
}

/// Buffered output of an answer with one document per line. [`Lines::flush`] must be called at the
/// end.
#[derive(Debug)]
pub struct Lines(io::BufWriter<io::Stdout>);

impl Lines {
    /// Creates an empty buffer.
    pub fn new() -> Self {
        Self(io::BufWriter::with_capacity(1 << 16, io::stdout()))
    }

    /// Adds a document on one line; returns false like [`answer`].
    pub fn add(&mut self, document: &impl serde::Serialize) -> bool {
        let line = serde_json::to_writer(&mut self.0, document).map_err(io::Error::from);
        written(line.and_then(|()| self.0.write_all(b"\n")))
    }

    /// Adds a line of text; returns false like [`answer`].
    pub fn add_text(&mut self, line: &str) -> bool {
        written(writeln!(self.0, "{line}"))
    }

    /// Writes the buffered lines; returns false like [`answer`].
    pub fn flush(&mut self) -> bool {
        written(self.0.flush())
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

/// Reports whether a part of the answer could not be written.
pub fn is_incomplete() -> bool {
    INCOMPLETE.load(Ordering::Relaxed)
}

/// Writes a document as the answer, on one line.
pub fn answer_json(document: &impl serde::Serialize) {
    answer_sample(document);
}

/// Writes one of several documents as part of the answer, on one line; returns false like [`answer`].
pub fn answer_sample(document: &impl serde::Serialize) -> bool {
    // Serialisation cannot fail, because the documents only have string keys.
    answer(serde_json::to_string(document).unwrap_or_default())
}
