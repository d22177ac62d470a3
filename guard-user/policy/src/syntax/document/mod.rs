//! The documents as written, each value with its location. Reading them does not check whether names
//! and files exist.

mod cluster;
mod limits;
mod policy;
pub(crate) mod test;

use guard_common::bucket::Limit;

use super::{
    diagnostic::{At, FileId, Location, Report},
    rules,
    scalars::{self, Cidr, PortRange},
    text,
    walk::{Fault, Fields, Walk},
    yaml::{Kind, Node},
};

/// The `apiVersion` of all documents.
pub const API_VERSION: &str = "trainguard/v1";
/// A document of any kind.
#[derive(Debug)]
pub(crate) enum Document {
    Cluster(ClusterDoc),
    Policy(PolicyDoc),
    Test(test::TestDoc),
}

/// A cluster manifest, or the cluster written in a test file.
#[derive(Debug)]
pub(crate) struct ClusterDoc {
    pub(crate) name: String,
    pub(crate) interfaces: Option<Vec<String>>,
    pub(crate) nodes: Vec<NodesEntry>,
    /// Whether the roles of all nodes could be read.
    pub(crate) roles_known: bool,
    pub(crate) networks: Vec<(At<String>, NetworkContent)>,
    pub(crate) networks_known: bool,
    pub(crate) policies: Vec<At<String>>,
    pub(crate) policies_known: bool,
}

/// One entry of `nodes`: a node, or a host list of nodes.
#[derive(Debug)]
pub(crate) struct NodesEntry {
    pub(crate) name: At<String>,
    pub(crate) addresses: Vec<At<String>>,
    pub(crate) roles: Vec<At<String>>,
    pub(crate) interfaces: Option<Vec<String>>,
}

/// The contents of a named network.
#[derive(Debug)]
pub(crate) enum NetworkContent {
    Prefixes(Vec<At<Cidr>>),
    File(At<String>),
    /// Invalid; already reported.
    Unknown,
}

/// A policy.
#[derive(Debug)]
pub(crate) struct PolicyDoc {
    pub(crate) name: At<String>,
    pub(crate) services: Vec<ServiceDoc>,
}

/// The packets to its ports that a service checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Every packet.
    All,
    /// Only TCP segments that open a connection.
    NewConnections,
}

/// What happens to packets from sources that are not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are dropped.
    Enforce,
    /// They pass, and are counted as packets that enforcing would drop.
    Observe,
}

/// What happens to packets that the node would only forward and that the service would otherwise
/// refuse or charge to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarded {
    /// They pass, and are counted as forwarded.
    #[default]
    Pass,
    /// They are treated as packets for the node.
    Guard,
}

/// A service of a policy.
#[derive(Debug)]
pub(crate) struct ServiceDoc {
    pub(crate) name: At<String>,
    pub(crate) roles: Vec<At<String>>,
    pub(crate) ports: Vec<At<PortRange>>,
    pub(crate) except: Vec<At<PortRange>>,
    pub(crate) matching: At<Match>,
    pub(crate) allow: AllowDoc,
    pub(crate) mode: Mode,
    pub(crate) forwarded: Forwarded,
    pub(crate) per_source: LimitsDoc,
    pub(crate) total: LimitsDoc,
}

/// The sources that may reach a service.
#[derive(Debug)]
pub(crate) struct AllowDoc {
    /// Where `any: true` is written; none without it.
    pub(crate) any: Option<Location>,
    pub(crate) roles: Vec<At<String>>,
    pub(crate) networks: Vec<At<String>>,
    pub(crate) cidrs: Vec<At<Cidr>>,
}

/// Limits of a service, each with its location.
#[derive(Debug, Default)]
pub(crate) struct LimitsDoc {
    pub(crate) new_connections: Option<At<Limit>>,
    pub(crate) packets: Option<At<Limit>>,
    pub(crate) bytes: Option<At<Limit>>,
}

impl LimitsDoc {
    /// Reports whether anything is limited.
    pub(crate) fn is_some(&self) -> bool {
        self.new_connections.is_some() || self.packets.is_some() || self.bytes.is_some()
    }
}

/// Reports whether a tree declares itself a trainguard document by its `apiVersion`.
pub(crate) fn is_ours(node: &Node<'_>) -> bool {
    let Kind::Mapping(entries) = &node.kind else {
        return false;
    };
    entries.iter().any(|(key, value)| {
        let ours = |text: &str| text.starts_with("trainguard/");
        key.text == "apiVersion" && matches!(&value.kind, Kind::Scalar { text, .. } if ours(text))
    })
}

/// Reads a document from its tree. Errors go to the report. The valid parts of a document are returned
/// even after an error, so that the following checks can find more errors.
pub(crate) fn read(file: FileId, node: &Node<'_>, out: &mut Report) -> Option<Document> {
    const CLUSTER: [&str; 7] =
        ["apiVersion", "kind", "name", "interfaces", "nodes", "networks", "policies"];
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
            Some(Document::Cluster(cluster::cluster(walk, &fields)))
        }
        Some("Policy") => {
            let fields = walk.fields(node, "the policy", &POLICY)?;
            check_version(walk, &fields);
            policy::policy(walk, &fields).map(Document::Policy)
        }
        Some("Test") => {
            let fields = walk.fields(node, "the test", &test::FIELDS)?;
            check_version(walk, &fields);
            Some(Document::Test(test::test(walk, &fields)))
        }
        _ => {
            let Kind::Mapping(entries) = &node.kind else {
                walk.fields(node, "the document", &["apiVersion", "kind", "name"])?;
                return None;
            };
            let head = entries.first().map_or(node.span, |(key, _)| key.span);
            let all = Fields::of(node, head, "the document");
            check_version(walk, &all);
            if let Some(kind) =
                all.need(walk, "kind", "`kind: Cluster`, `kind: Policy` or `kind: Test`")
            {
                walk.parsed(kind, "`kind`", "`Cluster`, `Policy` or `Test`", |text, _| {
                    let kinds = [("Cluster", ()), ("Policy", ()), ("Test", ())];
                    scalars::choice(text, &kinds)
                        .map_err(|fault| Fault { code: rules::API_VERSION, ..fault })
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
            rules::API_VERSION,
            format!("`{shown}` is not understood, expected `{API_VERSION}`"),
        ))
    });
}
