//! Validates single values for the rest of the program, so that each rule of the language has one
//! implementation.

use std::collections::BTreeSet;

use guard_common::Addr;

use crate::syntax::{
    diagnostic::Report,
    document::{self, Document},
    hostlist::{self, HostList, Radix},
    scalars, text,
    walk::Fault,
    yaml,
};

/// Maximum number of names, and of addresses, in one manifest.
pub const MAX_HOSTS: usize = hostlist::MAX_EXPANSION;

fn on_one_line(fault: Fault) -> String {
    match fault.help {
        Some(help) => format!("{}; {help}", fault.message),
        None => fault.message,
    }
}

/// Checks that a text is a name.
///
/// # Errors
/// The reason why it is not.
pub fn name(text: &str) -> Result<(), String> {
    scalars::name(text, false).map(|_| ()).map_err(on_one_line)
}

/// Checks that a text is a pattern of interface names.
///
/// # Errors
/// The reason why it is not.
pub fn interface(text: &str) -> Result<(), String> {
    scalars::interface(text, false).map(|_| ()).map_err(on_one_line)
}

/// Checks that a text is a prefix.
///
/// # Errors
/// The reason why it is not.
pub fn prefix(text: &str) -> Result<(), String> {
    scalars::cidr(text).map(|_| ()).map_err(on_one_line)
}

/// Parses an address that a host can have.
///
/// # Errors
/// The reason why the text is not such an address.
pub fn address(text: &str) -> Result<Addr, String> {
    scalars::host_address(text).map_err(on_one_line)
}

/// Expands a host list to at most `most` names.
///
/// # Errors
/// The text is not a host list, it has more names, or a name is longer than 127 bytes.
pub fn host_list(text: &str, most: usize) -> Result<Vec<String>, String> {
    let list = HostList::parse(text, Radix::Decimal).map_err(on_one_line)?;
    if list.count() > most {
        let shown = text::shown(text);
        return Err(format!("`{shown}` expands to too many hosts, at most {most} are possible"));
    }
    if list.longest() > scalars::MAX_NAME {
        let most = scalars::MAX_NAME;
        return Err(format!("a name has {} bytes, at most {most} fit", list.longest()));
    }
    Ok((0..list.count()).map(|number| list.entry(number)).collect())
}

/// Reports whether every YAML reader takes an unquoted text for the same string.
pub fn is_plain(text: &str) -> bool {
    let null_or_boolean = ["null", "y", "n"].iter().any(|word| word.eq_ignore_ascii_case(text));
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let simple = first && text.bytes().all(allowed);
    simple && !null_or_boolean && scalars::string(text, true).is_ok()
}

/// Describes the first character of a line that documents may not contain; none if there is none.
pub fn forbidden(line: &str) -> Option<String> {
    let found = line.chars().find(|c| text::is_forbidden(*c) || *c == '\r');
    found.map(text::describe)
}

/// The roles and networks that a policy refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Roles that the nodes of the manifest must have.
    pub roles: BTreeSet<String>,
    /// Networks that the manifest must define.
    pub networks: BTreeSet<String>,
}

/// Returns the roles and networks that a policy refers to; none if the text is not a policy.
pub fn needs(policy: &str) -> Option<Needs> {
    let mut report = Report::default();
    let file = report.sources.add("policy".as_ref(), policy.into());
    let tree = yaml::read(file, policy, &mut report)?;
    let Document::Policy(doc) = document::read(file, &tree, &mut report)? else {
        return None;
    };
    let mut needs = Needs::default();
    for service in doc.services {
        let roles = service.roles.into_iter().chain(service.allow.roles);
        needs.roles.extend(roles.map(|role| role.value));
        needs.networks.extend(service.allow.networks.into_iter().map(|network| network.value));
    }
    Some(needs)
}
