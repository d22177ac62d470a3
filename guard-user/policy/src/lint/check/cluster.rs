//! What the documents of a cluster mean together, once they are known to be faultless: what the
//! daemon takes, and what is still probably not meant.

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

/// Claims of all groups together that are looked at: documents that are made to have more than that
/// must not keep lint busy.
const MAX_CLAIMS: usize = 2_000_000;

/// Checks what the documents mean together.
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
            // What is not known is not told.
            facts.owners.extend(&group.runs);
        }
    }
    lockout::check(out, whole, &services, &facts.ssh);
    coverage::uncovered(out, &services, &facts.uncovered);
    coverage::never(out, &services, &alike, &claims, &facts.owners);
}

/// What is true of some nodes at least.
#[derive(Default)]
struct GroupFacts {
    /// Services that have a port somewhere.
    owners: BTreeSet<usize>,
    /// Services that have the port of ssh somewhere.
    ssh: BTreeSet<usize>,
    /// Services of a framework, with a port of it that no service has beside them.
    uncovered: BTreeSet<(usize, u16)>,
}

impl GroupFacts {
    fn add(&mut self, group: &NodeGroup<'_>, held: &PortOwners, services: &[ServiceView<'_>]) {
        self.ssh.extend(lockout::ssh_owner(held));
        self.uncovered.extend(coverage::uncovered_by(held, services));
        // Mostly they all are known already.
        if !group.runs.iter().all(|number| self.owners.contains(number)) {
            self.owners.extend(held.owners());
        }
    }
}
