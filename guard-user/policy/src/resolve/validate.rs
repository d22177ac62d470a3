//! What the rest of the program asks of the readers, so that each rule of the language is written
//! once.

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

/// Names, and addresses, that one manifest may have.
pub const MAX_HOSTS: usize = hostlist::MAX_EXPANSION;

fn on_one_line(fault: Fault) -> String {
    match fault.help {
        Some(help) => format!("{}; {help}", fault.message),
        None => fault.message,
    }
}

/// Whether a text is a name; if not, why.
pub fn name(text: &str) -> Result<(), String> {
    scalars::name(text, false).map(|_| ()).map_err(on_one_line)
}

/// Whether a text is a pattern of interface names; if not, why.
pub fn interface(text: &str) -> Result<(), String> {
    scalars::interface(text, false).map(|_| ()).map_err(on_one_line)
}

/// Whether a text is a prefix; if not, why.
pub fn prefix(text: &str) -> Result<(), String> {
    scalars::cidr(text).map(|_| ()).map_err(on_one_line)
}

/// An address that a node can have.
pub fn address(text: &str) -> Result<Addr, String> {
    scalars::host_address(text).map_err(on_one_line)
}

/// The names that a host list stands for, at most `most` of them.
pub fn host_list(text: &str, most: usize) -> Result<Vec<String>, String> {
    let list = HostList::parse(text, Radix::Decimal).map_err(on_one_line)?;
    if list.count() > most {
        let shown = text::shown(text);
        return Err(format!("`{shown}` is too much: at most {MAX_HOSTS} hosts are possible"));
    }
    if list.longest() > scalars::MAX_NAME {
        let most = scalars::MAX_NAME;
        return Err(format!("a name has {} bytes, at most {most} fit", list.longest()));
    }
    Ok((0..list.count()).map(|number| list.entry(number)).collect())
}

/// Whether a text means the same to every reader of YAML if it stands without quotes.
pub fn is_plain(text: &str) -> bool {
    let null_or_boolean = ["null", "y", "n"].iter().any(|word| word.eq_ignore_ascii_case(text));
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let simple = first && text.bytes().all(allowed);
    simple && !null_or_boolean && scalars::string(text, true).is_ok()
}

/// The first character of a line that may not be in it.
pub fn forbidden(line: &str) -> Option<String> {
    let found = line.chars().find(|c| text::is_forbidden(*c) || *c == '\r');
    found.map(text::describe)
}

/// What a policy needs of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Roles that nodes must have.
    pub roles: BTreeSet<String>,
    /// Networks that must be defined.
    pub networks: BTreeSet<String>,
}

/// What a policy needs of a manifest; none if the text is no policy.
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
