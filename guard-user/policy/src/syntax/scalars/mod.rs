//! Scalar values of the documents: names, ports, prefixes, rates. Each one is checked by itself.

mod address;
mod amount;
mod lexical;
mod ports;

pub use self::{address::Cidr, ports::PortRange};
pub(crate) use self::{
    address::{address, cidr, host_address},
    amount::{Counted, amount, rate},
    lexical::choice,
    ports::ports,
};

use self::lexical::is_ambiguous;
use super::{rules, text, walk::Fault};

/// Maximum length of a name in bytes. In the kernel object, `policy/service` has the same maximum.
pub const MAX_NAME: usize = 127;
/// Maximum length of an interface name in characters (`IFNAMSIZ` in include/uapi/linux/if.h, without
/// the terminating zero).
const MAX_INTERFACE: usize = 15;

/// Parses a text that no YAML reader interprets as something else.
pub(crate) fn string(text: &str, plain: bool) -> Result<String, Fault> {
    if plain && is_ambiguous(text) {
        return Err(Fault::new(
            rules::AMBIGUOUS,
            format!("`{text}` without quotes is a number or a boolean to some readers of YAML"),
        )
        .help(format!("write \"{text}\""))
        .instead(format!("\"{text}\"")));
    }
    Ok(text.to_owned())
}

/// Parses a name: letters, digits, `.`, `_` and `-`, starting with a letter or a digit.
pub(crate) fn name(text: &str, plain: bool) -> Result<String, Fault> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let shown = text::shown(text);
    let rule = "a name is made of letters, digits, `.`, `_` and `-`, and starts with a letter or \
                digit";
    if text.len() > MAX_NAME {
        let message = format!("the name has {} bytes, at most {MAX_NAME} fit", text.len());
        return Err(Fault::new(rules::NAME, message));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.bytes().all(allowed) {
        return Err(Fault::new(rules::NAME, format!("`{shown}` is not a name")).help(rule));
    }
    string(text, plain)
}

/// Returns the parts of a host list outside of brackets, which are part of every entry.
fn outside(list: &str) -> impl Iterator<Item = &str> {
    list.split(['[', ']']).step_by(2)
}

/// Checks a host list of names as far as that is possible before it is expanded.
pub(crate) fn listed_name(text: &str) -> Result<(), Fault> {
    let starts = text.starts_with('[') || text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (starts || text.starts_with(']')) && outside(text).all(|part| part.chars().all(allowed)) {
        return Ok(());
    }
    let message = format!("`{}` is not a name with numbers in brackets", text::shown(text));
    Err(Fault::new(rules::NAME, message)
        .help("outside of brackets, write letters, digits, `.`, `_` and `-`"))
}

/// Checks a host list of addresses as far as that is possible before it is expanded.
pub(crate) fn listed_address(text: &str) -> Result<(), Fault> {
    let six = text.contains(':');
    let allowed = |c: char| match c {
        '.' => true,
        ':' => six,
        c if six => c.is_ascii_hexdigit(),
        c => c.is_ascii_digit(),
    };
    if outside(text).all(|part| part.chars().all(allowed)) {
        return Ok(());
    }
    let message = format!("`{}` is not an address with numbers in brackets", text::shown(text));
    Err(Fault::new(rules::ADDRESS, message).help("write it like `10.0.0.[1-8]` or `fd00::[1-8]`"))
}

/// Parses a glob pattern of interface names.
pub(crate) fn interface(text: &str, plain: bool) -> Result<String, Fault> {
    let fault = |why: &str| {
        let shown = text::shown(text);
        Fault::new(rules::INTERFACE, format!("`{shown}` is not an interface pattern: {why}"))
            .help("write a name such as `eth0` or a pattern such as `rail*`")
    };
    if text.is_empty() {
        return Err(fault("it is empty"));
    }
    if text.contains(|c: char| c.is_whitespace() || c == '/' || !c.is_ascii_graphic()) {
        return Err(fault("an interface name has no blanks and no `/`"));
    }
    if let Err(error) = glob::Pattern::new(text) {
        return Err(fault(error.msg));
    }
    if !text.contains(['*', '?', '[']) && text.len() > MAX_INTERFACE {
        return Err(fault("an interface name has at most 15 characters"));
    }
    string(text, plain)
}

/// Parses a path, or a glob pattern of paths.
pub(crate) fn path(text: &str, plain: bool) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::new(rules::PATH, "the path is empty"));
    }
    string(text, plain)
}

/// Parses the plain scalars `true` and `false`.
pub(crate) fn boolean(text: &str, plain: bool) -> Result<bool, Fault> {
    match text {
        "true" | "false" if plain => Ok(text == "true"),
        _ => {
            let shown = text::shown(text);
            let quotes = if plain { "" } else { "\"" };
            let message = format!("{quotes}{shown}{quotes} is neither `true` nor `false`");
            Err(Fault::new(rules::AMBIGUOUS, message)
                .help("write `true` or `false`, without quotes"))
        }
    }
}

/// Accepts the plain scalar `true` only.
pub(crate) fn only_true(text: &str, plain: bool) -> Result<(), Fault> {
    if plain && text == "true" {
        return Ok(());
    }
    let shown = text::shown(text);
    let quotes = if plain { "" } else { "\"" };
    Err(Fault::new(rules::AMBIGUOUS, format!("{quotes}{shown}{quotes} is not `true`"))
        .help("write `any: true` to admit every source, or leave `any` out"))
}
