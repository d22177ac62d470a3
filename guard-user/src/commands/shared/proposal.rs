//! The proposal of `learn` for a node, verified by evaluating it with the real decision.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use guard_common::{Addr, Reason};

use super::{
    inputs::Overlay,
    suggest::{Manifest, Suggestion},
};
use crate::{
    learn::{
        classify::{self, Classified, Disposition, LeftOut},
        connection_tracker::ConnectionTracker,
        draft::{self, Aggregate, Service},
    },
    policy::{
        self, Loaded, Node, Placement,
        compiled::CompiledPolicy,
        edit::patch::{self, Addition},
        resolve::load::Loader,
        syntax::{diagnostic::Severity, scalars::PortRange},
    },
    report::learn::{Admitted, Documents, LeftOutContact},
};

/// Maximum number of sources that an entry is tried for: each needs several loads of the manifest.
const MAX_ENTRIES: usize = 64;

/// A proposal.
pub(crate) struct Proposal {
    pub(crate) classified: Classified,
    pub(crate) services: Vec<Service>,
    /// New manifest entries for refused sources.
    pub(crate) admitted: Vec<Admitted>,
    pub(crate) left_out: Vec<LeftOutContact>,
    /// The changed documents; none if nothing changes.
    pub(crate) documents: Option<Documents>,
}

/// Makes the proposal, and checks that it admits every source that it should. The error is the
/// reason why there is no proposal.
pub(crate) fn make(
    path: &Path,
    loaded: &Loaded,
    node: &Node,
    compiled: &CompiledPolicy,
    tracker: &ConnectionTracker,
    (aggregate, watched): (Aggregate, &str),
) -> Result<Proposal, String> {
    let mut classified = classify::classify(tracker, &loaded.cluster, compiled);
    let mut manifest = Manifest::load(path, &node.name)?;
    let before = manifest.text().to_owned();
    let admitted = admit(&mut manifest, &mut classified);
    let services =
        draft::services(&classified.kept, &classified.left_out, &loaded.cluster, aggregate);
    let documents = write(path, loaded, node, &before, manifest.text(), &services, watched)?;
    let after = match &documents {
        Some(documents) => check(path, node, documents)?,
        None => compiled.clone(),
    };
    if let Some(refused) = classified.kept.iter().find(|kept| {
        classify::reason(&after, kept.source, kept.port).is_refusal()
            && kept.disposition == Disposition::Service
    }) {
        let source = IpAddr::from(refused.source);
        return Err(format!("the proposal would refuse {source}, although it should allow it"));
    }
    let left_out = classified.left_out.iter().map(|left| self::left(left, &after)).collect();
    Ok(Proposal { classified, services, admitted, left_out, documents })
}

/// Finds manifest entries that admit the refused sources. Sources that no entry can admit are left
/// out.
fn admit(manifest: &mut Manifest, classified: &mut Classified) -> Vec<Admitted> {
    let mut refused: BTreeMap<Addr, Vec<PortRange>> = BTreeMap::new();
    for kept in classified.kept.iter().filter(|kept| kept.disposition == Disposition::Entry) {
        let (transport, port) = kept.port;
        let range = PortRange { transport, first: port, last: port };
        refused.entry(kept.source).or_default().push(range);
    }
    let mut admitted = Vec::new();
    for (number, (source, ports)) in refused.into_iter().enumerate() {
        let answer = if number < MAX_ENTRIES {
            manifest.admit(source.into(), ports)
        } else {
            let why = format!("entries are proposed only for the first {MAX_ENTRIES} sources");
            Suggestion::No(why, Vec::new())
        };
        let why = match answer {
            Suggestion::Open => continue,
            Suggestion::Lines(lines) => {
                admitted.push(Admitted {
                    source: source.into(),
                    lines: lines.text,
                    roles: lines.roles,
                    admits_also: lines.admits_also,
                    findings: lines.findings,
                });
                continue;
            }
            Suggestion::Known(name) => {
                format!("it is the node `{name}`, and the service admits none of its roles")
            }
            Suggestion::No(why, ways) if ways.is_empty() => why,
            Suggestion::No(why, ways) => format!("{why}; alternatives: {}", ways.join(", or ")),
        };
        let of_source = classified.kept.iter().filter(|kept| kept.source == source);
        let left =
            of_source.filter(|kept| kept.disposition == Disposition::Entry).map(|kept| LeftOut {
                source,
                port: Some(kept.port),
                packets: kept.contact.packets,
                why: why.clone(),
            });
        classified.left_out.extend(left);
        classified
            .kept
            .retain(|kept| kept.source != source || kept.disposition != Disposition::Entry);
    }
    admitted
}

/// Returns the documents with all additions; none if nothing changes.
fn write(
    path: &Path,
    loaded: &Loaded,
    node: &Node,
    before: &str,
    with_entries: &str,
    services: &[Service],
    watched: &str,
) -> Result<Option<Documents>, String> {
    let no_place = "the layout of the manifest has no clear place for additions";
    let mut after = with_entries.to_owned();
    let mut written = None;
    if !services.is_empty() {
        let role = draft::rarest_role(&loaded.cluster, node).ok_or_else(|| {
            format!("the node `{}` has no role that a service could name", node.name)
        })?;
        let name = free_name(path, loaded);
        let text = draft::policy(&name, services, role, &loaded.cluster, watched);
        let networks = services.iter().filter_map(|service| {
            let (name, prefixes) = service.network()?;
            let unlisted = service.evidence.iter();
            let unlisted = unlisted.filter(|kept| loaded.cluster.node_at(&kept.source).is_none());
            let comments = unlisted.map(|kept| draft::evidence(kept, &loaded.cluster)).collect();
            Some(Addition { name: name.to_owned(), prefixes, comments })
        });
        let networks: Vec<Addition> = networks.collect();
        let file = format!("{name}.yaml");
        after = patch::manifest(&after, &networks, Some(&file)).ok_or(no_place)?;
        written = Some((file, text));
    }
    if after == before {
        return Ok(None);
    }
    let diff = crate::report::lint::fixes::unified(path, before, &after);
    let (policy_file, policy) = written.unzip();
    Ok(Some(Documents { manifest: after, manifest_diff: diff, policy_file, policy }))
}

/// Returns a name that is not taken by a policy or by a file beside the manifest.
fn free_name(path: &Path, loaded: &Loaded) -> String {
    let beside = |name: &str| path.with_file_name(format!("{name}.yaml"));
    let taken = |name: &String| {
        loaded.cluster.policies.contains(name)
            || loaded.bundle.paths().any(|path| path == beside(name))
            || beside(name).exists()
    };
    let mut name = "learned".to_owned();
    let mut number = 2;
    while taken(&name) {
        name = format!("learned-{number}");
        number += 1;
    }
    name
}

/// Lints the documents, and compiles them for the node.
fn check(path: &Path, node: &Node, documents: &Documents) -> Result<CompiledPolicy, String> {
    let files = Overlay::default();
    files.put(path.to_owned(), Ok(documents.manifest.clone().into_bytes()));
    if let (Some(file), Some(text)) = (&documents.policy_file, &documents.policy) {
        files.put(path.with_file_name(file), Ok(text.clone().into_bytes()));
    }
    let mut lint = Loader::new(&files);
    lint.check_manifest(path);
    let (report, ..) = lint.finish(path);
    let mut errors = report.diagnostics.iter().filter(|it| it.severity == Severity::Error);
    if let Some(error) = errors.next() {
        return Err(format!("the proposal does not pass lint: {}", error.message));
    }
    let loaded = policy::load(path, &files).map_err(|error| error.to_string())?;
    let node = loaded.cluster.node(&node.name).ok_or("the proposal lacks the node")?;
    policy::compile(&loaded, node, &Placement::default()).map_err(|error| error.to_string())
}

/// Describes a contact that was left out, and what the proposal does with it.
fn left(left: &LeftOut, after: &CompiledPolicy) -> LeftOutContact {
    let then = left.port.map(|port| match classify::reason(after, left.source, port) {
        Reason::Unguarded => "open",
        reason if reason.is_refusal() => "refused",
        _ => "allowed",
    });
    LeftOutContact {
        source: left.source.into(),
        port: left.port.map(|(transport, port)| format!("{}/{port}", transport.name())),
        packets: left.packets,
        why: left.why.clone(),
        then,
    }
}
