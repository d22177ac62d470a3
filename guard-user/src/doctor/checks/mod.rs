//! The checks: functions from facts to [`Check`]s, without I/O.

mod files;
mod interfaces;
mod kernel;
mod network;
mod node;
mod traffic;

use std::fmt::Write as _;

use super::{Check, State, facts::MachineFacts};

/// Runs all checks, in the order of the output: the kernel first, because everything else depends
/// on it.
pub fn all(facts: &MachineFacts) -> Vec<Check> {
    let mut checks = kernel::all(facts);
    checks.extend(files::pins(facts));
    checks.extend(interfaces::all(facts));
    checks.extend(network::all(facts));
    checks.extend(traffic::all(facts));
    checks.extend(files::all(facts));
    checks.extend(node::all(facts));
    checks
}

/// Quotes a name for a shell. Interface names may have almost any character, and users copy
/// commands.
fn quoted(name: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '@' | ':');
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        return name.to_owned();
    }
    let mut text = "'".to_owned();
    for c in name.chars() {
        let _ = if c == '\'' { write!(text, "'\\''") } else { write!(text, "{c}") };
    }
    text + "'"
}

/// Joins names with commas; names after the eighth are only counted.
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    const MAX_NAMED: usize = 8;
    let shown: Vec<&str> = names.iter().take(MAX_NAMED).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_a_shell() {
        assert_eq!(quoted("eth0.100"), "eth0.100");
        assert_eq!(quoted("$(reboot)"), "'$(reboot)'");
        assert_eq!(quoted("a'b"), "'a'\\''b'");
        assert_eq!(quoted("-x"), "'-x'");
    }
}
