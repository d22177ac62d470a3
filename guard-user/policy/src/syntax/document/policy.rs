//! Reads a policy from its tree.

use super::{
    AllowDoc, Forwarded, LimitsDoc, Match, Mode, PolicyDoc, ServiceDoc, cluster::names,
    limits::limits,
};
use crate::syntax::{
    diagnostic::{At, Location},
    rules,
    scalars::{self, PortRange},
    walk::{Fault, Fields, Walk},
    yaml::{Kind, Node},
};

/// Maximum number of port entries in `ports`, and in `except`, of a service.
const MAX_PORT_ENTRIES: usize = 256;

pub(crate) fn policy(walk: &mut Walk<'_>, fields: &Fields<'_, '_>) -> Option<PolicyDoc> {
    let name = fields
        .need(walk, "name", "a name for the policy, such as `name: mxnet`")
        .and_then(|node| walk.parsed(node, "`name`", "a name", scalars::name));
    if let Some(node) = fields.get("description") {
        walk.scalar(node, "`description`", "a text");
    }
    let services = fields.need(walk, "services", "`services:` with the services to guard");
    let services = services.and_then(|node| walk.some(node, "`services`", "services"));
    let services: Vec<ServiceDoc> =
        services.unwrap_or_default().iter().filter_map(|item| service(walk, item)).collect();
    Some(PolicyDoc { name: name?, services })
}

fn service(walk: &mut Walk<'_>, node: &Node<'_>) -> Option<ServiceDoc> {
    const KNOWN: [&str; 9] =
        ["name", "roles", "ports", "except", "match", "allow", "mode", "forwarded", "limits"];
    let fields = walk.fields(node, "a service", &KNOWN)?;
    let name = fields
        .need(walk, "name", "a name, such as `name: scheduler`")
        .and_then(|node| walk.parsed(node, "`name`", "a name", scalars::name));
    let roles = fields.need(walk, "roles", "`roles:` with the roles of the nodes that run it");
    let roles = roles.and_then(|node| {
        walk.some(node, "`roles`", "roles")?;
        Some(names(walk, node, "`roles`").0)
    });
    let ports = fields.need(walk, "ports", "`ports:` such as `[tcp/9091]`");
    let ports = ports.and_then(|node| port_list(walk, node, "`ports`"));
    let except = match fields.get("except") {
        Some(node) => port_list(walk, node, "`except`"),
        None => Some(Vec::new()),
    };
    let matching = fields.need(walk, "match", "`match: all` or `match: new-connections`");
    let matching = matching.and_then(|node| {
        let words = [("all", Match::All), ("new-connections", Match::NewConnections)];
        let expected = "`all` or `new-connections`";
        walk.parsed(node, "`match`", expected, |text, _| scalars::choice(text, &words))
    });
    let expected = "`allow:` with `roles`, `networks`, `cidrs`, or `any: true`";
    let allow = fields.need(walk, "allow", expected);
    let allow = allow.and_then(|node| allow_doc(walk, node));
    let mode = fields.need(walk, "mode", "`mode: enforce` or `mode: observe`");
    let mode = mode.and_then(|node| {
        let words = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
        let expected = "`enforce` or `observe`";
        walk.parsed(node, "`mode`", expected, |text, _| scalars::choice(text, &words))
    });
    let forwarded = match fields.get("forwarded") {
        Some(node) => {
            let words = [("pass", Forwarded::Pass), ("guard", Forwarded::Guard)];
            walk.parsed(node, "`forwarded`", "`pass` or `guard`", |text, _| {
                scalars::choice(text, &words)
            })
            .map(|found| found.value)
        }
        None => Some(Forwarded::default()),
    };
    let mut per_source = LimitsDoc::default();
    let mut total = LimitsDoc::default();
    if let Some(node) = fields.get("limits")
        && let Some(fields) = walk.fields(node, "`limits`", &["perSource", "total"])
    {
        if let Some(node) = fields.get("perSource") {
            per_source = limits(walk, node, "`perSource`");
        }
        if let Some(node) = fields.get("total") {
            total = limits(walk, node, "`total`");
        }
    }
    Some(ServiceDoc {
        name: name?,
        roles: roles?,
        ports: ports?,
        except: except?,
        matching: matching?,
        allow: allow?,
        mode: mode?.value,
        forwarded: forwarded?,
        per_source,
        total,
    })
}

fn port_list(walk: &mut Walk<'_>, node: &Node<'_>, what: &str) -> Option<Vec<At<PortRange>>> {
    let items = walk.some(node, what, "ports such as `tcp/9091`")?;
    if items.len() > MAX_PORT_ENTRIES {
        let message =
            format!("{what} has {} entries, at most {MAX_PORT_ENTRIES} are possible", items.len());
        let fault = Fault::new(rules::EXPANSION, message).help("join neighbours into ranges");
        walk.fault(node.span, fault);
        return None;
    }
    let expected = "ports such as `tcp/9091`";
    let (ports, whole) =
        walk.parsed_list(items, "a port", expected, |text, _| scalars::ports(text));
    whole.then_some(ports)
}

fn allow_doc(walk: &mut Walk<'_>, node: &Node<'_>) -> Option<AllowDoc> {
    if let Kind::Mapping(entries) = &node.kind
        && entries.is_empty()
    {
        empty_allow(walk, walk.place(node.span), "`allow` is empty: it would admit no source");
        return None;
    }
    let fields = walk.fields(node, "`allow`", &["roles", "networks", "cidrs", "any"])?;
    let list = |walk: &mut Walk<'_>, field: &str| {
        let node = fields.get(field)?;
        let what = format!("`{field}`");
        let expected = if field == "cidrs" { "prefixes" } else { "names" };
        let items = walk.list(node, &what, expected)?;
        if items.is_empty() {
            let message = format!("{what} is an empty list: it admits no source");
            empty_allow(walk, walk.place(node.span), &message);
            return None;
        }
        Some(node)
    };
    let roles = list(walk, "roles").map(|node| names(walk, node, "`roles`").0);
    let networks = list(walk, "networks").map(|node| names(walk, node, "`networks`").0);
    let prefixes = list(walk, "cidrs").and_then(|node| walk.list(node, "`cidrs`", "prefixes"));
    let prefixes = prefixes.map(|items| {
        let one = |item| walk.parsed(item, "a prefix", "a prefix", |text, _| scalars::cidr(text));
        items.iter().filter_map(one).collect()
    });
    let any =
        fields.get("any").and_then(|node| walk.parsed(node, "`any`", "`true`", scalars::only_true));
    if let Some(any) = &any {
        for field in ["roles", "networks", "cidrs"] {
            if let Some(other) = fields.get(field) {
                let message = format!("`any: true` admits every source, but `{field}` lists some");
                let finding = Fault::new(rules::CONTRADICTION, message)
                    .help("keep one of the two")
                    .at(any.place);
                let other = walk.place(other.span);
                walk.out.push(finding.related(other, "only these"));
            }
        }
    }
    Some(AllowDoc {
        any: any.map(|any| any.place),
        roles: roles.unwrap_or_default(),
        networks: networks.unwrap_or_default(),
        cidrs: prefixes.unwrap_or_default(),
    })
}

fn empty_allow(walk: &mut Walk<'_>, place: Location, message: &str) {
    let help = "list the sources that may reach the service, or write `any: true` to admit all";
    walk.out.push(Fault::new(rules::EMPTY_ALLOW, message).help(help).at(place));
}
