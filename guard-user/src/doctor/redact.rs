//! A report for bug tickets, without names and addresses.
//!
//! Every text is searched for addresses and names. Equal secrets get the same placeholder, so that
//! the report stays readable. Placeholders are numbered in the order of the document, which is
//! sorted, so equal findings give equal reports.

use std::{collections::HashMap, net::IpAddr, sync::LazyLock};

use nix::unistd::gethostname;
use regex::{Captures, Regex};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Diagnosis, facts::MachineFacts, system};
use crate::{
    api::{
        client::Client,
        events::{Event, EventKind},
    },
    policy::Cluster,
};

/// Value of the field `schema` of a report.
pub const SCHEMA: &str = "trainguard/doctor-report/v1";
/// Maximum number of events, and of log records.
const MAX_RECORDS: usize = 50;
/// User IDs of regular users: from `UID_MIN` (login.defs) up to, but not including, 65534.
const REGULAR_UIDS: std::ops::Range<u32> = 1000..65_534;
/// Keys whose values are constants of trainguard, and are not redacted.
const PLAIN_KEYS: [&str; 3] = ["id", "schema", "state"];

/// Matches MAC addresses, also in interface names that contain one; host lists of addresses, as
/// written in manifests; IPv6 and IPv4 addresses, and texts that look like them.
static ADDRESSES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
        (?P<mac>(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2})
        |(?P<named>enx[0-9a-f]{12})
        |(?P<list>[0-9A-Fa-f.:]*\[[0-9A-Fa-f,-]+\][0-9A-Fa-f.:,\[\]-]*)
        |(?P<v6>[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:[0-9]{0,3}\.[0-9]{1,3}){0,3})
        |(?P<v4>[0-9]{1,3}(?:\.[0-9]{1,3}){3})",
    )
    .ok()
});

/// Names to replace, in lower case, each with the kind for its placeholder.
#[derive(Debug, Clone, Default)]
pub struct Names(HashMap<String, &'static str>);

impl Names {
    /// Collects the names of this machine, its users, and a cluster.
    pub fn of(cluster: Option<&Cluster>) -> Self {
        let mut names = Self::default();
        for user in users() {
            names.add(&user, "user");
        }
        if let Some(cluster) = cluster {
            names.add(&cluster.name, "cluster");
            for node in &cluster.nodes {
                names.add(&node.name, "host");
            }
        }
        if let Ok(host) = gethostname() {
            let host = host.to_string_lossy().into_owned();
            names.add(host.split('.').next().unwrap_or_default(), "host");
            names.add(&host, "host");
        }
        names
    }

    /// Adds a name, unless it is empty or `localhost`.
    pub fn add(&mut self, name: &str, kind: &'static str) {
        // `localhost` identifies no machine.
        if !name.is_empty() && name != "localhost" {
            self.0.insert(name.to_lowercase(), kind);
        }
    }
}

/// Returns the names of the regular users in `/etc/passwd`, and of the caller.
fn users() -> Vec<String> {
    let list = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let regular = list.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        REGULAR_UIDS.contains(&uid).then(|| name.to_owned())
    });
    let callers =
        ["USER", "LOGNAME", "SUDO_USER"].into_iter().filter_map(|key| std::env::var(key).ok());
    // `root` is left out because every machine has it.
    regular.chain(callers.filter(|name| name != "root")).collect()
}

/// Recent records of the daemon: its events and its log.
#[derive(Debug, Default, Serialize)]
pub struct Records {
    /// The last events.
    pub events: Vec<Event>,
    /// The last records of the daemon's log in the journal.
    pub log: Vec<String>,
}

/// Reads the events from the daemon and the log from the journal, as far as they are available.
pub fn records(client: &Client) -> Records {
    let now = client.events(u64::MAX, 1).ok();
    let after = now.map(|now| now.next.saturating_sub(MAX_RECORDS as u64 + 1));
    let events = after.and_then(|after| client.events(after, MAX_RECORDS).ok());
    let events = events.map(|page| page.events).unwrap_or_default();
    Records { events, log: system::journal(MAX_RECORDS) }
}

/// Makes the redacted report.
pub fn report(
    diagnosis: &Diagnosis,
    facts: &MachineFacts,
    mut records: Records,
    names: Names,
) -> Value {
    for event in &mut records.events {
        if let EventKind::Packet(packet) = &mut event.what {
            // The bytes of the headers contain addresses.
            packet.frame = None;
        }
    }
    let mut document = json!({
        "checks": value(&diagnosis.checks),
        "summary": value(&diagnosis.summary),
        "facts": value(facts),
        "events": value(&records.events),
        "log": value(&records.log),
    });
    Redactor { names, known: HashMap::new(), counts: HashMap::new() }.value(&mut document);
    let about = [
        "Written by `trainguard doctor --report`.",
        "Contents: the checks, the facts that they evaluate, the status, the last events and log \
         records.",
        "Replaced by placeholders, equal values by equal ones: addresses (ipv4-1, ipv6-1), lists of them \
         (addresses-1), MAC addresses (mac-1), names of this host and of the nodes (host-1), of the \
         cluster (cluster-1) and of users (user-1).",
        "Not included: policies, the manifest, bytes of packets.",
        "Not replaced: names of interfaces, files, services, roles and processes; user IDs.",
    ];
    let mut whole = Map::new();
    whole.insert("schema".to_owned(), SCHEMA.into());
    whole.insert("version".to_owned(), diagnosis.version.into());
    whole.insert("about".to_owned(), about.to_vec().into());
    if let Value::Object(parts) = document {
        whole.extend(parts);
    }
    Value::Object(whole)
}

fn value(part: &impl Serialize) -> Value {
    // Serialization fails only for non-string keys, which these documents do not have.
    serde_json::to_value(part).unwrap_or_default()
}

struct Redactor {
    names: Names,
    /// Placeholder of each secret.
    known: HashMap<String, String>,
    /// Number of placeholders of each kind.
    counts: HashMap<&'static str, usize>,
}

impl Redactor {
    fn value(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    if !PLAIN_KEYS.contains(&key.as_str()) {
                        self.value(value);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&mut self, text: &str) -> String {
        // Names first, because a node may be named by its address.
        let text = self.without_names(text);
        let Some(addresses) = &*ADDRESSES else { return "(not redacted, left out)".to_owned() };
        let replaced = addresses.replace_all(&text, |found: &Captures<'_>| {
            let whole = found.get(0).map_or("", |found| found.as_str());
            let kind = if found.name("mac").is_some() || found.name("named").is_some() {
                "mac"
            } else if found.name("list").is_some() {
                // `[2001:db8::1]:9091` is an address in brackets; `[0]` is an index.
                return self.list(whole);
            } else {
                let alphanumeric = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
                let (before, after) = found.get(0).map_or(("", ""), |found| {
                    let after = text.get(found.end()..).unwrap_or_default();
                    (text.get(..found.start()).unwrap_or_default(), after)
                });
                // A path in Rust or C++, such as `std::net`.
                let in_word =
                    alphanumeric(before.chars().next_back()) || alphanumeric(after.chars().next());
                if found.name("v6").is_some() && in_word {
                    return whole.to_owned();
                }
                return self.address(whole);
            };
            self.word(whole, kind)
        });
        replaced.into_owned()
    }

    /// Redacts a text that looks like an address, as far as it is one.
    fn address(&mut self, text: &str) -> String {
        let (trimmed, rest) = match text.strip_suffix(':') {
            // In `fd77::10:`, the last colon belongs to the sentence.
            Some(trimmed) if text.parse::<IpAddr>().is_err() => (trimmed, ":"),
            _ => (text, ""),
        };
        match trimmed.parse::<IpAddr>() {
            Ok(address) if is_on_every_machine(&address) => text.to_owned(),
            Ok(IpAddr::V4(_)) => self.word(trimmed, "ipv4") + rest,
            Ok(IpAddr::V6(_)) => self.word(trimmed, "ipv6") + rest,
            Err(_) => text.to_owned(),
        }
    }

    /// Redacts a text with brackets: a list of addresses, or an IPv6 address with a port.
    fn list(&mut self, text: &str) -> String {
        if let Some((inside, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']'))
            && let Ok(address) = inside.parse::<IpAddr>()
        {
            return format!("[{}]{rest}", self.address(&address.to_string()));
        }
        if text.contains(['.', ':']) {
            let list = text.trim_end_matches([',', ':', '.']);
            let rest = text.get(list.len()..).unwrap_or_default();
            return self.word(list, "addresses") + rest;
        }
        text.to_owned()
    }

    /// Replaces names that are whole words. Parts of names with dots and dashes count as words:
    /// `worker-3.cluster.example`.
    fn without_names(&mut self, text: &str) -> String {
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(in_name) {
            let (before, from) = rest.split_at(start);
            out.push_str(before);
            let end = from.find(|c| !in_name(c)).unwrap_or(from.len());
            let (token, after) = from.split_at(end);
            self.token(token, &mut out);
            rest = after;
        }
        out + rest
    }

    /// Replaces the longest names in a run of letters, digits, dots and dashes.
    fn token(&mut self, token: &str, out: &mut String) {
        let separator = |c: char| !c.is_alphanumeric();
        let ends = token.match_indices(separator).map(|(at, _)| at).chain([token.len()]);
        let ends: Vec<usize> = ends.collect();
        let mut from = 0;
        while from < token.len() {
            let longest = ends.iter().rev().take_while(|end| **end > from).find_map(|end| {
                let part = token.get(from..*end)?;
                let kind = *self.names.0.get(&part.to_lowercase())?;
                Some((part, kind))
            });
            if let Some((part, kind)) = longest {
                out.push_str(&self.word(&part.to_lowercase(), kind));
                from += part.len();
            }
            // Continue after the next separator.
            let rest = token.get(from..).unwrap_or_default();
            let next = rest.find(separator).map_or(rest.len(), |at| {
                at + rest.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
            });
            out.push_str(rest.get(..next).unwrap_or_default());
            from += next;
        }
    }

    /// Returns the placeholder for a secret.
    fn word(&mut self, secret: &str, kind: &'static str) -> String {
        // An address can be written in several ways.
        let key = secret.parse::<IpAddr>().map_or_else(
            |_no_address| secret.to_lowercase().replace('-', if kind == "mac" { ":" } else { "-" }),
            |address| address.to_string(),
        );
        let counts = &mut self.counts;
        let word = self.known.entry(key).or_insert_with(|| {
            let count = counts.entry(kind).or_default();
            *count += 1;
            format!("{kind}-{count}")
        });
        word.clone()
    }
}

/// Reports whether every machine has this address, so that it identifies none.
fn is_on_every_machine(address: &IpAddr) -> bool {
    address.is_unspecified()
        || address.is_loopback()
        || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(texts: &[&str]) -> Vec<String> {
        let mut names = Names::default();
        for (name, kind) in [
            ("worker-3", "host"),
            ("gpu.example.org", "host"),
            ("gpu", "host"),
            ("alice", "user"),
            ("acme", "cluster"),
        ] {
            names.add(name, kind);
        }
        let mut redactor = Redactor { names, known: HashMap::new(), counts: HashMap::new() };
        texts.iter().map(|text| redactor.text(text)).collect()
    }

    #[test]
    fn equal_secrets_get_equal_placeholders() {
        assert_eq!(
            redacted(&[
                "10.1.2.3:9091 -> [fd77::10]:80, fd77:0::0010 and 10.1.2.3/24",
                "10.1.2.4, not 10.1.2.3",
                "02:fc:00:00:00:01 is 02-FC-00-00-00-01, on enx02fc00000001",
                "10.77.[4-5].[0-255] and fd77::[20-21], an index [3]",
            ]),
            [
                "ipv4-1:9091 -> [ipv6-1]:80, ipv6-1 and ipv4-1/24",
                "ipv4-2, not ipv4-1",
                "mac-1 is mac-1, on mac-2",
                "addresses-1 and addresses-2, an index [3]",
            ]
        );
    }

    #[test]
    fn names_are_found_as_words_and_in_longer_names() {
        assert_eq!(
            redacted(&[
                "worker-3.acme.example, WORKER-3: /home/alice/x.yaml",
                "gpu.example.org and gpu-7, worker-31, malice, alice_2",
            ]),
            [
                "host-1.cluster-1.example, host-1: /home/user-1/x.yaml",
                "host-2 and host-3-7, worker-31, malice, user-1_2",
            ]
        );
    }

    #[test]
    fn other_texts_are_not_replaced() {
        let texts = [
            "2026-03-01T12:14:07.250Z tcp/22 on 0.0.0.0 :: 127.0.0.1 ::1",
            "ray::IDLE, version 6.18.44-fc, 1.2.3, std::net::IpAddr, error: why: nothing",
            "4f2c9a1b2c3d4e5f policy.yaml eth0.100 255.255.255.255",
        ];
        assert_eq!(redacted(&texts), texts);
    }

    #[test]
    fn addresses_are_found_inside_other_text() {
        assert_eq!(
            redacted(&["at fd77::10: no", "x10.1.2.3y", "host-10.1.2.3.txt", "::ffff:10.1.2.3"]),
            ["at ipv6-1: no", "xipv4-1y", "host-ipv4-1.txt", "ipv6-2"]
        );
    }
}
