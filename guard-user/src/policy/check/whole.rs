//! What the documents of a cluster mean together, once they are known to be faultless: what the
//! daemon takes, and what is still probably not meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use guard_common::layout::{self, PORT_UNGUARDED, PortTable};

use super::{
    super::{
        cluster::{Cluster, Node, Service},
        compile,
        diagnostic::{FileId, Report},
        document::{ClusterDoc, PolicyDoc, ServiceDoc},
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
    /// Numbers of the services that they run, sorted.
    pub(super) runs: Vec<usize>,
    /// The nodes.
    pub(super) nodes: Vec<&'w Node>,
    /// By port: the rank among `runs`, in the order of labels.
    ports: Box<PortTable>,
    /// The services by rank.
    ranks: Vec<usize>,
}

impl Alike<'_> {
    /// The service that has a port.
    pub(super) fn owner(
        &self,
        transport: guard_common::flow::Transport,
        port: u16,
    ) -> Option<usize> {
        let entry = *self.ports.get(layout::port_index(transport, port))?;
        self.ranks.get(usize::from(entry)).copied().filter(|_| entry != PORT_UNGUARDED)
    }

    /// The services that have a port at all.
    pub(super) fn owners(&self) -> BTreeSet<usize> {
        let mut ranks: [bool; 256] = [false; 256];
        for entry in self.ports.iter() {
            if let Some(seen) = ranks.get_mut(usize::from(*entry)) {
                *seen = true;
            }
        }
        let held = self.ranks.iter().zip(ranks);
        held.filter(|(_, seen)| *seen).map(|(service, _)| *service).collect()
    }
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
            .map(|(runs, nodes)| {
                let mut ranks = runs.clone();
                ranks.sort_by_key(|number| of(number).map(|service| &service.label));
                let ports = compile::ports(&ranks.iter().filter_map(of).collect::<Vec<_>>());
                Alike { runs, nodes, ports, ranks }
            })
            .collect()
    }
}

/// Checks what the documents mean together.
pub(in super::super) fn check(out: &mut Report, whole: &Whole<'_>) {
    let services = whole.services();
    let alike = whole.alike();
    families::check(out, whole, &services, &alike);
    breadth::check(out, &services);
    startup::check(out, whole, &services);
    lockout::check(out, whole, &services, &alike);
    coverage::check(out, &services, &alike);
    outside::check(out, whole);
}
