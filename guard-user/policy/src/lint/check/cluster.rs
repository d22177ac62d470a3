//! Checks a whole cluster whose documents have no errors: reports what loads but is probably a mistake.

use std::collections::BTreeSet;

use super::{
    breadth,
    cluster_view::{ClusterView, NodeGroup, PortOwners, ServiceView},
    coverage, families, lockout, outside, startup,
};
use crate::{
    compile::ports::{self, PortClaim},
    syntax::diagnostic::Report,
};

/// Maximum number of port claims that are checked, over all groups of nodes. Limits the time that lint
/// spends on documents made to have many.
const MAX_CLAIMS: usize = 2_000_000;

/// Runs the checks of a whole cluster.
pub(crate) fn check(out: &mut Report, whole: &ClusterView<'_>) {
    let services = whole.services();
    let alike = whole.groups();
    families::check(out, whole, &services, &alike);
    breadth::check(out, &services);
    startup::check(out, whole, &services);
    lockout::members(out, whole, &services);
    outside::check(out, whole);

    let claims: Vec<Vec<PortClaim>> = services
        .iter()
        .map(|known| ports::claims(&known.service.ports, &known.service.except))
        .collect();
    let mut facts = GroupFacts::default();
    let mut left = MAX_CLAIMS;
    for group in &alike {
        let count = |number: &usize| claims.get(*number).map_or(0, Vec::len);
        let cost = group.runs.iter().map(count).sum::<usize>() + 1;
        if let Some(rest) = left.checked_sub(cost) {
            left = rest;
            facts.add(group, &PortOwners::of(group, &claims), &services);
        } else {
            // The services of a group over the limit count as owners of ports, so that nothing is
            // reported about them.
            facts.owners.extend(&group.runs);
        }
    }
    lockout::check(out, whole, &services, &facts.ssh);
    coverage::uncovered(out, &services, &facts.uncovered);
    coverage::never(out, &services, &alike, &claims, &facts.owners);
}

/// Facts that hold on at least one node.
#[derive(Default)]
struct GroupFacts {
    /// Services that own a port.
    owners: BTreeSet<usize>,
    /// Services that own the ssh port.
    ssh: BTreeSet<usize>,
    /// Services of a framework, each with a port of the framework that no service of the node covers.
    uncovered: BTreeSet<(usize, u16)>,
}

impl GroupFacts {
    fn add(&mut self, group: &NodeGroup<'_>, held: &PortOwners, services: &[ServiceView<'_>]) {
        self.ssh.extend(lockout::ssh_owner(held));
        self.uncovered.extend(coverage::uncovered_by(held, services));
        // Usually all of them are known already.
        if !group.runs.iter().all(|number| self.owners.contains(number)) {
            self.owners.extend(held.owners());
        }
    }
}
