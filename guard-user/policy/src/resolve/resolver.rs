//! Resolves documents to a cluster: expands host lists, reads list files, looks names up.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    rc::Rc,
    sync::Arc,
};

use guard_common::{Addr, tables::Limits};

use super::{
    cluster::{Allow, Cluster, Network, Node, PrefixSet, Service},
    source_reader::SourceReader,
};
use crate::syntax::{
    diagnostic::{At, Diagnostic, FileId, Location, Report, Span},
    document::{ClusterDoc, LimitsDoc, NetworkContent, NodesEntry, PolicyDoc, ServiceDoc},
    hostlist::{HostList, MAX_EXPANSION, Radix},
    rules,
    scalars::{self, Cidr},
    text,
    walk::{Fault, Walk},
};

/// Maximum number of prefixes in all networks of one manifest, and in one list file.
const MAX_LISTED: usize = 1_000_000;

type Networks = BTreeMap<String, Network>;

/// Resolves a manifest and its policies. The result is valid only if no error was reported.
pub(crate) fn cluster(
    sources: &mut SourceReader<'_>,
    file: FileId,
    base: &Path,
    doc: &ClusterDoc,
    policies: &[(FileId, Rc<PolicyDoc>)],
) -> Option<Cluster> {
    let nodes = nodes(&mut Walk { file, out: &mut sources.report }, doc);
    let networks = networks(sources, file, base, doc);
    let services = policies
        .iter()
        .flat_map(|(_, policy)| policy.services.iter().map(move |service| (policy, service)))
        .map(|(policy, doc)| service(policy, doc, &networks))
        .collect();
    Some(Cluster {
        name: doc.name.clone(),
        nodes: nodes?,
        networks: networks.into_values().collect(),
        services,
        policies: policies.iter().map(|(_, policy)| policy.name.value.clone()).collect(),
    })
}

/// Returns the nodes; none after an error in a host list.
fn nodes(walk: &mut Walk<'_>, doc: &ClusterDoc) -> Option<Vec<Node>> {
    let default: Arc<[String]> = doc.interfaces.clone().unwrap_or_default().into();
    let mut nodes: Vec<Node> = Vec::new();
    // Where each node and each address is written.
    let mut places: Vec<Location> = Vec::new();
    let mut owners: HashMap<Addr, (usize, Location)> = HashMap::new();
    let mut addresses = 0_usize;
    let mut whole = true;
    for entry in &doc.nodes {
        let Some(lists) = host_lists(walk, entry) else {
            whole = false;
            continue;
        };
        let count = lists.names.count();
        addresses = addresses.saturating_add(count.saturating_mul(lists.addresses.len()));
        if nodes.len().saturating_add(count) > MAX_EXPANSION || addresses > MAX_EXPANSION {
            let message = format!(
                "the nodes up to here have {addresses} addresses, at most {MAX_EXPANSION} are \
                 possible"
            );
            walk.error(rules::EXPANSION, entry.name.place.span, message);
            return None;
        }
        let mut roles: Vec<String> = entry.roles.iter().map(|role| role.value.clone()).collect();
        roles.sort_unstable();
        roles.dedup();
        let roles: Arc<[String]> = roles.into();
        let interfaces = match &entry.interfaces {
            Some(patterns) => patterns.clone().into(),
            None => Arc::clone(&default),
        };
        for number in 0..count {
            let name = lists.names.entry(number);
            let index = nodes.len();
            let mut own = Vec::with_capacity(lists.addresses.len());
            for (list, place) in &lists.addresses {
                let written = list.entry(number);
                let Some(address) = address(walk, &written, *place, count == 1) else {
                    whole = false;
                    continue;
                };
                if let Some((other, first)) = owners.insert(address, (index, *place)) {
                    let other = nodes.get(other).map_or(&*name, |node: &Node| &*node.name);
                    let message =
                        format!("the address {written} is listed twice: `{other}` and `{name}`");
                    walk.out.push(
                        Diagnostic::error(rules::DUPLICATE_ADDRESS, *place, message)
                            .related(first, format!("also an address of `{other}`"))
                            .help("an address identifies a node; give it to one node only"),
                    );
                }
                own.push(address);
            }
            places.push(entry.name.place);
            nodes.push(Node {
                name,
                addresses: own,
                roles: Arc::clone(&roles),
                interfaces: Arc::clone(&interfaces),
                place: entry.name.place,
            });
        }
    }
    check_names(walk.out, &nodes, &places);
    whole.then_some(nodes)
}

fn check_names(out: &mut Report, nodes: &[Node], places: &[Location]) {
    let mut first: HashMap<&str, Location> = HashMap::with_capacity(nodes.len());
    for (node, place) in nodes.iter().zip(places) {
        if let Some(known) = first.get(node.name.as_str()) {
            let message = format!("the node name `{}` is used twice", node.name);
            out.push(
                Diagnostic::error(rules::DUPLICATE_NODE, *place, message)
                    .related(*known, "first used here"),
            );
        } else {
            first.insert(&node.name, *place);
        }
    }
}

struct Lists {
    names: HostList,
    addresses: Vec<(HostList, Location)>,
}

/// Parses the host lists of an entry, which must have equal lengths.
fn host_lists(walk: &mut Walk<'_>, entry: &NodesEntry) -> Option<Lists> {
    let mut parse = |written: &At<String>, radix| match HostList::parse(&written.value, radix) {
        Ok(list) => Some(list),
        Err(fault) => {
            walk.fault(written.place.span, fault);
            None
        }
    };
    let names = parse(&entry.name, Radix::Decimal);
    let addresses: Vec<Option<(HostList, Location)>> = entry
        .addresses
        .iter()
        .map(|written| {
            let six = written.value.contains(':');
            let radix = if six { Radix::Hexadecimal } else { Radix::Decimal };
            Some((parse(written, radix)?, written.place))
        })
        .collect();
    let names = names?;
    let last = names.count().checked_sub(1)?;
    if entry.name.value.is_empty() {
        return None;
    }
    if names.longest() > scalars::MAX_NAME {
        let message = format!(
            "the longest of these names has {} bytes, at most {} fit",
            names.longest(),
            scalars::MAX_NAME
        );
        walk.fault(entry.name.place.span, Fault::new(rules::NAME, message));
        return None;
    }
    if let Err(fault) = scalars::name(&names.entry(last), false) {
        walk.fault(entry.name.place.span, fault);
        return None;
    }
    let mut agree = true;
    for (list, place) in addresses.iter().flatten() {
        if list.count() != names.count() {
            agree = false;
            let message = format!(
                "{} here, but {}: the counts must agree",
                counted(list.count(), "address", "addresses"),
                counted(names.count(), "name", "names"),
            );
            walk.out.push(
                Diagnostic::error(rules::LENGTH_MISMATCH, *place, message)
                    .related(entry.name.place, counted(names.count(), "name", "names")),
            );
        }
    }
    let addresses: Vec<_> = addresses.into_iter().collect::<Option<_>>()?;
    (agree && !addresses.is_empty()).then_some(Lists { names, addresses })
}

fn counted(n: usize, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// Parses a host address. `alone` is set if the address is the whole text at its location, so that a
/// fix can replace it.
fn address(walk: &mut Walk<'_>, written: &str, place: Location, alone: bool) -> Option<Addr> {
    match scalars::host_address(written) {
        Ok(address) => Some(address),
        Err(fault) => {
            let instead = fault.instead.filter(|_| alone);
            walk.fault(place.span, Fault { instead, ..fault });
            None
        }
    }
}

/// Returns the prefixes of each network. A network with an error is present and empty.
fn networks(
    sources: &mut SourceReader<'_>,
    file: FileId,
    base: &Path,
    doc: &ClusterDoc,
) -> Networks {
    let mut networks = Networks::new();
    let mut total = 0_usize;
    for (name, content) in &doc.networks {
        let set: PrefixSet = match content {
            NetworkContent::Prefixes(cidrs) => cidrs.iter().map(|cidr| cidr.value).collect(),
            NetworkContent::File(path) => list_file(sources, base, path).into_iter().collect(),
            NetworkContent::Unknown => PrefixSet::default(),
        };
        let before = total;
        total = total.saturating_add(set.v4.len()).saturating_add(set.v6.len());
        let max = MAX_LISTED;
        if total > max && before <= max {
            let message =
                format!("the networks up to here hold {total} prefixes, at most {max} fit");
            let mut walk = Walk { file, out: &mut sources.report };
            walk.error(rules::PREFIXES, name.place.span, message);
        }
        let network = Network { name: name.clone(), prefixes: Arc::new(set) };
        networks.insert(name.value.clone(), network);
    }
    networks
}

/// Reads the prefixes of a list file: one per line; `#` starts a comment.
fn list_file(sources: &mut SourceReader<'_>, base: &Path, path: &At<String>) -> Vec<Cidr> {
    let Some((file, text)) = sources.open(&base.join(&path.value), Some(path.place)) else {
        return Vec::new();
    };
    let out = &mut sources.report;
    text::check(file, &text, out);
    let mut found = Vec::new();
    let mut at = 0_usize;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let content = line.split('#').next().unwrap_or_default();
        let entry = content.trim();
        if entry.is_empty() {
            continue;
        }
        let offset = start + (content.len() - content.trim_start().len());
        let span = Span::new(offset, offset + entry.len());
        match scalars::cidr(entry) {
            Ok(cidr) => found.push(cidr),
            Err(fault) => out.push(fault.at(Location { file, span })),
        }
        if found.len() > MAX_LISTED {
            let message = format!("the list has more than {MAX_LISTED} prefixes");
            out.push(Diagnostic::error(rules::PREFIXES, Location { file, span }, message));
            break;
        }
    }
    if found.is_empty() && !out.has_errors() {
        let message = format!("the list file `{}` contains no prefix", path.value);
        out.push(Diagnostic::warning(rules::EMPTY_ALLOW, path.place, message));
    }
    found
}

fn service(policy: &PolicyDoc, doc: &ServiceDoc, networks: &Networks) -> Service {
    let values = |names: &[At<String>]| names.iter().map(|name| name.value.clone()).collect();
    let allow = &doc.allow;
    let listed = allow.networks.iter().filter_map(|name| networks.get(&name.value));
    let mut prefixes: Vec<Arc<PrefixSet>> =
        listed.map(|network| Arc::clone(&network.prefixes)).collect();
    if !allow.cidrs.is_empty() {
        prefixes.push(Arc::new(allow.cidrs.iter().map(|cidr| cidr.value).collect()));
    }
    Service {
        name: doc.name.value.clone(),
        label: format!("{}/{}", policy.name.value, doc.name.value),
        place: doc.name.place,
        roles: values(&doc.roles),
        ports: doc.ports.iter().map(|port| port.value).collect(),
        except: doc.except.iter().map(|port| port.value).collect(),
        matching: doc.matching.value,
        allow: Allow {
            any: allow.any.is_some(),
            roles: values(&allow.roles),
            prefixes,
            role_places: allow.roles.iter().map(|role| role.place).collect(),
            networks: allow.networks.clone(),
            cidrs: allow.cidrs.clone(),
        },
        mode: doc.mode,
        forwarded: doc.forwarded,
        per_source: limits(&doc.per_source),
        total: limits(&doc.total),
    }
}

fn limits(doc: &LimitsDoc) -> Limits {
    let one = |limit: &Option<At<_>>| limit.as_ref().map(|at| at.value).unwrap_or_default();
    Limits {
        new_connections: one(&doc.new_connections),
        packets: one(&doc.packets),
        bytes: one(&doc.bytes),
    }
}
