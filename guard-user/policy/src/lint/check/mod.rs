//! Checks documents together: contradictions, names that do not exist, ports claimed twice.

mod breadth;
mod claims;
pub(crate) mod cluster;
pub(crate) mod cluster_view;
mod coverage;
mod families;
mod lockout;
mod nodes;
mod outside;
mod policy;
mod references;
mod source_ports;
mod startup;

use std::{collections::BTreeMap, rc::Rc};

use crate::syntax::{
    diagnostic::{Diagnostic, FileId, Location, Report},
    document::{ClusterDoc, PolicyDoc},
    rules,
};

pub(crate) use self::policy::policy;

/// Checks that the documents of a cluster agree. `whole` is set if all policies are known and
/// without errors, so that unused names can be reported.
pub(crate) fn documents(
    out: &mut Report,
    doc: &ClusterDoc,
    policies: &[(FileId, Rc<PolicyDoc>)],
    whole: bool,
) {
    let mut names: BTreeMap<&str, Location> = BTreeMap::new();
    for (_, policy) in policies {
        let name = &policy.name;
        if let Some(first) = names.get(name.value.as_str()) {
            let message = format!("the policy name `{}` is used twice", name.value);
            out.push(
                Diagnostic::error(rules::DUPLICATE_NAME, name.place, message)
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
            Diagnostic::warning(rules::MISSING_FIELD, entry.name.place, message)
                .help("write `interfaces: [eth0]` for the cluster, or for the node"),
        );
    }
}
