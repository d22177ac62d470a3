//! What documents mean together: contradictions, names that do not exist, ports claimed twice.

mod breadth;
mod coverage;
mod families;
mod lockout;
mod nodes;
mod outside;
mod policy;
mod references;
mod startup;
pub(super) mod whole;

use std::{collections::BTreeMap, rc::Rc};

use super::{
    diagnostic::{At, Diagnostic, FileId, Place, Report, code},
    document::{ClusterDoc, PolicyDoc, ServiceDoc},
    ports::{Claim, claims},
    scalars::PortRange,
};

pub(super) use self::policy::policy;

fn claims_of(service: &ServiceDoc) -> Vec<Claim> {
    let values = |ports: &[At<PortRange>]| ports.iter().map(|p| p.value).collect::<Vec<_>>();
    claims(&values(&service.ports), &values(&service.except))
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
    references::check(out, doc, policies, whole);
    nodes::check(out, doc, policies);
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
