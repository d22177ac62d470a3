//! Finds services that never own a port, and ports of a framework that no service covers.

use std::collections::BTreeSet;

use guard_common::port_table::Transport;

use super::cluster_view::{NodeGroup, PortOwners, ServiceView};
use crate::{
    compile::ports::PortClaim,
    syntax::{
        diagnostic::{Diagnostic, Report},
        rules,
    },
};

/// Ports on which one process, or the processes of one host, listen.
struct Framework {
    name: &'static str,
    ports: &'static [(u16, &'static str)],
}

/// Default ports, from the documentation and the source code of each framework.
const FRAMEWORKS: [Framework; 5] = [
    Framework {
        name: "Ray",
        ports: &[(6379, "GCS"), (8265, "dashboard and Jobs API"), (10_001, "Ray Client")],
    },
    Framework { name: "Dask", ports: &[(8786, "scheduler"), (8787, "dashboard")] },
    Framework {
        name: "PyTorch",
        ports: &[(29_500, "TCPStore"), (29_400, "torchrun's rendezvous")],
    },
    Framework { name: "Slurm", ports: &[(6817, "slurmctld"), (6820, "slurmrestd")] },
    Framework { name: "TensorFlow Serving", ports: &[(8500, "gRPC"), (8501, "REST")] },
];

/// Entries of this width or more do not count as naming a particular port.
const PINNED: u16 = 1000;

/// Returns the services that name a port of a framework, each with a port of the framework that no
/// service of the node covers.
pub(crate) fn uncovered_by(held: &PortOwners, services: &[ServiceView<'_>]) -> Vec<(usize, u16)> {
    let mut found = Vec::new();
    for framework in &FRAMEWORKS {
        let mut ports = framework.ports.iter().map(|(port, _)| *port);
        let Some(service) = ports.find_map(|port| pinned(held, services, port)) else { continue };
        let bare = framework.ports.iter().map(|(port, _)| *port);
        let bare = bare.filter(|port| held.owner(Transport::Tcp, *port).is_none());
        found.extend(bare.map(|port| (service, port)));
    }
    found
}

pub(crate) fn uncovered(
    out: &mut Report,
    services: &[ServiceView<'_>],
    uncovered: &BTreeSet<(usize, u16)>,
) {
    for (service, port) in uncovered {
        let Some(known) = services.get(*service) else { continue };
        let of = FRAMEWORKS.iter().find_map(|framework| {
            let (_, what) = framework.ports.iter().find(|(known, _)| known == port)?;
            Some((framework.name, what))
        });
        let Some((framework, what)) = of else { continue };
        let place = known.doc.ports.first().map_or(known.doc.name.place, |entry| entry.place);
        let message = format!(
            "no service covers tcp/{port} ({what}), where {framework} also listens by default"
        );
        out.push(Diagnostic::warning(rules::UNCOVERED, place, message).help(format!(
            "add `tcp/{port}` to `ports` or to a service of its own, or add a service for \
             `tcp/any` with `match: new-connections`"
        )));
    }
}

/// Reports services that own no port on any node. `owners` are the ones that own one.
pub(crate) fn never(
    out: &mut Report,
    services: &[ServiceView<'_>],
    alike: &[NodeGroup<'_>],
    claims: &[Vec<PortClaim>],
    owners: &BTreeSet<usize>,
) {
    for (number, known) in services.iter().enumerate() {
        // A service that claims no port at all has a finding of its own.
        let claims_none = claims.get(number).is_none_or(Vec::is_empty);
        if owners.contains(&number) || claims_none {
            continue;
        }
        // A service that runs on no node has a finding of its own: no node has its roles.
        let Some(group) = alike.iter().find(|group| group.runs.contains(&number)) else { continue };
        let held = PortOwners::of(group, claims);
        let ports = known.service.ports.iter();
        let holders: BTreeSet<usize> =
            ports.filter_map(|range| held.owner(range.transport, range.first)).collect();
        let message = format!(
            "`{}` can never match: on every node that runs it, narrower services cover all of \
             its ports",
            known.doc.name.value
        );
        let mut finding = Diagnostic::warning(rules::NO_EFFECT, known.doc.name.place, message)
            .help("delete the service, or the narrower entries that cover its ports");
        for holder in holders.into_iter().filter_map(|holder| services.get(holder)) {
            let place = holder.doc.ports.first().map_or(holder.doc.name.place, |port| port.place);
            finding = finding.related(place, format!("`{}` covers them", holder.doc.name.value));
        }
        out.push(finding);
    }
}

/// Returns the service that owns a TCP port, if one of its entries that contain the port is narrow.
fn pinned(held: &PortOwners, services: &[ServiceView<'_>], port: u16) -> Option<usize> {
    let number = held.owner(Transport::Tcp, port)?;
    let known = services.get(number)?;
    let names = known.doc.ports.iter().any(|entry| {
        let range = entry.value;
        range.transport == Transport::Tcp
            && (range.first..=range.last).contains(&port)
            && range.width() < PINNED
    });
    names.then_some(number)
}
