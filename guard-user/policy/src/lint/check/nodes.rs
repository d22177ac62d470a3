//! Checks that every node runs at most `MAX_SERVICES` services, and that no two of them claim a port
//! with equally wide entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use guard_common::verdict::MAX_SERVICES;

use super::claims::claims_of;
use crate::{
    compile::ports::PortClaim,
    syntax::{
        diagnostic::{At, Diagnostic, FileId, Location, Report},
        document::{ClusterDoc, PolicyDoc, ServiceDoc},
        rules,
        scalars::PortRange,
    },
};

/// A claim and the service that makes it.
struct Owned<'d> {
    claim: PortClaim,
    service: usize,
    place: Location,
    label: &'d str,
}

/// Reports nodes with too many services, and ports claimed by two equally wide entries of different
/// services.
pub(crate) fn check(out: &mut Report, doc: &ClusterDoc, policies: &[(FileId, Rc<PolicyDoc>)]) {
    let services: Vec<&ServiceDoc> = policies.iter().flat_map(|(_, p)| &p.services).collect();
    // The distinct sets of roles, each with the location of a node that has it.
    let mut role_sets: BTreeMap<BTreeSet<&str>, Location> = BTreeMap::new();
    for entry in &doc.nodes {
        let set = entry.roles.iter().map(|role| role.value.as_str()).collect();
        role_sets.entry(set).or_insert(entry.name.place);
    }
    // Indices of the role sets that run each service.
    let mut runs_on: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); services.len()];
    for (number, (set, place)) in role_sets.iter().enumerate() {
        let mut count = 0_usize;
        for (service, on) in services.iter().zip(&mut runs_on) {
            if service.roles.iter().any(|role| set.contains(role.value.as_str())) {
                on.insert(number);
                count += 1;
            }
        }
        if count > usize::from(MAX_SERVICES) {
            let message = format!(
                "this node would run {count} services, at most {MAX_SERVICES} are possible"
            );
            out.push(
                Diagnostic::error(rules::SERVICES, *place, message)
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
    let mut reported = BTreeSet::new();
    for (at, first) in owned.iter().enumerate() {
        let equally_wide = owned.iter().skip(at + 1).take_while(|other| {
            other.claim.width == first.claim.width
                && other.claim.range.transport == first.claim.range.transport
                && other.claim.range.first <= first.claim.range.last
        });
        for second in equally_wide {
            let together = match (runs_on.get(first.service), runs_on.get(second.service)) {
                (Some(a), Some(b)) => !a.is_disjoint(b),
                _ => false,
            };
            let same = first.service == second.service;
            if same || !together || !reported.insert((first.place, second.place)) {
                continue;
            }
            let shared = first.claim.range.intersect(&second.claim.range);
            let shared = shared.unwrap_or(second.claim.range);
            let message = format!(
                "`{}` and `{}` claim {shared} equally, on nodes that run both",
                first.label, second.label
            );
            out.push(
                Diagnostic::error(rules::OVERLAP, second.place, message)
                    .related(first.place, "as wide as this one")
                    .help("the narrowest range decides: make one narrower, or take the port out with `except`"),
            );
        }
    }
}
