//! Services that never have a port, and ports of a framework that no service covers.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::flow::Transport;

use super::{
    super::diagnostic::{Diagnostic, Report, code},
    whole::{Alike, Known},
};

/// Ports that one process, or the processes of one host, listen on.
struct Framework {
    name: &'static str,
    ports: &'static [(u16, &'static str)],
}

/// From the documentation and the sources of each, as they are by default.
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

/// An entry that is wider names no port in particular.
const PINNED: u16 = 1000;

pub(super) fn check(out: &mut Report, services: &[Known<'_>], alike: &[Alike<'_>]) {
    let mut ever: BTreeSet<usize> = BTreeSet::new();
    let mut uncovered: BTreeMap<(usize, u16), (&Framework, &str)> = BTreeMap::new();
    for group in alike {
        ever.extend(group.owners());
        for framework in &FRAMEWORKS {
            let pinned =
                framework.ports.iter().find_map(|(port, _)| pinned(group, services, *port));
            let Some(service) = pinned else { continue };
            for (port, what) in framework.ports {
                if group.owner(Transport::Tcp, *port).is_none() {
                    uncovered.insert((service, *port), (framework, what));
                }
            }
        }
    }
    for ((service, port), (framework, what)) in uncovered {
        let Some(known) = services.get(service) else { continue };
        let place = known.doc.ports.first().map_or(known.doc.name.place, |entry| entry.place);
        let message = format!(
            "no service covers tcp/{port} ({what}), where {} listens, too, unless told otherwise",
            framework.name
        );
        out.push(Diagnostic::warning(code::UNCOVERED, place, message).help(format!(
            "add `tcp/{port}` to `ports`, or a service of its own; or a service for `tcp/any` \
             with `match: new-connections` behind them"
        )));
    }
    for (number, known) in services.iter().enumerate() {
        let runs = alike.iter().filter(|group| group.runs.contains(&number));
        let mut runs = runs.peekable();
        // A service that runs nowhere has its own finding: its roles do not exist.
        if runs.peek().is_none() || ever.contains(&number) {
            continue;
        }
        let holders: BTreeSet<usize> = runs
            .flat_map(|group| {
                let ports = known.service.ports.iter();
                ports.filter_map(|range| group.owner(range.transport, range.first))
            })
            .collect();
        let message = format!(
            "`{}` can never match: narrower services have each of its ports on every node that \
             runs it",
            known.doc.name.value
        );
        let mut finding = Diagnostic::warning(code::NEVER, known.doc.name.place, message)
            .help("delete the service, or the narrower entries that take its ports");
        for holder in holders.into_iter().filter_map(|holder| services.get(holder)) {
            let place = holder.doc.ports.first().map_or(holder.doc.name.place, |port| port.place);
            finding = finding.related(place, format!("`{}` has them", holder.doc.name.value));
        }
        out.push(finding);
    }
}

/// The service that names a port, more or less by itself, and matches every packet to it.
fn pinned(group: &Alike<'_>, services: &[Known<'_>], port: u16) -> Option<usize> {
    let number = group.owner(Transport::Tcp, port)?;
    let known = services.get(number)?;
    let names = known.doc.ports.iter().any(|entry| {
        let range = entry.value;
        range.transport == Transport::Tcp
            && (range.first..=range.last).contains(&port)
            && range.width() < PINNED
    });
    names.then_some(number)
}
