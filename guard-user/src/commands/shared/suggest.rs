//! Finds changes to a manifest that would admit a refused source. Each change is verified with the
//! real decision; nothing is written.
//!
//! Decision: `docs/decisions/0042-suggested-lines-are-tried.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use guard_common::{Addr, Verdict, packet::Frame};

use super::inputs::Overlay;
use crate::{
    policy::{
        self, Cluster, Files as _, Loaded, Node, Placement,
        compiled::CompiledPolicy,
        edit::entry::{Entry, NodeList},
        limiter::HostLimiter,
        resolve::{cluster::Service, load::Loader, provenance},
        syntax::{diagnostic::Severity, rules::Code, scalars::PortRange, text},
    },
    probe::{FLAGS_OPENING, Probe},
};

/// Maximum number of roles that are combined.
const MAX_COMBINED: usize = 3;
/// Maximum number of roles that are considered.
const MAX_ROLES: usize = 24;
/// Maximum number of role sets that are evaluated.
const MAX_ATTEMPTS: usize = 8;

/// A manifest that may lack members.
pub(crate) struct Manifest {
    path: PathBuf,
    /// Name of the node that refused the sources.
    node: String,
    files: Overlay,
    text: String,
    loaded: Loaded,
    /// Lint findings of the manifest before any addition.
    findings: BTreeSet<(Code, String)>,
    nodes: Option<NodeList>,
}

/// How a source could be admitted.
pub(crate) enum Suggestion {
    /// The manifest already has the source, as the node of this name.
    Known(String),
    /// The source is not a node, but the manifest already admits it to all ports that it tried.
    Open,
    /// The source is admitted by these lines under `nodes`.
    Lines(Lines),
    /// No new node would admit the source: the reason, and other ways to admit it.
    No(String, Vec<String>),
}

/// The possible changes to a manifest for one source.
struct Plan {
    nodes: NodeList,
    /// The ports that the source tried.
    ports: Vec<PortRange>,
    /// Sets of roles, best first.
    sets: Vec<Vec<String>>,
    interfaces: Vec<String>,
    /// Labels of the services that refuse the source.
    labels: BTreeSet<String>,
}

/// An entry that was evaluated, and admits the source.
struct Candidate {
    entry: Entry,
    /// The text of the manifest with the entry.
    text: String,
    loaded: Loaded,
    /// Lint findings that the entry adds.
    findings: BTreeSet<(Code, String)>,
}

/// The lines of an entry that admits a source.
pub(crate) struct Lines {
    pub(crate) text: String,
    pub(crate) roles: Vec<String>,
    /// Line of the key that the entry belongs under.
    #[cfg(feature = "daemon")]
    pub(crate) under: usize,
    /// Labels of the services that the roles also open, besides those that refused the source.
    pub(crate) admits_also: Vec<String>,
    /// Lint findings that the entry adds.
    pub(crate) findings: Vec<String>,
}

impl Manifest {
    /// Loads a manifest. The error is the reason why it cannot be used.
    pub(crate) fn load(path: &Path, node: &str) -> Result<Self, String> {
        let files = Overlay::default();
        let bytes = files.read(path).map_err(|error| error.to_string())?;
        let text = String::from_utf8(bytes).map_err(|_invalid| "it is not UTF-8".to_owned())?;
        let loaded = policy::load(path, &files).map_err(|error| {
            let errors = error.report.count(Severity::Error);
            format!(
                "it has {}; `trainguard lint` lists them",
                crate::text::counted(errors, "error")
            )
        })?;
        if loaded.cluster.node(node).is_none() {
            return Err(format!("it has no node `{}`", text::shown(node)));
        }
        let nodes = NodeList::of(&loaded, path);
        let findings = findings(path, &files);
        let (path, node) = (path.to_owned(), node.to_owned());
        Ok(Self { path, node, files, text, loaded, findings, nodes })
    }

    /// Reports whether an address is in a network of the manifest, or shares the /24 or /64 of a
    /// node.
    #[cfg(feature = "daemon")]
    pub(crate) fn is_near(&self, address: IpAddr) -> bool {
        let addr = Addr::from(address);
        !provenance::KnownAddress::of(&self.loaded.cluster, &addr).networks.is_empty()
            || neighbours(&self.loaded.cluster, &addr).next().is_some()
    }

    /// Returns the text of the manifest, with the entries proposed so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Finds an entry that admits a source to some ports. The entry stays in the manifest for later
    /// calls.
    pub(crate) fn admit(&mut self, source: IpAddr, ports: Vec<PortRange>) -> Suggestion {
        let plan = match self.plan(source, ports) {
            Ok(plan) => plan,
            Err(answer) => return answer,
        };
        let mut why = "no combination of at most three roles would admit it".to_owned();
        let mut best: Option<Candidate> = None;
        for roles in plan.sets {
            // First without interfaces: an entry needs none if the manifest names interfaces for
            // all nodes.
            for interfaces in [Vec::new(), plan.interfaces.clone()] {
                let name = self.free_name(source);
                let (address, roles) = (source, roles.clone());
                let entry = Entry { name, address, roles, interfaces };
                match self.attempt(plan.nodes, entry, &plan.ports) {
                    Ok(tried) => {
                        let fewest = best.as_ref().map_or(usize::MAX, |best| best.findings.len());
                        if tried.findings.len() < fewest {
                            best = Some(tried);
                        }
                    }
                    Err(problem) => why = problem,
                }
            }
            if best.as_ref().is_some_and(|best| best.findings.is_empty()) {
                break;
            }
        }
        // Later entries are tried together with this one.
        let answer = match best {
            Some(Candidate { entry, text, loaded, findings }) => {
                self.text = text;
                self.loaded = loaded;
                self.findings.extend(findings.iter().cloned());
                Suggestion::Lines(Lines {
                    text: plan.nodes.lines(&entry),
                    admits_also: also(&self.loaded.cluster, &self.node, &entry.roles, &plan.labels),
                    roles: entry.roles,
                    #[cfg(feature = "daemon")]
                    under: plan.nodes.line,
                    findings: findings
                        .iter()
                        .map(|(code, message)| format!("{code}: {message}"))
                        .collect(),
                })
            }
            None => Suggestion::No(why, self.other_ways(&plan.labels, &Addr::from(source))),
        };
        self.files.put(self.path.clone(), Ok(self.text.clone().into_bytes()));
        answer
    }

    /// Returns the possible changes for a source. The error is the final answer, if no change is
    /// needed or possible.
    fn plan(&self, source: IpAddr, ports: Vec<PortRange>) -> Result<Plan, Suggestion> {
        let addr = Addr::from(source);
        let cluster = &self.loaded.cluster;
        if let Some(node) = cluster.node_at(&addr) {
            return Err(Suggestion::Known(node.name.clone()));
        }
        let policy = compile(&self.loaded, &self.node);
        let policy = policy.map_err(|problem| Suggestion::No(problem, Vec::new()))?;
        let labels = refusing(&policy, source, &ports);
        if labels.is_empty() {
            return Err(Suggestion::Open);
        }
        let services: Vec<&Service> =
            labels.iter().filter_map(|label| cluster.service(label)).collect();
        if let Some(without_roles) = services.iter().find(|service| service.allow.roles.is_empty())
        {
            let why =
                format!("`{}` admits no role, only networks and prefixes", without_roles.label);
            return Err(Suggestion::No(
                why,
                provenance::ways_in(&self.loaded, without_roles, &addr),
            ));
        }
        let nodes = self.nodes.ok_or_else(|| {
            let why = "the layout of `nodes` has no clear place for an entry";
            Suggestion::No(why.to_owned(), self.other_ways(&labels, &addr))
        })?;
        let mut sets = role_sets(cluster, &services, &addr);
        sets.truncate(MAX_ATTEMPTS);
        Ok(Plan { nodes, ports, sets, interfaces: interfaces(cluster, &addr), labels })
    }

    fn other_ways(&self, labels: &BTreeSet<String>, addr: &Addr) -> Vec<String> {
        let services = labels.iter().filter_map(|label| self.loaded.cluster.service(label));
        services.flat_map(|service| provenance::ways_in(&self.loaded, service, addr)).collect()
    }

    /// Returns a name that no node has.
    fn free_name(&self, address: IpAddr) -> String {
        let plain = format!("new-{}", address.to_string().replace(['.', ':'], "-"));
        let plain = plain.trim_end_matches('-').to_owned();
        let mut name = plain.clone();
        let mut number = 2;
        while self.loaded.cluster.node(&name).is_some() {
            name = format!("{plain}-{number}");
            number += 1;
        }
        name
    }

    /// Returns the manifest with an entry, if it loads and admits the source to the ports. The
    /// error is the reason why not.
    fn attempt(
        &self,
        nodes: NodeList,
        entry: Entry,
        ports: &[PortRange],
    ) -> Result<Candidate, String> {
        let text = nodes
            .put(&self.text, &entry)
            .ok_or("the layout of `nodes` has no clear place for an entry")?;
        self.files.put(self.path.clone(), Ok(text.clone().into_bytes()));
        let loaded = policy::load(&self.path, &self.files).map_err(|error| {
            let first = error.report.diagnostics.first();
            first.map(|finding| finding.message.clone()).unwrap_or_default()
        })?;
        let compiled = compile(&loaded, &self.node)?;
        if let Some(label) = refusing(&compiled, entry.address, ports).first() {
            return Err(format!("`{label}` would still refuse it"));
        }
        let found = findings(&self.path, &self.files);
        let findings = found.difference(&self.findings).cloned().collect();
        Ok(Candidate { entry, text, loaded, findings })
    }
}

fn compile(loaded: &Loaded, node: &str) -> Result<CompiledPolicy, String> {
    let node = loaded.cluster.node(node).ok_or("the manifest lacks the node")?;
    policy::compile(loaded, node, &Placement::default()).map_err(|error| error.to_string())
}

/// Returns the lint findings without positions, because positions move when an entry is added.
fn findings(path: &Path, files: &Overlay) -> BTreeSet<(Code, String)> {
    let mut loader = Loader::new(files);
    loader.check_manifest(path);
    let (report, ..) = loader.finish(path);
    report.diagnostics.into_iter().map(|finding| (finding.code, finding.message)).collect()
}

/// Returns the labels of the services that refuse a source at some ports.
fn refusing(policy: &CompiledPolicy, from: IpAddr, ports: &[PortRange]) -> BTreeSet<String> {
    let tables = policy.host();
    let limiter = HostLimiter::new([0; 2]);
    let verdicts = ports.iter().map(|port| -> Verdict {
        let frame = Probe::new(from, port.transport, port.first, FLAGS_OPENING).frame();
        tables.verdict(&Frame::new(&frame), &limiter)
    });
    let refused = verdicts.filter(|verdict| verdict.reason.is_refusal());
    refused.filter_map(|verdict| Some(policy.service_in(verdict.service?)?.label.clone())).collect()
}

/// Returns the nodes that share the /24 or /64 of an address.
fn neighbours<'c>(cluster: &'c Cluster, addr: &Addr) -> impl Iterator<Item = &'c Node> {
    let near = move |other: &Addr, addr: &Addr| match (other, addr) {
        (Addr::V4(other), Addr::V4(addr)) => other >> 8 == addr >> 8,
        (Addr::V6([other, _]), Addr::V6([high, _])) => other == high,
        _ => false,
    };
    let addr = *addr;
    cluster.nodes.iter().filter(move |node| node.addresses.iter().any(|other| near(other, &addr)))
}

/// Returns the interfaces of a neighbour, or else of the first node.
fn interfaces(cluster: &Cluster, addr: &Addr) -> Vec<String> {
    let node = neighbours(cluster, addr).next().or(cluster.nodes.first());
    node.map(|node| node.interfaces.to_vec()).unwrap_or_default()
}

/// Returns sets of roles that all of the services admit. Small sets come first; among those, roles
/// that neighbours have, then roles that open the fewest services.
fn role_sets(cluster: &Cluster, services: &[&Service], addr: &Addr) -> Vec<Vec<String>> {
    let mut common: BTreeMap<&str, usize> = BTreeMap::new();
    for role in neighbours(cluster, addr).flat_map(|node| node.roles.iter()) {
        *common.entry(role).or_default() += 1;
    }
    let among_neighbours = |role: &str| common.get(role).copied().unwrap_or(0);
    let opens = |role: &str| {
        let admits = |service: &&Service| service.allow.roles.iter().any(|allowed| allowed == role);
        cluster.services.iter().filter(admits).count()
    };
    let roles: BTreeSet<&str> =
        services.iter().flat_map(|service| &service.allow.roles).map(String::as_str).collect();
    let mut roles: Vec<&str> = roles.into_iter().collect();
    roles.sort_by_key(|role| (std::cmp::Reverse(among_neighbours(role)), opens(role)));
    roles.truncate(MAX_ROLES);
    let mut sets: Vec<Vec<&str>> = vec![Vec::new()];
    let mut found: Vec<Vec<&str>> = Vec::new();
    for _ in 0..MAX_COMBINED {
        let larger = sets.iter().flat_map(|set| {
            let from = set.last().and_then(|last| roles.iter().position(|role| role == last));
            let more = roles.iter().skip(from.map_or(0, |at| at + 1));
            more.map(|role| set.iter().chain([role]).copied().collect())
        });
        sets = larger.collect();
        let admits = |set: &&Vec<&str>| {
            services.iter().all(|service| {
                service.allow.roles.iter().any(|allowed| set.contains(&allowed.as_str()))
            })
        };
        found.extend(sets.iter().filter(admits).cloned());
        if !found.is_empty() {
            break;
        }
    }
    found.into_iter().map(|set| set.into_iter().map(str::to_owned).collect()).collect()
}

/// Returns the labels of the services on a node that these roles open, without those in `tried`.
fn also(cluster: &Cluster, node: &str, roles: &[String], tried: &BTreeSet<String>) -> Vec<String> {
    let Some(node) = cluster.node(node) else { return Vec::new() };
    let opens = |service: &&Service| {
        service.runs_on(&node.roles)
            && service.allow.roles.iter().any(|role| roles.contains(role))
            && !tried.contains(&service.label)
    };
    cluster.services.iter().filter(opens).map(|service| service.label.clone()).collect()
}
