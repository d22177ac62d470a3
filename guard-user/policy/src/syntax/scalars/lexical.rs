//! Rules shared by all scalar values: digits, words, and scalars that YAML readers interpret
//! differently.

use crate::syntax::{
    rules, text,
    walk::{Fault, nearest, one_of},
};

/// Parses a whole number: digits only, no leading zero.
pub(crate) fn digits(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

/// Reports whether some YAML readers interpret a plain scalar as a boolean or a number.
pub(crate) fn is_ambiguous(text: &str) -> bool {
    const WORDS: [&str; 6] = ["yes", "no", "on", "off", "true", "false"];
    let number = text.trim_start_matches(['+', '-']);
    let radix = |prefix: &str| {
        let rest = number.strip_prefix(prefix);
        rest.is_some_and(|r| !r.is_empty() && r.bytes().all(|b| b.is_ascii_hexdigit() || b == b'_'))
    };
    let decimal = number.bytes().any(|b| b.is_ascii_digit())
        && number.parse::<f64>().is_ok_and(f64::is_finite);
    let grouped = number.starts_with(|c: char| c.is_ascii_digit())
        && number.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        || decimal
        || grouped
        || radix("0x")
        || radix("0o")
        || radix("0b")
}

/// Parses one of a set of words.
pub(crate) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Fault> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let message =
        format!("`{}` is not possible here, expected {}", text::shown(text), one_of(&known));
    let fault = Fault::new(rules::CHOICE, message);
    Err(match nearest(text, known) {
        Some(near) => fault.help(format!("did you mean `{near}`?")),
        None => fault,
    })
}
