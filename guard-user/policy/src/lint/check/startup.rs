//! Finds limits that a job of the size of this cluster exceeds when it starts.

use guard_common::bucket::Limit;

use super::cluster_view::{ClusterView, ServiceView};
use crate::syntax::{
    diagnostic::{At, Diagnostic, Report},
    document::ServiceDoc,
    rules,
    scalars::PortRange,
};

/// Connections per second that a waiting ps-lite process opens while the scheduler is not up: `ZeroMQ`
/// retries every 100 to 200 ms.
const RETRIES: u64 = 9;

/// Numbers of nodes with the roles of a parameter server.
struct Job {
    servers: u64,
    workers: u64,
}

impl Job {
    /// Returns the number of connections that a node of a role accepts while the job forms: at the
    /// scheduler two from every server and worker (one to register, one that stays open); at the others
    /// one from every peer and one from the scheduler.
    fn connections(&self, role: &str) -> u64 {
        match role {
            "scheduler" => 2 * (self.servers + self.workers),
            "server" => self.workers + 1,
            "worker" => self.servers + 1,
            _ => 0,
        }
    }
}

pub(crate) fn check(out: &mut Report, whole: &ClusterView<'_>, services: &[ServiceView<'_>]) {
    let count = |role: &str| {
        let has = |node: &&crate::resolve::cluster::Node| node.roles.iter().any(|own| own == role);
        whole.cluster.nodes.iter().filter(has).count() as u64
    };
    let job = Job { servers: count("server"), workers: count("worker") };
    // Only ps-lite has all three roles; other frameworks have a scheduler, too.
    if count("scheduler") == 0 || job.servers == 0 || job.workers == 0 {
        return;
    }
    for known in services {
        let roles = known.doc.roles.iter().map(|role| role.value.as_str());
        // Connections to the scheduler go to its own port, so a service behind that port is not checked
        // for them.
        let behind = roles.clone().any(|role| role == "scheduler") && is_behind(known, services);
        let counted = roles.filter(|role| !(behind && *role == "scheduler"));
        let Some((need, role)) = counted.map(|role| (job.connections(role), role)).max() else {
            continue;
        };
        if need == 0 {
            continue;
        }
        if let Some(limit) = &known.doc.total.new_connections
            && fits(limit) < need
        {
            let message = format!(
                "a burst of {} new connections is less than the {need} that a {role} gets when a \
                 job of {} servers and {} workers starts",
                fits(limit),
                job.servers,
                job.workers
            );
            out.push(Diagnostic::warning(rules::STARTUP, limit.place, message).help(format!(
                "write a burst of {need} or more: a dropped SYN is sent again after a second, \
                     and the whole job waits"
            )));
        }
        if let Some(limit) = &known.doc.per_source.new_connections {
            let rate = limit.value.rate;
            if fits(limit) < 2 || rate < RETRIES {
                let message = format!(
                    "{rate} new connections a second with a burst of {} are less than one process \
                     needs: it opens 2 at once, and {RETRIES} a second while the scheduler is not up",
                    fits(limit)
                );
                out.push(
                    Diagnostic::warning(rules::STARTUP, limit.place, message)
                        .help("write 200/s with a burst of 1000, which is enough for 20 processes"),
                );
            }
        }
    }
}

/// Returns the number of new connections that pass at one instant.
fn fits(limit: &At<Limit>) -> u64 {
    limit.value.depth.checked_div(limit.value.unit).unwrap_or(u64::MAX)
}

/// Reports whether another service of the policy has narrower ports for the scheduler within the ports
/// of this one, so that the scheduler's pinned port belongs to the other.
fn is_behind(known: &ServiceView<'_>, services: &[ServiceView<'_>]) -> bool {
    let widest = |doc: &ServiceDoc| doc.ports.iter().map(|port| port.value.width()).max();
    let within = |inner: &PortRange, outer: &PortRange| outer.intersect(inner) == Some(*inner);
    services.iter().any(|other| {
        let shares = other.doc.roles.iter().any(|role| {
            role.value == "scheduler" && known.doc.roles.iter().any(|own| own.value == role.value)
        });
        shares
            && other.policy == known.policy
            && widest(other.doc) < widest(known.doc)
            && other
                .doc
                .ports
                .iter()
                .any(|inner| known.doc.ports.iter().any(|outer| within(&inner.value, &outer.value)))
    })
}
