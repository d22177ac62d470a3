//! Finds policies that lock out the operator, or members of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::port_table::Transport;

use super::cluster_view::{ClusterView, PortOwners, ServiceView};
use crate::syntax::{
    diagnostic::{Diagnostic, Location, Report},
    rules,
    scalars::PortRange,
};

/// The port of ssh.
const SSH: PortRange = PortRange { transport: Transport::Tcp, first: 22, last: 22 };
/// Common names of the networks from which operators connect.
const MANAGEMENT_ROLES: [&str; 6] = ["management", "admin", "mgmt", "ops", "bastion", "operators"];
/// Common names of the roles of the nodes to which users log in first.
const LOGIN_ROLES: [&str; 7] =
    ["login", "bastion", "admin", "jump", "management", "submit", "head"];

/// Returns the service that owns the ssh port.
pub(crate) fn ssh_owner(held: &PortOwners) -> Option<usize> {
    held.owner(SSH.transport, SSH.first)
}

pub(crate) fn check(
    out: &mut Report,
    whole: &ClusterView<'_>,
    services: &[ServiceView<'_>],
    owners: &BTreeSet<usize>,
) {
    for known in owners.iter().filter_map(|number| services.get(*number)) {
        ssh(out, whole, known);
    }
}

/// Reports members that services refuse.
pub(crate) fn members(out: &mut Report, whole: &ClusterView<'_>, services: &[ServiceView<'_>]) {
    let mut taking_part: BTreeMap<usize, BTreeMap<&str, Location>> = BTreeMap::new();
    for known in services {
        for role in &known.doc.roles {
            let of_policy = taking_part.entry(known.policy).or_default();
            of_policy.entry(&role.value).or_insert(role.place);
        }
    }
    for known in services {
        if let Some(of_policy) = taking_part.get(&known.policy) {
            omitted_role(out, whole, of_policy, known);
        }
    }
    for entry in whole.doc.nodes.iter().filter(|entry| entry.roles.is_empty()) {
        let message = format!("`{}` has no role: every service refuses it", entry.name.value);
        out.push(
            Diagnostic::warning(rules::MEMBER, entry.name.place, message)
                .help("give it its role, or list the host under `networks` if it is not a member"),
        );
    }
}

/// Returns the location of the narrowest entry that contains a port.
fn port_place(known: &ServiceView<'_>, port: PortRange) -> Location {
    let holds = known.doc.ports.iter().filter(|entry| entry.value.intersect(&port).is_some());
    let narrowest = holds.min_by_key(|entry| entry.value.width());
    narrowest.map_or(known.doc.name.place, |entry| entry.place)
}

fn ssh(out: &mut Report, whole: &ClusterView<'_>, known: &ServiceView<'_>) {
    let allow = &known.doc.allow;
    if allow.any.is_some() {
        return;
    }
    let place = port_place(known, SSH);
    let name = &known.doc.name.value;
    let help = "write `except: [tcp/22]`, or admit the network from which operators log in";
    let has_login_role = allow.roles.iter().any(|role| LOGIN_ROLES.contains(&role.value.as_str()));
    if allow.networks.is_empty() && allow.cidrs.is_empty() && !has_login_role {
        let message = format!("`{name}` covers ssh (tcp/22) and admits nodes of the cluster only");
        out.push(Diagnostic::warning(rules::SSH, place, message).help(help));
    }
    for (network, _) in &whole.doc.networks {
        let lower = network.value.to_ascii_lowercase();
        let admitted = allow.networks.iter().any(|admitted| admitted.value == network.value);
        if MANAGEMENT_ROLES.contains(&lower.as_str()) && !admitted {
            let message = format!(
                "`{name}` covers ssh (tcp/22) and does not admit the network `{}`",
                network.value
            );
            out.push(
                Diagnostic::warning(rules::MANAGEMENT, place, message)
                    .related(network.place, "operators log in from here")
                    .help(help),
            );
        }
    }
}

/// Reports members that a service omits: `allow` lists all but one of the roles that take part in the
/// policy.
fn omitted_role(
    out: &mut Report,
    whole: &ClusterView<'_>,
    taking_part: &BTreeMap<&str, Location>,
    known: &ServiceView<'_>,
) {
    let allow = &known.doc.allow;
    if allow.any.is_some() || allow.roles.is_empty() {
        return;
    }
    let admits = |role: &str| allow.roles.iter().any(|admitted| admitted.value == role);
    let admitted = taking_part.keys().filter(|role| admits(role)).count();
    let mut omitted = taking_part.iter().filter(|(role, _)| !admits(role));
    let (Some((role, place)), None, 2..) = (omitted.next(), omitted.next(), admitted) else {
        return;
    };
    // A node with another role that is admitted is not cut off. A single node does not need access to
    // itself.
    let cut_off = whole.cluster.nodes.iter().filter(|node| {
        node.roles.iter().any(|own| own == role) && !node.roles.iter().any(|own| admits(own))
    });
    let cut_off: Vec<&str> = cut_off.map(|node| node.name.as_str()).collect();
    let itself = known.service.roles == [*role];
    let Some(first) = cut_off.first().filter(|_| !(itself && cut_off.len() == 1)) else {
        return;
    };
    let refused = match cut_off.len() {
        1 => format!("`{first}`"),
        more => format!("`{first}` and {} more", more - 1),
    };
    let message = format!(
        "`{}` admits every role of its policy except `{role}`: {refused} would be refused",
        known.doc.name.value
    );
    let at = allow.roles.first().map_or(known.doc.name.place, |role| role.place);
    out.push(
        Diagnostic::warning(rules::MEMBER, at, message)
            .related(*place, "takes part in this policy")
            .help(format!(
                "add `{role}` to `allow`: a refused member stalls the job without an error in its \
                 logs"
            )),
    );
}
