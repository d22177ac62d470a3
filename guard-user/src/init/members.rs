//! Turns the lines of a host list into the nodes of a cluster: merges lines about the same host,
//! and gives every host its roles and a name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use guard_common::Addr;

use super::{
    findings::{Findings, Location},
    listing::Entry,
    profiles::{Profile, RoleHolders},
};

/// Maximum number of lines that a note lists.
const MAX_LISTED: usize = 10;

/// A host, merged from all lines about it.
#[derive(Debug, Clone)]
pub(super) struct Host {
    place: Location,
    name: Option<String>,
    addresses: Vec<Addr>,
    /// Whether the host is in the list, and not only named by `--scheduler`.
    listed: bool,
}

/// A node of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Name of the node.
    pub name: String,
    /// Addresses of the node.
    pub addresses: Vec<IpAddr>,
    /// Its roles, in the order of the profile.
    pub roles: Vec<&'static str>,
}

/// The merged hosts, and the index of the host for each line.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    pub(super) all: Vec<Host>,
    pub(super) of_entry: Vec<Option<usize>>,
    by_name: HashMap<String, usize>,
    by_address: HashMap<Addr, usize>,
}

fn is_four(address: &Addr) -> bool {
    matches!(address, Addr::V4(_))
}

fn shown(addresses: &[Addr]) -> String {
    let few = addresses.iter().take(4).map(|address| IpAddr::from(*address).to_string());
    let more = if addresses.len() > 4 { " ..." } else { "" };
    format!("{}{more}", few.collect::<Vec<_>>().join(" "))
}

impl Hosts {
    /// Merges lines about the same host. The first `listed` entries come from the list.
    pub(super) fn merge(entries: &[Entry], listed: usize, out: &mut Findings) -> Self {
        let mut all = Self::default();
        let mut again: Vec<&Location> = Vec::new();
        for (number, entry) in entries.iter().enumerate() {
            let is_listed = number < listed;
            let host = match all.find(entry) {
                Ok(None) => Some(all.add(entry, is_listed)),
                Ok(Some(host)) => {
                    let merged = all.extend(host, entry, is_listed);
                    if let Err(problem) = &merged {
                        out.problem(&entry.place, problem);
                    }
                    if is_listed && merged.is_ok() {
                        again.push(&entry.place);
                    }
                    merged.is_ok().then_some(host)
                }
                Err(problem) => {
                    out.problem(&entry.place, problem);
                    None
                }
            };
            all.of_entry.push(host);
        }
        if let Some(first) = again.first() {
            let lines: Vec<String> = again
                .iter()
                .take(MAX_LISTED)
                .filter_map(|place| place.line)
                .map(|line| line.to_string())
                .collect();
            let more = if again.len() > MAX_LISTED { " and more" } else { "" };
            let place = if lines.is_empty() {
                String::new()
            } else {
                format!(" (lines {}{more})", lines.join(", "))
            };
            out.note(format!(
                "`{}` lists hosts more than once, merged: {} repeated{place}",
                first.source,
                again.len(),
            ));
        }
        all
    }

    /// Returns the index of the host that an entry is about, if it is known. The error is a
    /// conflict between two hosts.
    fn find(&self, entry: &Entry) -> Result<Option<usize>, String> {
        let by_name = entry.name.as_ref().and_then(|name| self.by_name.get(name)).copied();
        let mut found = by_name;
        for address in &entry.addresses {
            let Some(owner) = self.by_address.get(address).copied() else { continue };
            if found.is_none_or(|known| known == owner) {
                found = Some(owner);
                continue;
            }
            let other = found.and_then(|known| self.all.get(known));
            let owner = self.all.get(owner);
            let place = |host: Option<&Host>| host.map(|h| h.place.short()).unwrap_or_default();
            return Err(format!(
                "{} belongs to the host of {}, but this is the host of {}",
                IpAddr::from(*address),
                place(owner),
                place(other)
            ));
        }
        Ok(found)
    }

    fn add(&mut self, entry: &Entry, listed: bool) -> usize {
        let number = self.all.len();
        let mut host = Host {
            place: entry.place.clone(),
            name: entry.name.clone(),
            addresses: Vec::with_capacity(entry.addresses.len()),
            listed,
        };
        for address in &entry.addresses {
            if self.by_address.insert(*address, number).is_none() {
                host.addresses.push(*address);
            }
        }
        if let Some(name) = &entry.name {
            self.by_name.insert(name.clone(), number);
        }
        self.all.push(host);
        number
    }

    /// Merges an entry into a known host. A line may repeat known addresses or add the other
    /// family; another address of the same family is probably a typo, and an error.
    fn extend(&mut self, number: usize, entry: &Entry, listed: bool) -> Result<(), String> {
        let Some(host) = self.all.get_mut(number) else {
            return Ok(());
        };
        let place = host.place.short();
        if let (Some(ours), Some(theirs)) = (&host.name, &entry.name)
            && ours != theirs
        {
            return Err(format!(
                "`{theirs}` has {}, which belong to `{ours}` ({place}); an address identifies a host; \
                 list it for one host only",
                shown(&entry.addresses)
            ));
        }
        let theirs: HashSet<Addr> = entry.addresses.iter().copied().collect();
        let new: Vec<Addr> = {
            let mut seen = HashSet::new();
            let is_new = |a: &&Addr| !self.by_address.contains_key(*a) && seen.insert(**a);
            entry.addresses.iter().filter(is_new).copied().collect()
        };
        let repeats = new.is_empty() || host.addresses.iter().all(|a| theirs.contains(a));
        let same_family = host.addresses.iter().any(|a| {
            let four = is_four(a);
            new.iter().any(|b| is_four(b) == four)
        });
        if !repeats && same_family {
            return Err(format!(
                "this host has {} here, but {} in {place}; write all addresses of a host on one \
                 line",
                shown(&entry.addresses),
                shown(&host.addresses)
            ));
        }
        host.listed |= listed;
        if host.name.is_none()
            && let Some(name) = &entry.name
        {
            host.name = Some(name.clone());
            self.by_name.insert(name.clone(), number);
        }
        for address in new {
            self.by_address.insert(address, number);
            host.addresses.push(address);
        }
        Ok(())
    }
}

/// The inputs that decide which hosts get which roles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'c> {
    /// Index of the scheduler, head or controller.
    pub(super) first: Option<usize>,
    /// Number of server processes; defaults to the number of lines.
    pub(super) servers: Option<usize>,
    /// Index of the host of each line; a host with several lines occurs several times.
    pub(super) lines: &'c [usize],
}

/// Gives every host its roles and its name.
pub(super) fn members(
    profile: &Profile,
    hosts: &[Host],
    choice: Choice<'_>,
    out: &mut Findings,
) -> Vec<Member> {
    let roles = roles(profile, hosts, choice, out);
    // Hosts that are not in the list come first.
    let mut order: Vec<usize> = (0..hosts.len()).collect();
    order.sort_by_key(|host| hosts.get(*host).is_some_and(|host| host.listed));
    let mut taken: HashSet<String> = hosts.iter().filter_map(|host| host.name.clone()).collect();
    let mut next: BTreeMap<&str, usize> = BTreeMap::new();
    let mut members = Vec::with_capacity(hosts.len());
    for number in order {
        let (Some(host), Some(roles)) = (hosts.get(number), roles.get(number)) else { continue };
        let name = host.name.clone().unwrap_or_else(|| {
            let role = naming_role(profile, roles);
            let next = next.entry(role).or_default();
            loop {
                let name = format!("{role}-{next}");
                *next += 1;
                if taken.insert(name.clone()) {
                    break name;
                }
            }
        });
        members.push(Member {
            name,
            addresses: host.addresses.iter().map(|address| IpAddr::from(*address)).collect(),
            roles: roles.clone(),
        });
    }
    members
}

/// Returns the role after which a host without a name is named: the last one, which most hosts
/// have, except a role that it has only because no host is named after it.
fn naming_role(profile: &Profile, roles: &[&'static str]) -> &'static str {
    let is_named = |role: &str| {
        profile.roles.iter().any(|(name, which)| *name == role && *which == RoleHolders::Named)
    };
    let own = roles.iter().rev().find(|role| !is_named(role));
    own.or(roles.last()).copied().unwrap_or("host")
}

fn roles(
    profile: &Profile,
    hosts: &[Host],
    choice: Choice<'_>,
    out: &mut Findings,
) -> Vec<Vec<&'static str>> {
    let listed: Vec<usize> = (0..).zip(hosts).filter(|(_, h)| h.listed).map(|(n, _)| n).collect();
    let first = choice.first.or_else(|| listed.first().copied());
    let named = |role: &str| -> Vec<usize> {
        let begins = |host: &Host| {
            let start = host.name.as_deref().and_then(|name| name.get(..role.len()));
            start.is_some_and(|start| start.eq_ignore_ascii_case(role))
        };
        (0..).zip(hosts).filter(|(_, host)| begins(host)).map(|(n, _)| n).collect()
    };
    let mut apart: HashSet<usize> = HashSet::new();
    for (role, which) in profile.roles {
        match which {
            RoleHolders::Scheduler | RoleHolders::First => apart.extend(first),
            RoleHolders::Named => apart.extend(named(role)),
            RoleHolders::Listed | RoleHolders::Servers | RoleHolders::Others => {}
        }
    }
    let mut roles: Vec<Vec<&'static str>> = vec![Vec::new(); hosts.len()];
    for (role, which) in profile.roles {
        let have: Vec<usize> = match which {
            RoleHolders::Scheduler | RoleHolders::First => first.into_iter().collect(),
            RoleHolders::Listed => listed.clone(),
            // The dmlc tracker starts process `i` on host `i` modulo the number of hosts, servers
            // first.
            RoleHolders::Servers => {
                let count = choice.servers.unwrap_or(choice.lines.len());
                choice.lines.iter().take(count).copied().collect()
            }
            RoleHolders::Others => {
                let rest = listed.iter().filter(|host| !apart.contains(host));
                let rest: Vec<usize> = rest.copied().collect();
                if rest.is_empty() {
                    out.note(format!("no host is left for the role {role}, so all hosts get it"));
                    listed.clone()
                } else {
                    rest
                }
            }
            RoleHolders::Named => {
                let named = named(role);
                if named.is_empty() {
                    out.note(format!(
                        "no host has a name that begins with `{role}`, so the role {role} goes to \
                         the scheduler host, or else the first one"
                    ));
                    first.into_iter().collect()
                } else {
                    named
                }
            }
        };
        for host in have {
            if let Some(roles) = roles.get_mut(host)
                && !roles.contains(role)
            {
                roles.push(role);
            }
        }
    }
    roles
}
