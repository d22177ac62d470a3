//! Everything that is printed: data on standard output, talk on standard error.

pub mod lint;
pub mod replay;
pub mod stats;
pub mod status;
pub mod trace;

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Says something about the work, for people.
pub fn talk(message: impl Display) {
    // A closed standard error must not end the work.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Says why there is no answer. `{:#}` of an [`anyhow::Error`] is its whole chain.
pub fn error(message: impl Display) {
    talk(format_args!("error: {message}"));
}

/// Adds what can be done about the message before.
pub fn hint(message: impl Display) {
    talk(format_args!("  hint: {message}"));
}

/// Writes a piece of the answer; false when nobody reads it any more, which is no error.
pub fn answer(piece: impl Display) -> bool {
    writeln!(io::stdout(), "{piece}").is_ok()
}

/// Writes a document as the answer, on one line.
pub fn answer_json(document: &impl serde::Serialize) {
    // Our documents have string keys only, which is all that JSON asks.
    answer(serde_json::to_string(document).unwrap_or_default());
}
