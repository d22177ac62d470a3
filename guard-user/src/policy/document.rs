//! The two documents as they are written, each value with its place. Says nothing about whether
//! names and files exist.

use guard_common::bucket::Limit;

use super::{
    diagnostic::{At, FileId, Place, Report, code},
    scalars::{self, Cidr, Counted, PortRange},
    text,
    walk::{Fault, Fields, Walk},
    yaml::{Kind, Node},
};

/// The `apiVersion` of both documents.
pub const API_VERSION: &str = "trainguard/v1";
/// Port entries of one service, and of its `except`.
const MAX_PORT_ENTRIES: usize = 256;
/// Longest time that a bucket may take to fill, in seconds: a year.
const MAX_FILL: u64 = 365 * 24 * 3600;
/// Largest Ethernet frame in use, in bytes: a jumbo frame with header and tags.
const JUMBO_FRAME: u64 = 9216;
/// Smallest Ethernet frame, in bytes.
const SMALLEST_FRAME: u64 = 64;

/// A document.
#[derive(Debug)]
pub(super) enum Document {
    Cluster(ClusterDoc),
    Policy(PolicyDoc),
}

/// A cluster manifest.
#[derive(Debug)]
pub(super) struct ClusterDoc {
    pub(super) name: String,
    pub(super) interfaces: Option<Vec<String>>,
    pub(super) nodes: Vec<NodesEntry>,
    /// Whether the roles of all nodes are known.
    pub(super) roles_known: bool,
    pub(super) networks: Vec<(At<String>, NetworkContent)>,
    pub(super) networks_known: bool,
    pub(super) policies: Vec<At<String>>,
    pub(super) policies_known: bool,
}

/// One entry of `nodes`: a node or a host list of them.
#[derive(Debug)]
pub(super) struct NodesEntry {
    pub(super) name: At<String>,
    pub(super) addresses: Vec<At<String>>,
    pub(super) roles: Vec<At<String>>,
    pub(super) interfaces: Option<Vec<String>>,
}

/// What a named network holds.
#[derive(Debug)]
pub(super) enum NetworkContent {
    Prefixes(Vec<Cidr>),
    File(At<String>),
    /// Written wrongly; reported.
    Unknown,
}

/// A policy.
#[derive(Debug)]
pub(super) struct PolicyDoc {
    pub(super) name: At<String>,
    pub(super) services: Vec<ServiceDoc>,
}

/// Which packets to its ports a service is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Every packet.
    All,
    /// TCP segments that open a connection.
    NewConnections,
}

/// What happens to packets that are not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are dropped.
    Enforce,
    /// They are counted.
    Observe,
}

/// A service.
#[derive(Debug)]
pub(super) struct ServiceDoc {
    pub(super) name: At<String>,
    pub(super) roles: Vec<At<String>>,
    pub(super) ports: Vec<At<PortRange>>,
    pub(super) except: Vec<At<PortRange>>,
    pub(super) matching: At<Match>,
    pub(super) allow: AllowDoc,
    pub(super) mode: Mode,
    pub(super) per_source: LimitsDoc,
    pub(super) total: LimitsDoc,
}

/// Who may reach a service.
#[derive(Debug)]
pub(super) struct AllowDoc {
    pub(super) any: bool,
    pub(super) roles: Vec<At<String>>,
    pub(super) networks: Vec<At<String>>,
    pub(super) cidrs: Vec<Cidr>,
}

/// Limits, each with its place.
#[derive(Debug, Default)]
pub(super) struct LimitsDoc {
    pub(super) new_connections: Option<At<Limit>>,
    pub(super) packets: Option<At<Limit>>,
    pub(super) bytes: Option<At<Limit>>,
}

/// Whether a tree calls itself one of our documents.
pub(super) fn is_ours(node: &Node<'_>) -> bool {
    let Kind::Mapping(entries) = &node.kind else {
        return false;
    };
    entries.iter().any(|(key, value)| {
        let ours = |text: &str| text.starts_with("trainguard/");
        key.text == "apiVersion" && matches!(&value.kind, Kind::Scalar { text, .. } if ours(text))
    })
}

/// Reads a document from its tree. What is wrong is in the report; what is left of a document is
/// given all the same, so that further errors can be found.
pub(super) fn read(file: FileId, node: &Node<'_>, out: &mut Report) -> Option<Document> {
    const CLUSTER: [&str; 7] = [
        "apiVersion",
        "kind",
        "name",
        "interfaces",
        "nodes",
        "networks",
        "policies",
    ];
    const POLICY: [&str; 5] = ["apiVersion", "kind", "name", "description", "services"];
    let mut walk = Walk { file, out };
    let walk = &mut walk;
    let kind = match &node.kind {
        Kind::Mapping(entries) => entries.iter().find(|(key, _)| key.text == "kind"),
        _ => None,
    };
    let kind = kind.and_then(|(_, value)| match &value.kind {
        Kind::Scalar { text, .. } => Some(&**text),
        _ => None,
    });
    match kind {
        Some("Cluster") => {
            let fields = walk.fields(node, "the manifest", &CLUSTER)?;
            check_version(walk, &fields);
            Some(Document::Cluster(cluster(walk, &fields)))
        }
        Some("Policy") => {
            let fields = walk.fields(node, "the policy", &POLICY)?;
            check_version(walk, &fields);
            policy(walk, &fields).map(Document::Policy)
        }
        _ => {
            let Kind::Mapping(entries) = &node.kind else {
                walk.fields(node, "the document", &["apiVersion", "kind", "name"])?;
                return None;
            };
            let head = entries.first().map_or(node.span, |(key, _)| key.span);
            let all = Fields::of(node, head, "the document");
            check_version(walk, &all);
            if let Some(kind) = all.need(walk, "kind", "`kind: Cluster` or `kind: Policy`") {
                walk.parsed(kind, "`kind`", "`Cluster` or `Policy`", |text, _| {
                    let kinds = [("Cluster", ()), ("Policy", ())];
                    scalars::choice(text, &kinds).map_err(|fault| Fault {
                        code: code::API_VERSION,
                        ..fault
                    })
                });
            }
            None
        }
    }
}

fn check_version(walk: &mut Walk<'_>, fields: &Fields<'_, '_>) {
    let Some(node) = fields.need(walk, "apiVersion", "`apiVersion: trainguard/v1`") else {
        return;
    };
    walk.parsed(node, "`apiVersion`", "`trainguard/v1`", |text, _| {
        if text == API_VERSION {
            return Ok(());
        }
        let shown = text::shown(text);
        Err(Fault::new(
            code::API_VERSION,
            format!("`{shown}` is not understood, expected `{API_VERSION}`"),
        ))
    });
}

fn names(walk: &mut Walk<'_>, node: &Node<'_>, what: &str) -> (Vec<At<String>>, bool) {
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

fn cluster(walk: &mut Walk<'_>, fields: &Fields<'_, '_>) -> ClusterDoc {
    let name = fields
        .need(walk, "name", "a name for the cluster, such as `name: demo`")
        .and_then(|node| walk.parsed(node, "`name`", "a name", scalars::name));
    let patterns = fields.get("interfaces").map(|node| interfaces(walk, node));
    let mut doc = ClusterDoc {
        name: name.map_or_else(String::new, |name| name.value),
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
    let fields = walk.fields(
        node,
        "a node",
        &["name", "addresses", "roles", "interfaces"],
    )?;
    let name = fields.need(
        walk,
        "name",
        "`name:` with a name or a host list such as `gpu-[0-7]`",
    );
    let name = name.and_then(|node| {
        walk.parsed(node, "`name`", "a name or a host list", |text, plain| {
            if text.contains(['[', ']']) {
                Ok(text.to_owned())
            } else {
                scalars::name(text, plain)
            }
        })
    });
    let addresses = fields.need(walk, "addresses", "`addresses:` with at least one address");
    let addresses = addresses.and_then(|node| {
        let expected = "an address or a host list of addresses";
        let items = walk.list(node, "`addresses`", "addresses")?;
        if items.is_empty() {
            let message = "a node without addresses, expected at least one";
            walk.error(code::NO_ADDRESS, node.span, message);
            return None;
        }
        let as_written = |text: &str, _| Ok(text.to_owned());
        Some(
            walk.parsed_list(items, "an address", expected, as_written)
                .0,
        )
    });
    let roles = fields.need(walk, "roles", "`roles:` with what the node does");
    let roles = roles.map(|node| names(walk, node, "`roles`"));
    let (roles, whole) = roles.unwrap_or_default();
    *roles_known &= whole;
    let patterns = fields.get("interfaces").map(|node| interfaces(walk, node));
    Some(NodesEntry {
        // An entry without a usable name still counts for its roles.
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
        // Keys are never taken for numbers here, so they need no quotes.
        if let Err(fault) = scalars::name(&key.text, false) {
            walk.fault(key.span, fault);
        }
        let content = match &value.kind {
            Kind::Mapping(_) => {
                let what = "a network that is no list";
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
        doc.networks
            .push((At::new(key.text.clone().into_owned(), place), content));
    }
}

fn cidrs(walk: &mut Walk<'_>, items: &[Node<'_>]) -> Vec<Cidr> {
    let mut found = Vec::with_capacity(items.len());
    for item in items {
        let parsed = walk.parsed(item, "a prefix", "a prefix", |text, _| scalars::cidr(text));
        found.extend(parsed.map(|cidr| cidr.value));
    }
    found
}

fn policy(walk: &mut Walk<'_>, fields: &Fields<'_, '_>) -> Option<PolicyDoc> {
    let name = fields
        .need(walk, "name", "a name for the policy, such as `name: mxnet`")
        .and_then(|node| walk.parsed(node, "`name`", "a name", scalars::name));
    if let Some(node) = fields.get("description") {
        walk.scalar(node, "`description`", "a text");
    }
    let services = fields.need(walk, "services", "`services:` with what is guarded");
    let services = services.and_then(|node| walk.some(node, "`services`", "services"));
    let services: Vec<ServiceDoc> = services
        .unwrap_or_default()
        .iter()
        .filter_map(|item| service(walk, item))
        .collect();
    Some(PolicyDoc {
        name: name?,
        services,
    })
}

fn service(walk: &mut Walk<'_>, node: &Node<'_>) -> Option<ServiceDoc> {
    const KNOWN: [&str; 8] = [
        "name", "roles", "ports", "except", "match", "allow", "mode", "limits",
    ];
    let fields = walk.fields(node, "a service", &KNOWN)?;
    let name = fields
        .need(walk, "name", "a name, such as `name: scheduler`")
        .and_then(|node| walk.parsed(node, "`name`", "a name", scalars::name));
    let roles = fields.need(
        walk,
        "roles",
        "`roles:` with the roles of the nodes that run it",
    );
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
        let words = [
            ("all", Match::All),
            ("new-connections", Match::NewConnections),
        ];
        let expected = "`all` or `new-connections`";
        walk.parsed(node, "`match`", expected, |text, _| {
            scalars::choice(text, &words)
        })
    });
    let who = "`allow:` with `roles`, `networks`, `cidrs`, or `any: true`";
    let allow = fields.need(walk, "allow", who);
    let allow = allow.and_then(|node| allow_doc(walk, node));
    let mode = fields.need(walk, "mode", "`mode: enforce` or `mode: observe`");
    let mode = mode.and_then(|node| {
        let words = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
        let expected = "`enforce` or `observe`";
        walk.parsed(node, "`mode`", expected, |text, _| {
            scalars::choice(text, &words)
        })
    });
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
        per_source,
        total,
    })
}

fn port_list(walk: &mut Walk<'_>, node: &Node<'_>, what: &str) -> Option<Vec<At<PortRange>>> {
    let items = walk.some(node, what, "ports such as `tcp/9091`")?;
    if items.len() > MAX_PORT_ENTRIES {
        let message = format!(
            "{what} has {} entries, at most {MAX_PORT_ENTRIES} are possible",
            items.len()
        );
        let fault = Fault::new(code::EXPANSION, message).help("join neighbours into ranges");
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
        nobody(
            walk,
            walk.place(node.span),
            "`allow` is empty: it would admit nobody",
        );
        return None;
    }
    let fields = walk.fields(node, "`allow`", &["roles", "networks", "cidrs", "any"])?;
    let list = |walk: &mut Walk<'_>, field: &str| {
        let node = fields.get(field)?;
        let what = format!("`{field}`");
        let expected = if field == "cidrs" {
            "prefixes"
        } else {
            "names"
        };
        let items = walk.list(node, &what, expected)?;
        if items.is_empty() {
            let message = format!("{what} is an empty list: it admits nobody");
            nobody(walk, walk.place(node.span), &message);
            return None;
        }
        Some(node)
    };
    let roles = list(walk, "roles").map(|node| names(walk, node, "`roles`").0);
    let networks = list(walk, "networks").map(|node| names(walk, node, "`networks`").0);
    let prefixes = list(walk, "cidrs").and_then(|node| walk.list(node, "`cidrs`", "prefixes"));
    let prefixes = prefixes.map(|items| cidrs(walk, items));
    let any = fields
        .get("any")
        .and_then(|node| walk.parsed(node, "`any`", "`true`", scalars::only_true));
    if let Some(any) = &any {
        for field in ["roles", "networks", "cidrs"] {
            if let Some(other) = fields.get(field) {
                let message =
                    format!("`any: true` admits everybody, `{field}` beside it says otherwise");
                let finding = Fault::new(code::CONTRADICTION, message)
                    .help("keep the one that is meant")
                    .at(any.place);
                let other = walk.place(other.span);
                walk.out.push(finding.related(other, "only these"));
            }
        }
    }
    Some(AllowDoc {
        any: any.is_some(),
        roles: roles.unwrap_or_default(),
        networks: networks.unwrap_or_default(),
        cidrs: prefixes.unwrap_or_default(),
    })
}

fn nobody(walk: &mut Walk<'_>, place: Place, message: &str) {
    let help = "write who may reach the service, or `any: true` for everybody";
    walk.out
        .push(Fault::new(code::NOBODY, message).help(help).at(place));
}

fn limits(walk: &mut Walk<'_>, node: &Node<'_>, what: &str) -> LimitsDoc {
    let Some(fields) = walk.fields(node, what, &["newConnections", "packets", "bytes"]) else {
        return LimitsDoc::default();
    };
    let mut one = |field: &str, counted| {
        let node = fields.get(field)?;
        limit(walk, node, &format!("`{field}`"), counted)
    };
    LimitsDoc {
        new_connections: one("newConnections", Counted::Things),
        packets: one("packets", Counted::Things),
        bytes: one("bytes", Counted::Bytes),
    }
}

fn limit(walk: &mut Walk<'_>, node: &Node<'_>, what: &str, counted: Counted) -> Option<At<Limit>> {
    let fields = walk.fields(node, what, &["rate", "burst"])?;
    let (rate_like, burst_like) = match counted {
        Counted::Things => ("`rate: 200/s`", "`burst: 1000`"),
        Counted::Bytes => ("`rate: 500MB/s`", "`burst: 64MB`"),
    };
    let rate = fields.need(walk, "rate", rate_like).and_then(|node| {
        let expected = format!("a rate such as {rate_like}");
        walk.parsed(node, "`rate`", &expected, |text, _| {
            scalars::rate(text, counted)
        })
    });
    let burst = fields.need(walk, "burst", burst_like).and_then(|node| {
        let expected = format!("an amount such as {burst_like}");
        walk.parsed(node, "`burst`", &expected, |text, plain| {
            scalars::amount(text, plain, counted)
        })
    });
    let (rate, burst) = (rate?.value, burst?);
    let limit = match counted {
        Counted::Things => Limit::per_unit(rate, burst.value),
        Counted::Bytes => Limit::per_byte(rate, burst.value),
    };
    let place = burst.place;
    let burst = burst.value;
    let fault = |message: String| Fault::new(code::AMOUNT, message).at(place);
    if burst == 0 {
        walk.out.push(fault(
            "a burst of 0 lets nothing through, expected at least 1".into(),
        ));
        return None;
    }
    if burst / rate >= MAX_FILL {
        let message =
            format!("a burst of {burst} at {rate} per second takes more than a year to refill");
        walk.out.push(fault(message));
        return None;
    }
    if counted == Counted::Bytes && burst < SMALLEST_FRAME {
        let message = format!(
            "a burst of {burst} bytes lets no frame through, expected at least {SMALLEST_FRAME}"
        );
        walk.out.push(fault(message));
        return None;
    }
    if counted == Counted::Bytes && burst < JUMBO_FRAME {
        let message = format!(
            "a burst of {burst} bytes never lets a jumbo frame of {JUMBO_FRAME} bytes through"
        );
        let mut finding = Fault::new(code::TIGHT_LIMIT, message)
            .help("write a burst of some frames at least, such as 64kB")
            .at(place);
        finding.severity = super::diagnostic::Severity::Warning;
        walk.out.push(finding);
    }
    Some(At::new(limit, walk.place(fields.head)))
}
