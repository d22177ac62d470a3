//! Resolves names to addresses with a hosts(5) file. DNS is not used, because its server could then
//! decide which sources are admitted.

use std::collections::{HashMap, HashSet};

use guard_common::Addr;

use super::{
    Input,
    findings::{Findings, Location},
    listing::{self, Entry},
    runs,
};
use crate::policy::resolve::validate;

/// Maximum number of names in one message.
const MAX_NAMED: usize = 200;

/// The contents of a hosts(5) file.
#[derive(Debug)]
pub(super) struct Resolver<'t> {
    source: &'t str,
    /// By name in lower case: the addresses in front of it, with their positions.
    names: HashMap<String, Vec<(Location, &'t str)>>,
}

impl<'t> Resolver<'t> {
    /// Parses the file: on each line an address, then names.
    pub(super) fn new(input: Input<'t>, out: &mut Findings) -> Self {
        let mut names: HashMap<String, Vec<(Location, &str)>> = HashMap::new();
        for (place, line) in listing::lines(input, out) {
            let mut words = line.split_ascii_whitespace();
            let address = words.next().unwrap_or_default();
            for name in words {
                let known = names.entry(name.to_ascii_lowercase()).or_default();
                known.push((place.clone(), address));
            }
        }
        Self { source: input.source, names }
    }

    /// Returns the addresses of a name. Invalid addresses are reported; lines about other names are
    /// ignored.
    fn addresses(&self, name: &str, out: &mut Findings) -> Vec<Addr> {
        let mut found = Vec::new();
        for (place, text) in self.names.get(&name.to_ascii_lowercase()).into_iter().flatten() {
            match validate::address(text) {
                Ok(address) if found.contains(&address) => {}
                Ok(address) => found.push(address),
                // Debian maps a host's own name to 127.0.1.1.
                Err(_) if text.starts_with("127.") || *text == "::1" => {
                    out.note(format!("{place}: `{name}` has the loopback address {text}, ignored"));
                }
                Err(problem) => out.problem(place, format_args!("`{name}`: {problem}")),
            }
        }
        found
    }
}

/// Resolves the entries that have only a name, unless another entry has addresses for it.
pub(super) fn resolve(entries: &mut [Entry], resolver: Option<&Resolver<'_>>, out: &mut Findings) {
    let with = entries.iter().filter(|entry| !entry.addresses.is_empty());
    let known: HashSet<String> = with.filter_map(|entry| entry.name.clone()).collect();
    let mut missing: Vec<(String, Location)> = Vec::new();
    let mut addresses: HashMap<String, Vec<Addr>> = HashMap::new();
    for entry in entries.iter_mut().filter(|entry| entry.addresses.is_empty()) {
        let Some(name) = &entry.name else { continue };
        if known.contains(name) {
            continue;
        }
        if let Some(addresses) = addresses.get(name) {
            entry.addresses.clone_from(addresses);
            continue;
        }
        let before = out.problems.len() + out.more;
        let found = resolver.map(|r| r.addresses(name, out)).unwrap_or_default();
        if found.is_empty() && out.problems.len() + out.more == before {
            missing.push((name.clone(), entry.place.clone()));
        }
        entry.addresses.clone_from(&found);
        addresses.insert(name.clone(), found);
    }
    if !missing.is_empty() {
        report(&missing, resolver, out);
    }
}

fn report(missing: &[(String, Location)], resolver: Option<&Resolver<'_>>, out: &mut Findings) {
    let rows: Vec<runs::Row> = missing.iter().map(|(name, _)| vec![name.clone()]).collect();
    let place = |at: usize| missing.get(at).map(|(_, place)| place);
    let runs = runs::runs(&rows, |a, b| place(a) == place(b));
    let shown = runs.iter().take(MAX_NAMED).map(|run| {
        let name: String = run.texts().collect();
        let place = place(run.rows.start).map(Location::short).unwrap_or_default();
        format!("{name} ({place})")
    });
    let mut list = shown.collect::<Vec<_>>().join(", ");
    let rest: usize = runs.iter().skip(MAX_NAMED).map(|run| run.rows.len()).sum();
    if rest > 0 {
        list = format!("{list} and {rest} more");
    }
    let source = missing.first().map(|(_, place)| place.source.to_string()).unwrap_or_default();
    let count = match missing.len() {
        1 => "1 host name has no address".to_owned(),
        n => format!("{n} host names have no address"),
    };
    let hint = match resolver {
        None => {
            "names are not looked up in DNS; give a hosts(5) file with --resolve FILE, such as \
             /etc/hosts, or list `NAME ADDRESS ADDRESS` with --hosts-format addresses"
                .to_owned()
        }
        Some(resolver) => format!(
            "`{}` does not have them, and names are not looked up in DNS; add lines `ADDRESS \
             NAME` to it, or list `NAME ADDRESS ADDRESS` with --hosts-format addresses",
            resolver.source
        ),
    };
    out.push(format!("{source}: {count}: {list}"), Some(hint));
}
