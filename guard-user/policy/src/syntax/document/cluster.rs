//! Reads a cluster manifest from its tree.

use super::{ClusterDoc, NetworkContent, NodesEntry};
use crate::syntax::{
    diagnostic::At,
    rules,
    scalars::{self, Cidr},
    walk::{Fields, Walk},
    yaml::{Kind, Node},
};

pub(crate) fn names(walk: &mut Walk<'_>, node: &Node<'_>, what: &str) -> (Vec<At<String>>, bool) {
    match walk.list(node, what, "names") {
        Some(items) => walk.parsed_list(items, "a name", "a name", scalars::name),
        None => (Vec::new(), false),
    }
}

fn interfaces(walk: &mut Walk<'_>, node: &Node<'_>) -> Vec<String> {
    let items = walk.some(node, "`interfaces`", "interface patterns");
    let what = "an interface pattern";
    let (found, _) = walk.parsed_list(items.unwrap_or_default(), what, what, scalars::interface);
    found.into_iter().map(|found| found.value).collect()
}

pub(crate) fn cluster(walk: &mut Walk<'_>, fields: &Fields<'_, '_>) -> ClusterDoc {
    let name = fields
        .need(walk, "name", "a name for the cluster, such as `name: demo`")
        .and_then(|node| walk.parsed(node, "`name`", "a name", scalars::name));
    let name = name.map_or_else(String::new, |name| name.value);
    in_place(walk, fields, name)
}

/// Reads a cluster from the fields of a document. The name is not taken from the fields.
pub(crate) fn in_place(walk: &mut Walk<'_>, fields: &Fields<'_, '_>, name: String) -> ClusterDoc {
    let patterns = fields.get("interfaces").map(|node| interfaces(walk, node));
    let mut doc = ClusterDoc {
        name,
        interfaces: patterns,
        nodes: Vec::new(),
        roles_known: true,
        networks: Vec::new(),
        networks_known: true,
        policies: Vec::new(),
        policies_known: true,
    };
    let nodes = fields.need(walk, "nodes", "`nodes:` with the hosts of the cluster");
    match nodes.and_then(|node| walk.some(node, "`nodes`", "nodes")) {
        Some(items) => {
            for item in items {
                match nodes_entry(walk, item, &mut doc.roles_known) {
                    Some(entry) => doc.nodes.push(entry),
                    None => doc.roles_known = false,
                }
            }
        }
        None => doc.roles_known = false,
    }
    if let Some(node) = fields.get("networks") {
        networks(walk, node, &mut doc);
    }
    let policies = fields.need(walk, "policies", "`policies:` with the policy files");
    match policies.and_then(|node| walk.some(node, "`policies`", "paths of policy files")) {
        Some(items) => {
            let path = "the path of a policy file";
            let (paths, whole) = walk.parsed_list(items, path, path, scalars::path);
            doc.policies = paths;
            doc.policies_known = whole;
        }
        None => doc.policies_known = false,
    }
    doc
}

fn nodes_entry(walk: &mut Walk<'_>, node: &Node<'_>, roles_known: &mut bool) -> Option<NodesEntry> {
    let fields = walk.fields(node, "a node", &["name", "addresses", "roles", "interfaces"])?;
    let name = fields.need(walk, "name", "`name:` with a name or a host list such as `gpu-[0-7]`");
    let name = name.and_then(|node| {
        walk.parsed(node, "`name`", "a name or a host list", |text, plain| {
            if !text.contains(['[', ']']) {
                return scalars::name(text, plain);
            }
            scalars::listed_name(text)?;
            Ok(text.to_owned())
        })
    });
    let addresses = fields.need(walk, "addresses", "`addresses:` with at least one address");
    let addresses = addresses.and_then(|node| {
        let expected = "an address or a host list of addresses";
        let items = walk.list(node, "`addresses`", "addresses")?;
        if items.is_empty() {
            let message = "a node without addresses, expected at least one";
            walk.error(rules::NO_ADDRESS, node.span, message);
            return None;
        }
        let one = |text: &str, _| {
            if text.contains(['[', ']']) {
                scalars::listed_address(text)?;
            } else {
                scalars::address(text)?;
            }
            Ok(text.to_owned())
        };
        Some(walk.parsed_list(items, "an address", expected, one).0)
    });
    let roles = fields.need(walk, "roles", "`roles:` with the roles of the node");
    let roles = roles.map(|node| names(walk, node, "`roles`"));
    let (roles, whole) = roles.unwrap_or_default();
    *roles_known &= whole;
    let patterns = fields.get("interfaces").map(|node| interfaces(walk, node));
    Some(NodesEntry {
        // An entry without a valid name still counts for its roles.
        name: name.unwrap_or_else(|| At::new(String::new(), walk.place(fields.head))),
        addresses: addresses.unwrap_or_default(),
        roles,
        interfaces: patterns,
    })
}

fn networks(walk: &mut Walk<'_>, node: &Node<'_>, doc: &mut ClusterDoc) {
    let Kind::Mapping(entries) = &node.kind else {
        walk.fields(node, "`networks`", &["name: [prefixes]"]);
        doc.networks_known = false;
        return;
    };
    for (key, value) in entries {
        let place = walk.place(key.span);
        // Keys always are text here, so a number needs no quotes.
        if let Err(fault) = scalars::name(&key.text, false) {
            walk.fault(key.span, fault);
        }
        let content = match &value.kind {
            Kind::Mapping(_) => {
                let what = "a network that is not a list";
                let fields = walk.fields(value, what, &["file"]);
                let path = fields.and_then(|f| f.need(walk, "file", "`file:` with a path"));
                let path =
                    path.and_then(|node| walk.parsed(node, "`file`", "a path", scalars::path));
                path.map_or(NetworkContent::Unknown, NetworkContent::File)
            }
            _ => match walk.some(value, "a network", "prefixes, or `file:`") {
                Some(items) => NetworkContent::Prefixes(cidrs(walk, items)),
                None => NetworkContent::Unknown,
            },
        };
        doc.networks.push((At::new(key.text.clone().into_owned(), place), content));
    }
}

pub(crate) fn cidrs(walk: &mut Walk<'_>, items: &[Node<'_>]) -> Vec<At<Cidr>> {
    walk.parsed_list(items, "a prefix", "a prefix", |text, _| scalars::cidr(text)).0
}
