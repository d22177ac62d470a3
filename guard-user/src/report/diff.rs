//! The difference between two policies, as text and as JSON: admitted and refused packets.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use guard_common::{Addr, port_table::Transport, tables::Unit};
use serde::Serialize;

use super::replay::action;
use crate::{
    output::{self, Format},
    policy::{
        diff::{
            Change, Difference, Direction, LimitChange, Meets, PacketPath, Region, Traffic,
            names_in,
        },
        resolve::cluster::Cluster,
        syntax::{scalars::PortRange, text::shell_word},
    },
    probe::SOURCE_PORT,
    text::counted,
};

/// `schema` of the JSON form.
const SCHEMA: &str = "trainguard/diff/v1";
/// Maximum number of list items in the text.
const MAX_SHOWN: usize = 8;

/// Prints the difference. `manifest` is the one to evaluate example packets with.
pub fn print(difference: &Difference, [old, new]: [&Cluster; 2], manifest: &Path, format: Format) {
    match format {
        Format::Text => {
            output::answer(text(difference, [old, new], manifest).trim_end());
        }
        Format::Json => output::answer_json(&document(difference, [old, new])),
    }
}

/// Joins the first items, and counts the rest.
fn some(items: impl IntoIterator<Item = impl ToString>) -> String {
    let mut items = items.into_iter();
    let mut shown: Vec<String> =
        items.by_ref().take(MAX_SHOWN).map(|item| item.to_string()).collect();
    let more = items.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

/// Describes the sources of a region. If it has nearly all addresses of a family, the exceptions
/// are listed instead.
fn sources(region: &Region) -> Vec<String> {
    let rest = region.rest();
    let one = |v4: bool, of: &Region| Region {
        v4: if v4 { of.v4.clone() } else { Vec::new() },
        v6: if v4 { Vec::new() } else { of.v6.clone() },
    };
    let mut families = Vec::new();
    let mut few = Vec::new();
    for (v4, name) in [(true, "IPv4"), (false, "IPv6")] {
        let (inside, left) = (one(v4, region).prefixes(), one(v4, &rest).prefixes());
        if left.len() >= inside.len() {
            few.extend(inside);
        } else if left.is_empty() {
            families.push(format!("every {name} address"));
        } else {
            families.push(format!("every {name} address except {}", some(left)));
        }
    }
    if !few.is_empty() {
        families.insert(0, some(few));
    }
    families
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Wider => "WIDER   ",
        Direction::Narrower => "NARROWER",
        Direction::Observed => "OBSERVED",
    }
}

fn what(change: &Change) -> String {
    let what = match change.traffic {
        Traffic::All if change.path == PacketPath::Forwarded => {
            format!("packets to {}", some(&change.ports))
        }
        Traffic::All => some(&change.ports),
        Traffic::Opening => format!("new connections to {}", some(&change.ports)),
        Traffic::Established => format!("segments of connections to {}", some(&change.ports)),
        Traffic::Fragments if change.transports.len() == Transport::ALL.len() => {
            "later fragments".to_owned()
        }
        Traffic::Fragments => {
            let names: Vec<&str> = change.transports.iter().map(|known| known.name()).collect();
            format!("later fragments of {}", names.join(" and "))
        }
        Traffic::Unreadable => "frames that cannot be read".to_owned(),
    };
    match change.path {
        PacketPath::Received => what,
        PacketPath::Both => format!("{what}, also forwarded,"),
        PacketPath::Forwarded => format!("forwarded {what}"),
    }
}

/// Returns the name of a path in JSON.
fn path(path: PacketPath) -> &'static str {
    match path {
        PacketPath::Received => "received",
        PacketPath::Both => "both",
        PacketPath::Forwarded => "forwarded",
    }
}

fn meets(meets: &Meets) -> String {
    let by = meets.service.as_ref().map(|service| format!(" by {service}")).unwrap_or_default();
    format!("{} ({}{by})", action(meets.action), meets.reason.name())
}

/// Formats the difference as text.
pub(super) fn text(difference: &Difference, clusters: [&Cluster; 2], manifest: &Path) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let mut add = |line: String| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{line}");
    };
    for change in &difference.changes {
        add(format!(
            "{} {} on {}: was {}, now {}",
            direction(change.direction()),
            what(change),
            some(&change.nodes),
            meets(&change.old),
            meets(&change.new)
        ));
        if change.traffic == Traffic::Unreadable {
            continue;
        }
        for family in sources(&change.sources) {
            add(format!("           from {family}"));
        }
        let names = names_in(&change.sources, clusters);
        if !names.is_empty() {
            let nodes = counted(names.len(), "node");
            add(format!("           {nodes} of the manifest among them: {}", some(names)));
        }
        if let Some(example) = example(change, clusters, manifest) {
            add(format!("           e.g. {example}"));
        }
    }
    for change in &difference.limits {
        let direction =
            direction(if change.is_wider() { Direction::Wider } else { Direction::Narrower });
        let service = change.new.service.as_ref().or(change.old.service.as_ref());
        let of = match change.path {
            PacketPath::Received => "of",
            PacketPath::Both => "on received and forwarded packets of",
            PacketPath::Forwarded => "on forwarded packets of",
        };
        add(format!(
            "{direction} limits {of} {} at {} on {}",
            service.map_or("-", String::as_str),
            some(&change.ports),
            some(&change.nodes)
        ));
        for limit in change.each() {
            add(format!(
                "           {}: was {}, now {}",
                limit_name(limit.total, limit.unit),
                limit_text(limit.old, limit.unit),
                limit_text(limit.new, limit.unit)
            ));
        }
    }
    for change in &difference.interfaces {
        let wider = if change.is_wider() { Direction::Wider } else { Direction::Narrower };
        add(format!(
            "{} interfaces of {}: were {}, now {}",
            direction(wider),
            some(&change.nodes),
            some(change.old.iter()),
            some(change.new.iter())
        ));
    }
    for (names, what) in [
        (&difference.added, "new in the manifest, guarded once its daemon runs"),
        (&difference.removed, "no longer in the manifest: its daemon keeps its last policy"),
    ] {
        if !names.is_empty() {
            add(format!("NODES    {}: {what}", some(names)));
        }
    }
    if difference.is_empty() {
        add("no difference: every packet gets the same verdict and the same limits".to_owned());
    } else {
        add("unchanged for all other packets".to_owned());
    }
    out
}

fn limit_name(total: bool, unit: Unit) -> String {
    let scope = if total { "total" } else { "perSource" };
    let unit = match unit {
        Unit::NewConnections => "newConnections",
        Unit::Packets => "packets",
        Unit::Bytes => "bytes",
    };
    format!("{scope}.{unit}")
}

fn limit_text(limit: Option<(u64, u64)>, unit: Unit) -> String {
    let suffix = if unit == Unit::Bytes { "B" } else { "" };
    match limit {
        Some((rate, burst)) => format!("{rate}{suffix}/s with a burst of {burst}{suffix}"),
        None => "unlimited".to_owned(),
    }
}

/// Describes an example packet to a node that the change affects, with the command that evaluates it.
fn example(change: &Change, clusters: [&Cluster; 2], manifest: &Path) -> Option<String> {
    let (from, port) = change.example?;
    let node = change.nodes.first()?;
    let address = address_of(node, from, clusters);
    let to = address.map_or_else(|| node.clone(), |address| address.to_string());
    let name = name_of(from, clusters).map(|name| format!(" ({name})")).unwrap_or_default();
    let Some(PortRange { transport, first, .. }) = port else {
        return Some(format!("{from}{name} -> {node}: a later fragment"));
    };
    let flags = match change.traffic {
        Traffic::Established => " --flags A",
        _ => "",
    };
    let forwarded = if change.path == PacketPath::Forwarded { " --forwarded" } else { "" };
    let ends = |addr: IpAddr, port: u16| std::net::SocketAddr::new(addr, port);
    // Every port has a packet to try but port 0, to which no connection can be opened.
    let first = first.max(1);
    let manifest = shell_word(&manifest.to_string_lossy());
    let to = address.map_or_else(|| format!("{to}:{first}"), |to| ends(to, first).to_string());
    Some(format!(
        "{}{name} -> {node}: `trainguard trace --manifest {manifest} --node {node} --from {from} \
         --to {to} --proto {}{flags}{forwarded}`",
        ends(from, SOURCE_PORT),
        transport.name()
    ))
}

fn address_of(node: &str, like: IpAddr, clusters: [&Cluster; 2]) -> Option<IpAddr> {
    let [old, new] = clusters;
    let addresses = [new, old].into_iter().filter_map(|cluster| cluster.node(node));
    let mut addresses = addresses.flat_map(|node| &node.addresses).map(|addr| IpAddr::from(*addr));
    addresses.find(|addr| addr.is_ipv4() == like.is_ipv4())
}

fn name_of(addr: IpAddr, [old, new]: [&Cluster; 2]) -> Option<&str> {
    let addr = Addr::from(addr);
    let node = new.node_at(&addr).or_else(|| old.node_at(&addr));
    node.map(|node| node.name.as_str())
}

#[derive(Serialize)]
struct Document<'d> {
    schema: &'static str,
    wider: bool,
    changes: Vec<ChangeJson<'d>>,
    limits: Vec<LimitJson<'d>>,
    interfaces: Vec<InterfaceJson<'d>>,
    added_nodes: &'d [String],
    removed_nodes: &'d [String],
}

#[derive(Serialize)]
struct MeetsJson<'d> {
    action: &'static str,
    reason: &'static str,
    service: Option<&'d str>,
}

#[derive(Serialize)]
struct ChangeJson<'d> {
    direction: &'static str,
    traffic: &'static str,
    /// `received`, `forwarded` or `both`: what the node does with the packets.
    path: &'static str,
    /// The transports of later fragments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    transports: Vec<&'static str>,
    ports: Vec<String>,
    nodes: &'d [String],
    old: MeetsJson<'d>,
    new: MeetsJson<'d>,
    sources: Vec<String>,
    source_nodes: BTreeSet<&'d str>,
    example: Option<ExampleJson>,
}

#[derive(Serialize)]
struct ExampleJson {
    source: String,
    port: Option<String>,
}

#[derive(Serialize)]
struct LimitJson<'d> {
    wider: bool,
    path: &'static str,
    old_service: Option<&'d str>,
    new_service: Option<&'d str>,
    ports: Vec<String>,
    nodes: &'d [String],
    limits: Vec<OneJson>,
}

#[derive(Serialize)]
struct OneJson {
    limit: String,
    wider: bool,
    old: Option<RateJson>,
    new: Option<RateJson>,
}

#[derive(Serialize)]
struct RateJson {
    rate: u64,
    burst: u64,
}

#[derive(Serialize)]
struct InterfaceJson<'d> {
    wider: bool,
    old: &'d [String],
    new: &'d [String],
    nodes: &'d [String],
}

fn strings(items: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

/// Returns the difference as a JSON document.
pub(super) fn document<'d>(
    difference: &'d Difference,
    clusters: [&'d Cluster; 2],
) -> impl Serialize + use<'d> {
    let meets = |meets: &'d Meets| MeetsJson {
        action: meets.action.name(),
        reason: meets.reason.name(),
        service: meets.service.as_deref(),
    };
    let change = |change: &'d Change| ChangeJson {
        direction: match change.direction() {
            Direction::Wider => "wider",
            Direction::Narrower => "narrower",
            Direction::Observed => "observed",
        },
        traffic: match change.traffic {
            Traffic::All => "all",
            Traffic::Opening => "new-connections",
            Traffic::Established => "established",
            Traffic::Fragments => "fragments",
            Traffic::Unreadable => "unreadable",
        },
        path: path(change.path),
        transports: change.transports.iter().map(|known| known.name()).collect(),
        ports: strings(&change.ports),
        nodes: &change.nodes,
        old: meets(&change.old),
        new: meets(&change.new),
        sources: strings(change.sources.prefixes()),
        source_nodes: names_in(&change.sources, clusters),
        example: change.example.map(|(source, port)| ExampleJson {
            source: source.to_string(),
            port: port.map(|port| port.to_string()),
        }),
    };
    let rate = |limit: Option<(u64, u64)>| limit.map(|(rate, burst)| RateJson { rate, burst });
    let limit = |change: &'d LimitChange| LimitJson {
        wider: change.is_wider(),
        path: path(change.path),
        old_service: change.old.service.as_deref(),
        new_service: change.new.service.as_deref(),
        ports: strings(&change.ports),
        nodes: &change.nodes,
        limits: change
            .each()
            .map(|limit| OneJson {
                limit: limit_name(limit.total, limit.unit),
                wider: limit.is_wider(),
                old: rate(limit.old),
                new: rate(limit.new),
            })
            .collect(),
    };
    Document {
        schema: SCHEMA,
        wider: difference.is_wider(),
        changes: difference.changes.iter().map(change).collect(),
        limits: difference.limits.iter().map(limit).collect(),
        interfaces: difference
            .interfaces
            .iter()
            .map(|change| InterfaceJson {
                wider: change.is_wider(),
                old: &change.old,
                new: &change.new,
                nodes: &change.nodes,
            })
            .collect(),
        added_nodes: &difference.added,
        removed_nodes: &difference.removed,
    }
}
