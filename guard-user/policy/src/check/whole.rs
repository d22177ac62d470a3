//! What the documents of a cluster mean together, once they are known to be faultless: what the
//! daemon takes, and what is still probably not meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use guard_common::port_table::Transport;

use super::{
    super::{
        cluster::{Cluster, Node, Service},
        diagnostic::{FileId, Report},
        document::{ClusterDoc, PolicyDoc, ServiceDoc},
        ports::{self, Claim},
    },
    breadth, coverage, families, lockout, outside, startup,
};

/// The documents and what they resolve to.
pub(in super::super) struct Whole<'w> {
    pub(in super::super) doc: &'w ClusterDoc,
    pub(in super::super) policies: &'w [(FileId, Rc<PolicyDoc>)],
    pub(in super::super) cluster: &'w Cluster,
}

/// A service as it is written and as it is resolved, with the number of its policy.
#[derive(Clone, Copy)]
pub(super) struct Known<'w> {
    pub(super) doc: &'w ServiceDoc,
    pub(super) service: &'w Service,
    pub(super) policy: usize,
}

/// The nodes that run the same services.
pub(super) struct Alike<'w> {
    /// Numbers of the services that they run, in the order of their labels.
    pub(super) runs: Vec<usize>,
    /// The nodes.
    pub(super) nodes: Vec<&'w Node>,
}

/// Which service has which port on nodes that are alike.
pub(super) struct Held {
    /// The claims with the number of their service, those first that decide where several hold a
    /// port: the narrowest, and of equal ones that of the first label.
    claims: Vec<(Claim, usize)>,
}

impl Held {
    /// Of a group, where each service claims what `claims` says.
    pub(super) fn of(group: &Alike<'_>, claims: &[Vec<Claim>]) -> Self {
        let mut held: Vec<(Claim, usize)> = Vec::new();
        for number in &group.runs {
            let own = claims.get(*number).into_iter().flatten();
            held.extend(own.map(|claim| (*claim, *number)));
        }
        // Stable: labels stay in their order.
        held.sort_by_key(|(claim, _)| claim.width);
        Self { claims: held }
    }

    /// The service that has a port.
    pub(super) fn owner(&self, transport: Transport, port: u16) -> Option<usize> {
        let holds = |claim: &Claim| {
            claim.range.transport == transport
                && (claim.range.first..=claim.range.last).contains(&port)
        };
        self.claims.iter().find(|(claim, _)| holds(claim)).map(|(_, number)| *number)
    }

    /// The services that have a port at all.
    pub(super) fn owners(&self) -> BTreeSet<usize> {
        let mut owners = BTreeSet::new();
        for transport in Transport::ALL {
            // The ports that are taken, by the first one of each run.
            let mut taken: BTreeMap<u32, u32> = BTreeMap::new();
            let claims = self.claims.iter().filter(|(claim, _)| claim.range.transport == transport);
            for (claim, number) in claims {
                if add(&mut taken, claim.range.first.into(), claim.range.last.into()) {
                    owners.insert(*number);
                }
            }
        }
        owners
    }
}

/// Adds a run to runs that neither overlap nor touch; whether there was anything new in it.
fn add(taken: &mut BTreeMap<u32, u32>, first: u32, last: u32) -> bool {
    let (mut first, mut last) = (first, last);
    // The runs that meet it or touch it.
    let near: Vec<(u32, u32)> = taken
        .range(..=last.saturating_add(1))
        .rev()
        .take_while(|(_, end)| end.saturating_add(1) >= first)
        .map(|(start, end)| (*start, *end))
        .collect();
    if near.iter().any(|(start, end)| *start <= first && last <= *end) {
        return false;
    }
    for (start, end) in near {
        taken.remove(&start);
        first = first.min(start);
        last = last.max(end);
    }
    taken.insert(first, last);
    true
}

impl<'w> Whole<'w> {
    /// All services, in the order of the manifest.
    pub(super) fn services(&self) -> Vec<Known<'w>> {
        let docs = self.policies.iter().enumerate().flat_map(|(number, (_, policy))| {
            policy.services.iter().map(move |service| (number, service))
        });
        docs.zip(&self.cluster.services)
            .map(|((policy, doc), service)| Known { doc, service, policy })
            .collect()
    }

    /// The nodes by what they run; those that run nothing are left out.
    fn alike(&self) -> Vec<Alike<'w>> {
        let mut by_roles: BTreeMap<&[String], Vec<&Node>> = BTreeMap::new();
        for node in &self.cluster.nodes {
            by_roles.entry(&node.roles).or_default().push(node);
        }
        let mut by_services: BTreeMap<Vec<usize>, Vec<&Node>> = BTreeMap::new();
        for (roles, nodes) in by_roles {
            let services = self.cluster.services.iter().enumerate();
            let runs: Vec<usize> = services
                .filter(|(_, service)| service.runs_on(roles))
                .map(|(number, _)| number)
                .collect();
            if !runs.is_empty() {
                by_services.entry(runs).or_default().extend(nodes);
            }
        }
        let of = |number: &usize| self.cluster.services.get(*number);
        by_services
            .into_iter()
            .map(|(mut runs, nodes)| {
                runs.sort_by_key(|number| of(number).map(|service| &service.label));
                Alike { runs, nodes }
            })
            .collect()
    }
}

/// Claims of all groups together that are looked at: documents that are made to have more than that
/// must not keep lint busy.
const MAX_CLAIMS: usize = 2_000_000;

/// Checks what the documents mean together.
pub(in super::super) fn check(out: &mut Report, whole: &Whole<'_>) {
    let services = whole.services();
    let alike = whole.alike();
    families::check(out, whole, &services, &alike);
    breadth::check(out, &services);
    startup::check(out, whole, &services);
    lockout::members(out, whole, &services);
    outside::check(out, whole);

    let claims: Vec<Vec<Claim>> = services
        .iter()
        .map(|known| ports::claims(&known.service.ports, &known.service.except))
        .collect();
    let mut facts = Facts::default();
    let mut left = MAX_CLAIMS;
    for group in &alike {
        let count = |number: &usize| claims.get(*number).map_or(0, Vec::len);
        let cost = group.runs.iter().map(count).sum::<usize>() + 1;
        if let Some(rest) = left.checked_sub(cost) {
            left = rest;
            facts.add(group, &Held::of(group, &claims), &services);
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
struct Facts {
    /// Services that have a port somewhere.
    owners: BTreeSet<usize>,
    /// Services that have the port of ssh somewhere.
    ssh: BTreeSet<usize>,
    /// Services of a framework, with a port of it that no service has beside them.
    uncovered: BTreeSet<(usize, u16)>,
}

impl Facts {
    fn add(&mut self, group: &Alike<'_>, held: &Held, services: &[Known<'_>]) {
        self.ssh.extend(lockout::ssh_owner(held));
        self.uncovered.extend(coverage::uncovered_by(held, services));
        // Mostly they all are known already.
        if !group.runs.iter().all(|number| self.owners.contains(number)) {
            self.owners.extend(held.owners());
        }
    }
}
