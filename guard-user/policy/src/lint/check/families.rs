//! Finds nodes and sources with only one address family where the other nodes have both. A source that
//! is admitted over IPv4 only is refused as soon as it connects over IPv6, and the other way round.

use guard_common::Addr;

use super::cluster_view::{ClusterView, NodeGroup, ServiceView};
use crate::{
    resolve::cluster::PrefixSet,
    syntax::{
        diagnostic::{Diagnostic, Location, Report},
        rules,
    },
};

/// Whether something has IPv4 and IPv6, in this order.
type Families = [bool; 2];
const BOTH: Families = [true, true];
const NAMES: [&str; 2] = ["IPv4", "IPv6"];

fn of_addresses<'a>(addresses: impl IntoIterator<Item = &'a Addr>) -> Families {
    let mut found = [false; 2];
    for address in addresses {
        match address {
            Addr::V4(_) => found[0] = true,
            Addr::V6(_) => found[1] = true,
        }
    }
    found
}

fn of_set(set: &PrefixSet) -> Families {
    [!set.v4.is_empty(), !set.v6.is_empty()]
}

/// If only one family is present, returns its name and the name of the missing one.
fn only(families: Families) -> Option<(&'static str, &'static str)> {
    match families {
        [true, false] => Some((NAMES[0], NAMES[1])),
        [false, true] => Some((NAMES[1], NAMES[0])),
        _ => None,
    }
}

pub(crate) fn check(
    out: &mut Report,
    whole: &ClusterView<'_>,
    services: &[ServiceView<'_>],
    alike: &[NodeGroup<'_>],
) {
    let entries: Vec<(Location, &str, Families)> = whole
        .doc
        .nodes
        .iter()
        .map(|entry| {
            let has = |six: bool| entry.addresses.iter().any(|a| a.value.contains(':') == six);
            (entry.name.place, entry.name.value.as_str(), [has(false), has(true)])
        })
        .collect();
    let others_have_both = entries.iter().filter(|(.., families)| *families == BOTH).count();
    for (place, name, families) in &entries {
        // If several nodes have one family only, the cluster is probably built that way.
        if let Some((has, lacks)) = only(*families)
            && others_have_both > 0
            && others_have_both + 1 == entries.len()
        {
            let message = format!("`{name}` has {has} addresses only, all other nodes have both");
            out.push(Diagnostic::warning(rules::ONE_FAMILY, *place, message).help(format!(
                "add its {lacks} address: packets from an address that is not listed are refused"
            )));
        }
    }

    // Families of the nodes that run each service, by index of the service.
    let mut of_nodes = vec![[false; 2]; services.len()];
    for group in alike {
        let found = of_addresses(group.nodes.iter().flat_map(|node| &node.addresses));
        for number in &group.runs {
            if let Some(families) = of_nodes.get_mut(*number) {
                families[0] |= found[0];
                families[1] |= found[1];
            }
        }
    }
    let mut reported: Vec<&str> = Vec::new();
    for (known, nodes) in services.iter().zip(&of_nodes) {
        if *nodes != BOTH {
            continue;
        }
        let allow = &known.doc.allow;
        let mut listed = [false; 2];
        for set in &known.service.allow.prefixes {
            let of = of_set(set);
            listed = [listed[0] || of[0], listed[1] || of[1]];
        }
        let Some((has, lacks)) = only(listed) else { continue };
        let help = format!("list the {lacks} prefixes of the same hosts as well");
        for name in &allow.networks {
            let place = whole.doc.networks.iter().find(|(known, _)| known.value == name.value);
            if let Some((at, _)) = place
                && !reported.contains(&name.value.as_str())
            {
                reported.push(&name.value);
                let message = format!(
                    "the network `{}` has {has} prefixes only, the nodes of `{}` are reached over \
                     {lacks} as well",
                    name.value, known.doc.name.value
                );
                out.push(
                    Diagnostic::warning(rules::ONE_FAMILY, at.place, message)
                        .related(name.place, "admitted here")
                        .help(help.clone()),
                );
            }
        }
        if let Some(first) = allow.cidrs.first() {
            let message = format!(
                "`{}` admits {has} prefixes only, its nodes are reached over {lacks} as well",
                known.doc.name.value
            );
            out.push(Diagnostic::warning(rules::ONE_FAMILY, first.place, message).help(help));
        }
    }
}
