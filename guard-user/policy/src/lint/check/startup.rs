//! Limits that a job of the manifest's own size runs into when it starts.

use guard_common::bucket::Limit;

use super::cluster_view::{ClusterView, ServiceView};
use crate::syntax::{
    diagnostic::{At, Diagnostic, Report},
    document::ServiceDoc,
    rules,
    scalars::PortRange,
};

/// Connections that a waiting process of ps-lite opens in a second while the scheduler is not up:
/// `ZeroMQ` tries again every 100 to 200 ms.
const RETRIES: u64 = 9;

/// Nodes of each role of a parameter server.
struct Job {
    servers: u64,
    workers: u64,
}

impl Job {
    /// Connections that a node of a role gets while the job forms: two from every server and worker
    /// at the scheduler (one to register, one to stay), one from every peer and one from the
    /// scheduler at the others.
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
    // The three roles together are those of ps-lite; others have a scheduler, too.
    if count("scheduler") == 0 || job.servers == 0 || job.workers == 0 {
        return;
    }
    for known in services {
        let roles = known.doc.roles.iter().map(|role| role.value.as_str());
        // The scheduler has its own port always: what stands behind it is not asked.
        let behind = roles.clone().any(|role| role == "scheduler") && is_behind(known, services);
        let asked = roles.filter(|role| !(behind && *role == "scheduler"));
        let Some((need, role)) = asked.map(|role| (job.connections(role), role)).max() else {
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
                "write a burst of {need} or more: a dropped SYN is tried again after a second, \
                     and all of the job waits"
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
                        .help("write 200/s with a burst of 1000, which is room for 20 processes"),
                );
            }
        }
    }
}

/// What passes at one instant.
fn fits(limit: &At<Limit>) -> u64 {
    limit.value.depth.checked_div(limit.value.unit).unwrap_or(u64::MAX)
}

/// Whether another service has narrower ports on the same roles: what is pinned goes there.
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
