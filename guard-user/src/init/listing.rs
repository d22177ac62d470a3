//! Parsers for host lists of launchers: host files, Slurm node lists, Ray's cluster file,
//! addresses.

use std::{net::Ipv6Addr, rc::Rc};

use clap::ValueEnum;
use guard_common::Addr;

use super::{
    Input,
    findings::{Findings, Location},
    profiles::{Profile, RoleHolders},
    ray,
};
use crate::policy::{resolve::validate, syntax::text};

/// Format of a host list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(clippy::doc_markdown, reason = "clap shows these comments as they are")]
pub enum HostsFormat {
    /// Detected from the contents of the file; the result is printed
    Auto,
    /// One host per line: its addresses, its name, or a name and addresses
    Addresses,
    /// The dmlc tracker's: `ip`, `ip:sshport`, `ip slots=N`
    Dmlc,
    /// Open MPI's, MPICH's, DeepSpeed's: `host slots=4`, `host:4`
    Mpi,
    /// Slurm's: `gpu[01-04,07],login1`
    Slurm,
    /// Ray's cluster file, with a provider of type local
    Ray,
}

impl HostsFormat {
    /// Returns the value as typed on the command line; none for the default.
    pub fn as_written(self) -> Option<String> {
        let value = if self == Self::Auto { None } else { self.to_possible_value() };
        value.map(|value| value.get_name().to_owned())
    }
}

/// A host in a host list.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Position in the list.
    pub(super) place: Location,
    /// Its name; none if only addresses are given.
    pub(super) name: Option<String>,
    /// Its addresses; empty if only its name is given.
    pub(super) addresses: Vec<Addr>,
}

/// A host list.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The hosts, in the order of the list.
    pub(super) entries: Vec<Entry>,
    /// Index of the head node in `entries`, if the list names one.
    pub(super) head: Option<usize>,
}

/// A word of a line: an address or a name.
pub(super) enum AddressOrName {
    Address(Addr),
    Name(String),
}

/// Parses an address or a name.
pub(super) fn word(text: &str) -> Result<AddressOrName, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if digits || text.contains([':', '/', '%']) {
        return validate::address(text).map(AddressOrName::Address);
    }
    validate::name(text).map(|()| AddressOrName::Name(text.to_owned()))
}

/// Parses a host that is given by one word.
pub(super) fn host(place: Location, text: &str) -> Result<Entry, String> {
    Ok(match word(text)? {
        AddressOrName::Address(address) => Entry { place, name: None, addresses: vec![address] },
        AddressOrName::Name(name) => Entry { place, name: Some(name), addresses: Vec::new() },
    })
}

/// Parses `NAME`, `ADDRESS...` or `NAME ADDRESS...`, separated by blanks or commas.
pub(super) fn named_host(place: Location, line: &str) -> Result<Entry, String> {
    let mut entry = Entry { place, name: None, addresses: Vec::new() };
    for (at, piece) in words(line).enumerate() {
        match word(piece)? {
            AddressOrName::Address(address) => entry.addresses.push(address),
            AddressOrName::Name(name) if at == 0 => entry.name = Some(name),
            AddressOrName::Name(name) => {
                let shown = text::shown(&name);
                return Err(format!(
                    "a second name `{shown}` on the line; write `NAME ADDRESS ADDRESS`, or, \
                     if this is a hosts(5) file, give it to --resolve, and list only the names"
                ));
            }
        }
    }
    if entry.name.is_none() && entry.addresses.is_empty() {
        return Err("expected a host name or an address".to_owned());
    }
    Ok(entry)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split([' ', '\t', ',']).filter(|word| !word.is_empty())
}

/// Returns a line without its comment, trimmed.
pub(super) fn content(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

/// Returns the lines of a text with their positions. Lines with forbidden characters, such as
/// invisible ones, are reported and left out.
pub(super) fn lines<'t>(input: Input<'t>, out: &mut Findings) -> Vec<(Location, &'t str)> {
    let source: Rc<str> = input.source.into();
    let mut good = Vec::new();
    for (number, line) in (1..).zip(input.text.split('\n')) {
        let line_number = (!input.is_option).then_some(number);
        let place = Location { source: Rc::clone(&source), line: line_number };
        let line = line.strip_suffix('\r').unwrap_or(line);
        if let Some(what) = validate::forbidden(line) {
            out.problem(&place, format_args!("{what} is not allowed; remove it"));
            continue;
        }
        let line = content(line);
        if !line.is_empty() {
            good.push((place, line));
        }
    }
    good
}

/// Parses a host list.
pub(super) fn read(
    input: Input<'_>,
    format: HostsFormat,
    profile: &Profile,
    out: &mut Findings,
) -> Listing {
    let Input { source, text, .. } = input;
    let guessed = (format == HostsFormat::Auto).then(|| guess(text, profile));
    if let Some((format, why)) = guessed
        && !text.trim().is_empty()
    {
        out.note(format!(
            "`{source}` is read as {} ({why}); override with --hosts-format",
            describe(format)
        ));
    }
    let format = guessed.map_or(format, |(format, _)| format);
    let listing = if format == HostsFormat::Ray {
        ray::read(text, source, out)
    } else {
        let lines = lines(input, out);
        Listing { entries: entries(&lines, format, out), head: None }
    };
    if listing.entries.is_empty() && !out.is_bad() {
        out.push(format!("`{source}` lists no host"), None);
    }
    listing
}

fn describe(format: HostsFormat) -> &'static str {
    match format {
        HostsFormat::Auto | HostsFormat::Addresses => "a list of hosts, one per line",
        HostsFormat::Dmlc => "a host file of the dmlc tracker",
        HostsFormat::Mpi => "a host file of Open MPI, MPICH or DeepSpeed",
        HostsFormat::Slurm => "a node list of Slurm",
        HostsFormat::Ray => "a cluster file of Ray",
    }
}

/// Guesses the format of a text, with the reason.
fn guess(text: &str, profile: &Profile) -> (HostsFormat, &'static str) {
    let hostfile =
        if profile.has(RoleHolders::Servers) { HostsFormat::Dmlc } else { HostsFormat::Mpi };
    let keys = ["provider:", "cluster_name:", "---", "{"];
    if text.lines().any(|line| keys.iter().any(|key| line.starts_with(key))) {
        return (HostsFormat::Ray, "it has keys of Ray's cluster file");
    }
    for line in text.lines().map(content) {
        if line.char_indices().any(|(at, c)| c == '[' && at > 0 && !line[..at].ends_with(' ')) {
            return (HostsFormat::Slurm, "it has brackets");
        }
        let is_name = |word: &str| validate::name(word).is_ok() && validate::address(word).is_err();
        if line.contains(',') && words(line).all(is_name) {
            return (HostsFormat::Slurm, "it has names with commas");
        }
        if line.contains('=') {
            return (hostfile, "it has `slots=` or a similar word");
        }
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if without_number(first).is_ok_and(|host| host != first) {
            return (hostfile, "it has `host:number`");
        }
    }
    (HostsFormat::Addresses, "it has only names and addresses")
}

fn entries(lines: &[(Location, &str)], format: HostsFormat, out: &mut Findings) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut addresses = 0_usize;
    for (place, line) in lines {
        let room = validate::MAX_HOSTS.saturating_sub(found.len().max(addresses));
        let hosts = match format {
            HostsFormat::Slurm => node_list(place, line, room, out),
            HostsFormat::Dmlc | HostsFormat::Mpi => {
                hostfile_line(place, line).map(|entry| vec![entry])
            }
            _ => named_host(place.clone(), line).map(|entry| vec![entry]),
        };
        match hosts {
            Ok(hosts) => {
                addresses += hosts.iter().map(|host| host.addresses.len()).sum::<usize>();
                found.extend(hosts);
            }
            Err(problem) => out.problem(place, problem),
        }
        if found.len().max(addresses) > validate::MAX_HOSTS {
            let max = validate::MAX_HOSTS;
            out.problem(place, format_args!("more than {max} hosts or addresses up to this line"));
            break;
        }
    }
    found
}

/// Returns the host in front of a port or a number of processes.
fn without_number(text: &str) -> Result<&str, String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let shown = || text::shown(text);
    if let Some(inside) = text.strip_prefix('[') {
        let (host, rest) =
            inside.split_once(']').ok_or_else(|| format!("`{}` has a `[` without `]`", shown()))?;
        if rest.is_empty() || rest.strip_prefix(':').is_some_and(is_number) {
            return Ok(host);
        }
        return Err(format!("`{}`: expected `[ADDRESS]:NUMBER`", shown()));
    }
    match text.split_once(':') {
        Some((host, number)) if !number.contains(':') && text.parse::<Ipv6Addr>().is_err() => {
            if is_number(number) && !host.is_empty() {
                return Ok(host);
            }
            Err(format!("`{}`: expected `HOST:NUMBER`", shown()))
        }
        // An IPv6 address without brackets has no number.
        _ => Ok(text),
    }
}

/// Parses `HOST` or `HOST:NUMBER`, optionally followed by `slots=4` or similar.
fn hostfile_line(place: &Location, line: &str) -> Result<Entry, String> {
    let mut words = line.split_ascii_whitespace();
    let entry = host(place.clone(), without_number(words.next().unwrap_or_default())?)?;
    for word in words {
        let shown = text::shown(word);
        let Some((key, value)) = word.split_once('=') else {
            return Err(format!("`{shown}` after the host: expected a word such as `slots=N`"));
        };
        let counts = matches!(key, "slots" | "max_slots" | "max-slots");
        if counts && (value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit())) {
            return Err(format!("`{shown}`: expected a number after `=`"));
        }
    }
    Ok(entry)
}

/// Parses `gpu[01-04,07],login1`. Each invalid piece is reported.
fn node_list(
    place: &Location,
    line: &str,
    room: usize,
    out: &mut Findings,
) -> Result<Vec<Entry>, String> {
    let mut found = Vec::new();
    let mut inside = false;
    let outside_brackets = |c: char| {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        !inside && (c == ',' || c == ' ' || c == '\t')
    };
    for piece in line.split(outside_brackets).filter(|piece| !piece.is_empty()) {
        for name in validate::host_list(piece, room.saturating_sub(found.len()))? {
            match host(place.clone(), &name) {
                Ok(entry) => found.push(entry),
                Err(problem) => {
                    // One report is enough: all names of a piece are invalid for the same reason.
                    out.problem(place, problem);
                    break;
                }
            }
        }
    }
    Ok(found)
}
