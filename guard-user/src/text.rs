//! Formatting of numbers, counts, times and untrusted text, as all messages and documents use it.

use std::{fmt::Display, path::Path, time::SystemTime};

use crate::policy::syntax::text::is_forbidden;

/// Formats a count with its noun: `1 file`, `2 files`.
pub fn counted<N: Copy + Display + PartialEq + From<u8>>(n: N, what: &str) -> String {
    let s = if n == N::from(1) { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// Formats a time as in all documents and the log: RFC 3339, UTC, milliseconds.
pub fn time(at: SystemTime) -> String {
    // A clock that was never set can be before the earliest time that can be formatted.
    humantime::format_rfc3339_millis(at.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// Formats a number with at most six columns: `0`, `1.5`, `61`, `1.8 k`, `10.3 M`.
pub fn short(value: f64) -> String {
    const UNITS: [&str; 7] = ["", " k", " M", " G", " T", " P", " E"];
    if !value.is_finite() || value <= 0.0 {
        return "0".to_owned();
    }
    if value < 0.05 {
        return "<0.1".to_owned();
    }
    let mut value = value;
    let mut unit = UNITS.iter();
    let mut name = unit.next().copied().unwrap_or_default();
    // A larger value would be rounded to 1000.
    while value >= 999.5 {
        let Some(next) = unit.next() else { break };
        value /= 1000.0;
        name = next;
    }
    let whole = name.is_empty() && (value - value.round()).abs() < 0.05;
    if value < 99.95 && !whole { format!("{value:.1}{name}") } else { format!("{value:.0}{name}") }
}

/// Escapes a text for a terminal or browser: control characters and characters that reorder text are
/// written as escapes.
pub fn shown_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_forbidden(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Escapes a path for a terminal or browser.
pub fn shown_path(path: &Path) -> String {
    shown_text(&path.to_string_lossy())
}
