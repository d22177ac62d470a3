//! The documents of a cluster with the resolved cluster, as input of the checks of a whole cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use guard_common::port_table::Transport;

use crate::{
    compile::ports::PortClaim,
    resolve::cluster::{Cluster, Node, Service},
    syntax::{
        diagnostic::FileId,
        document::{ClusterDoc, PolicyDoc, ServiceDoc},
    },
};

/// The documents of a cluster and the resolved cluster.
pub(crate) struct ClusterView<'w> {
    pub(crate) doc: &'w ClusterDoc,
    pub(crate) policies: &'w [(FileId, Rc<PolicyDoc>)],
    pub(crate) cluster: &'w Cluster,
}

/// A service as written and as resolved, with the index of its policy.
#[derive(Clone, Copy)]
pub(crate) struct ServiceView<'w> {
    pub(crate) doc: &'w ServiceDoc,
    pub(crate) service: &'w Service,
    pub(crate) policy: usize,
}

/// Nodes that run the same services.
pub(crate) struct NodeGroup<'w> {
    /// Indices of the services that the nodes run, ordered by label.
    pub(crate) runs: Vec<usize>,
    /// The nodes of the group.
    pub(crate) nodes: Vec<&'w Node>,
}

/// The owner of each port on the nodes of a group.
pub(crate) struct PortOwners {
    /// Claims with the index of their service, in order of precedence: the narrowest first, and equally
    /// wide ones by label.
    claims: Vec<(PortClaim, usize)>,
}

impl PortOwners {
    /// Builds the owners of a group. `claims` has the claims of each service, by index.
    pub(crate) fn of(group: &NodeGroup<'_>, claims: &[Vec<PortClaim>]) -> Self {
        let mut held: Vec<(PortClaim, usize)> = Vec::new();
        for number in &group.runs {
            let own = claims.get(*number).into_iter().flatten();
            held.extend(own.map(|claim| (*claim, *number)));
        }
        // The sort is stable, so equally wide claims stay in the order of labels.
        held.sort_by_key(|(claim, _)| claim.width);
        Self { claims: held }
    }

    /// Returns the service that owns a port.
    pub(crate) fn owner(&self, transport: Transport, port: u16) -> Option<usize> {
        let holds = |claim: &PortClaim| {
            claim.range.transport == transport
                && (claim.range.first..=claim.range.last).contains(&port)
        };
        self.claims.iter().find(|(claim, _)| holds(claim)).map(|(_, number)| *number)
    }

    /// Returns the services that own at least one port.
    pub(crate) fn owners(&self) -> BTreeSet<usize> {
        let mut owners = BTreeSet::new();
        for transport in Transport::ALL {
            // Ports already taken, as runs: first port and last port.
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

/// Adds a run to runs that neither overlap nor touch; reports whether it has any new port.
fn add(taken: &mut BTreeMap<u32, u32>, first: u32, last: u32) -> bool {
    let (mut first, mut last) = (first, last);
    // Runs that overlap or touch the new one.
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

impl<'w> ClusterView<'w> {
    /// Returns all services, in the order of the manifest.
    pub(crate) fn services(&self) -> Vec<ServiceView<'w>> {
        let docs = self.policies.iter().enumerate().flat_map(|(number, (_, policy))| {
            policy.services.iter().map(move |service| (number, service))
        });
        docs.zip(&self.cluster.services)
            .map(|((policy, doc), service)| ServiceView { doc, service, policy })
            .collect()
    }

    /// Groups the nodes by the services that they run. Nodes without services are omitted.
    pub(crate) fn groups(&self) -> Vec<NodeGroup<'w>> {
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
                NodeGroup { runs, nodes }
            })
            .collect()
    }
}
