//! Everything that is printed: data on standard output, talk on standard error.

pub mod diff;
pub mod explain;
pub mod lint;
pub mod replay;
pub mod stats;
pub mod status;
pub mod trace;

use std::{
    fmt::Display,
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::kernel::error::KernelError;

/// Says something about the work, for people.
pub fn talk(message: impl Display) {
    // A closed standard error must not end the work.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Says why there is no answer. `{:#}` of an [`anyhow::Error`] is its whole chain.
pub fn error(message: impl Display) {
    talk(format_args!("error: {message}"));
}

/// Says what the kernel refused, and what can be done about it.
pub fn refusal(error: &KernelError) {
    self::error(error);
    if let Some(hint) = error.hint_text() {
        self::hint(hint);
    }
}

/// Adds what can be done about the message before.
pub fn hint(message: impl Display) {
    talk(format_args!("  hint: {message}"));
}

static INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Writes a piece of the answer; false when it cannot be written. That nobody reads it any more is
/// no error; anything else is said, and remembered for the exit code.
pub fn answer(piece: impl Display) -> bool {
    let Err(failure) = writeln!(io::stdout(), "{piece}") else { return true };
    if failure.kind() != io::ErrorKind::BrokenPipe && !INCOMPLETE.swap(true, Ordering::Relaxed) {
        error(format_args!("writing the answer: {failure}"));
    }
    false
}

/// Whether a part of the answer could not be written.
pub fn is_incomplete() -> bool {
    INCOMPLETE.load(Ordering::Relaxed)
}

/// Writes a document as the answer, on one line.
pub fn answer_json(document: &impl serde::Serialize) {
    // Our documents have string keys only, which is all that JSON asks.
    answer(serde_json::to_string(document).unwrap_or_default());
}
