//! What documents mean together: contradictions, names that do not exist, ports claimed twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use guard_common::{flow::Transport, verdict::MAX_SERVICES};

use super::{
    diagnostic::{At, Code, Diagnostic, FileId, Place, Report, Severity, code},
    document::{ClusterDoc, Match, PolicyDoc, ServiceDoc},
    ports::{Claim, claims},
    scalars::{MAX_NAME, PortRange},
    walk::nearest,
};

/// The range from which Linux takes source ports, and ports for those who bind to 0
/// (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: (u16, u16) = (32768, 60999);

fn claims_of(service: &ServiceDoc) -> Vec<Claim> {
    let values = |ports: &[At<PortRange>]| ports.iter().map(|p| p.value).collect::<Vec<_>>();
    claims(&values(&service.ports), &values(&service.except))
}

/// Checks a policy by itself.
pub(super) fn policy(out: &mut Report, doc: &PolicyDoc) {
    let mut names: BTreeMap<&str, Place> = BTreeMap::new();
    for service in &doc.services {
        let name = &service.name;
        if let Some(first) = names.get(name.value.as_str()) {
            let message = format!("the service name `{}` twice", name.value);
            out.push(
                Diagnostic::error(code::DUPLICATE_NAME, name.place, message)
                    .related(*first, "first used here"),
            );
        }
        names.entry(&name.value).or_insert(name.place);
        let bytes = doc.name.value.len() + 1 + name.value.len();
        if bytes > MAX_NAME {
            let message = format!(
                "`{}/{}` has {bytes} bytes, at most {MAX_NAME} fit",
                doc.name.value, name.value
            );
            out.push(Diagnostic::error(code::NAME, name.place, message));
        }
        check_service(out, service);
    }
}

fn check_service(out: &mut Report, service: &ServiceDoc) {
    let tcp = |port: &At<PortRange>| port.value.transport == Transport::Tcp;
    if service.matching.value == Match::NewConnections {
        for port in service.ports.iter().filter(|port| !tcp(port)) {
            let message = format!(
                "`{}` opens no connections, `match: new-connections` speaks of TCP only",
                port.value
            );
            out.push(
                Diagnostic::error(code::CONTRADICTION, port.place, message)
                    .related(service.matching.place, "new connections only")
                    .help("put these ports into a service with `match: all`"),
            );
        }
    }
    if !service.ports.iter().any(tcp) {
        let limits = [&service.per_source, &service.total];
        for limit in limits
            .into_iter()
            .filter_map(|l| l.new_connections.as_ref())
        {
            let message = "a limit on new connections at a service without TCP ports";
            out.push(
                Diagnostic::error(code::CONTRADICTION, limit.place, message)
                    .help("limit `packets` or `bytes` instead"),
            );
        }
    }
    for hole in &service.except {
        if !service
            .ports
            .iter()
            .any(|port| port.value.intersect(&hole.value).is_some())
        {
            let message = format!("`{}` is no port of this service", hole.value);
            out.push(
                Diagnostic::warning(code::NEVER, hole.place, message)
                    .help("`except` takes ports out of `ports`; remove it"),
            );
        }
    }
    let claims = claims_of(service);
    if claims.is_empty() {
        let message = format!("`except` leaves no port of `{}`", service.name.value);
        out.push(Diagnostic::error(code::NEVER, service.name.place, message));
    }
    if service.matching.value == Match::All {
        ephemeral(out, service, &claims);
    }
    if let Some(limit) = &service.per_source.packets {
        let message = "a limit on the packets of each source stalls training";
        out.push(
            Diagnostic::warning(code::PACKET_LIMIT, limit.place, message).help(
                "TCP reads a dropped packet as congestion and slows down far below the limit; \
                 limit `newConnections` instead",
            ),
        );
    }
}

fn ephemeral(out: &mut Report, service: &ServiceDoc, claims: &[Claim]) {
    let (first, last) = EPHEMERAL;
    for port in &service.ports {
        let met = claims.iter().find(|claim| {
            claim.range.intersect(&port.value).is_some()
                && claim.range.first <= last
                && claim.range.last >= first
        });
        if met.is_none() {
            continue;
        }
        let message = format!(
            "`{}` meets the ephemeral ports {first}-{last}: `match: all` would drop replies to \
             the node's own connections",
            port.value
        );
        let help = if port.value.transport == Transport::Tcp {
            "write `match: new-connections`, or pin the ports outside that range"
        } else {
            "pin the ports outside that range"
        };
        out.push(
            Diagnostic::error(code::EPHEMERAL, port.place, message)
                .related(service.matching.place, "every packet")
                .help(help),
        );
    }
}

/// Checks what the documents of a cluster say about each other. `whole`: all policies are known.
pub(super) fn cluster(
    out: &mut Report,
    doc: &ClusterDoc,
    policies: &[(FileId, Rc<PolicyDoc>)],
    whole: bool,
) {
    let mut names: BTreeMap<&str, Place> = BTreeMap::new();
    for (_, policy) in policies {
        let name = &policy.name;
        if let Some(first) = names.get(name.value.as_str()) {
            let message = format!("the policy name `{}` twice", name.value);
            out.push(
                Diagnostic::error(code::DUPLICATE_NAME, name.place, message)
                    .related(*first, "first used here"),
            );
        }
        names.entry(&name.value).or_insert(name.place);
    }
    check_interfaces(out, doc);
    check_references(out, doc, policies, whole);
    check_per_node(out, doc, policies);
}

fn check_interfaces(out: &mut Report, doc: &ClusterDoc) {
    if doc.interfaces.is_some() {
        return;
    }
    if let Some(entry) = doc.nodes.iter().find(|entry| entry.interfaces.is_none()) {
        let message = "no interfaces are named for this node";
        out.push(
            Diagnostic::warning(code::MISSING_FIELD, entry.name.place, message)
                .help("write `interfaces: [eth0]` for the cluster, or for the node"),
        );
    }
}

/// Names that one document uses and another defines.
struct Names<'d> {
    what: &'static str,
    code: Code,
    defined: BTreeMap<&'d str, Place>,
    /// Whether `defined` is all of them.
    known: bool,
    used: BTreeSet<&'d str>,
}

impl<'d> Names<'d> {
    fn use_all(&mut self, out: &mut Report, names: &'d [At<String>]) {
        for name in names {
            let new = self.used.insert(&name.value);
            if !self.known || self.defined.contains_key(name.value.as_str()) {
                continue;
            }
            let message = format!("{} `{}`", self.what, name.value);
            let finding = Diagnostic::error(self.code, name.place, message);
            let near = nearest(&name.value, self.defined.keys().copied());
            out.push(match near {
                Some(near) => finding.help(format!("did you mean `{near}`?")),
                None if new && !self.defined.is_empty() => {
                    let known: Vec<&str> = self.defined.keys().copied().take(20).collect();
                    finding.help(format!("known: {}", known.join(", ")))
                }
                None => finding,
            });
        }
    }

    fn report_unused(&self, out: &mut Report, what: &str) {
        for (name, place) in &self.defined {
            if !self.used.contains(name) {
                let message = format!("{what} `{name}`");
                out.push(Diagnostic::new(
                    Severity::Info,
                    code::UNUSED,
                    *place,
                    message,
                ));
            }
        }
    }
}

fn check_references(
    out: &mut Report,
    doc: &ClusterDoc,
    policies: &[(FileId, Rc<PolicyDoc>)],
    whole: bool,
) {
    let mut roles = Names {
        what: "no node has the role",
        code: code::UNKNOWN_ROLE,
        defined: BTreeMap::new(),
        known: doc.roles_known,
        used: BTreeSet::new(),
    };
    for role in doc.nodes.iter().flat_map(|entry| &entry.roles) {
        roles.defined.entry(&role.value).or_insert(role.place);
    }
    let mut networks = Names {
        what: "the manifest names no network",
        code: code::UNKNOWN_NETWORK,
        defined: BTreeMap::new(),
        known: doc.networks_known,
        used: BTreeSet::new(),
    };
    for (name, _) in &doc.networks {
        networks.defined.entry(&name.value).or_insert(name.place);
    }
    for service in policies.iter().flat_map(|(_, policy)| &policy.services) {
        roles.use_all(out, &service.roles);
        roles.use_all(out, &service.allow.roles);
        networks.use_all(out, &service.allow.networks);
    }
    if whole {
        roles.report_unused(out, "no service runs on or admits the role");
        networks.report_unused(out, "no service admits the network");
    }
}

/// A claim, and whose it is.
struct Owned<'d> {
    claim: Claim,
    service: usize,
    place: Place,
    label: &'d str,
}

/// What must hold on every node: few enough services, and each port in one narrowest entry.
fn check_per_node(out: &mut Report, doc: &ClusterDoc, policies: &[(FileId, Rc<PolicyDoc>)]) {
    let services: Vec<&ServiceDoc> = policies.iter().flat_map(|(_, p)| &p.services).collect();
    // The distinct sets of roles, each with an entry that has it.
    let mut role_sets: BTreeMap<BTreeSet<&str>, Place> = BTreeMap::new();
    for entry in &doc.nodes {
        let set = entry.roles.iter().map(|role| role.value.as_str()).collect();
        role_sets.entry(set).or_insert(entry.name.place);
    }
    // By service: the numbers of the role sets that run it.
    let mut runs_on: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); services.len()];
    for (number, (set, place)) in role_sets.iter().enumerate() {
        let mut count = 0_usize;
        for (service, on) in services.iter().zip(&mut runs_on) {
            if service
                .roles
                .iter()
                .any(|role| set.contains(role.value.as_str()))
            {
                on.insert(number);
                count += 1;
            }
        }
        if count > usize::from(MAX_SERVICES) {
            let message = format!(
                "this node would run {count} services, at most {MAX_SERVICES} are possible"
            );
            out.push(
                Diagnostic::error(code::SERVICES, *place, message)
                    .help("join services that admit the same sources into one with several ports"),
            );
        }
    }
    let mut owned: Vec<Owned<'_>> = Vec::new();
    for (number, service) in services.iter().enumerate() {
        for claim in claims_of(service) {
            let held = |port: &&At<PortRange>| {
                port.value.width() == claim.width && port.value.intersect(&claim.range).is_some()
            };
            let entry = service.ports.iter().find(held);
            owned.push(Owned {
                claim,
                service: number,
                place: entry.map_or(service.name.place, |entry| entry.place),
                label: &service.name.value,
            });
        }
    }
    owned.sort_by_key(|o| (o.claim.width, o.claim.range, o.service));
    let mut told = BTreeSet::new();
    for (at, first) in owned.iter().enumerate() {
        let rivals = owned.iter().skip(at + 1).take_while(|other| {
            other.claim.width == first.claim.width
                && other.claim.range.transport == first.claim.range.transport
                && other.claim.range.first <= first.claim.range.last
        });
        for second in rivals {
            let together = match (runs_on.get(first.service), runs_on.get(second.service)) {
                (Some(a), Some(b)) => !a.is_disjoint(b),
                _ => false,
            };
            let same = first.service == second.service;
            if same || !together || !told.insert((first.place, second.place)) {
                continue;
            }
            let shared = first.claim.range.intersect(&second.claim.range);
            let shared = shared.unwrap_or(second.claim.range);
            let message = format!(
                "`{}` and `{}` claim {shared} equally, on nodes that run both",
                first.label, second.label
            );
            out.push(
                Diagnostic::error(code::OVERLAP, second.place, message)
                    .related(first.place, "as wide as this one")
                    .help("the narrowest range decides: make one narrower, or take the port out with `except`"),
            );
        }
    }
}
