//! Finds services that admit most of the address space without a `/0`.

use super::cluster_view::ServiceView;
use crate::{
    compile::source_table::{Octets, ends, merged},
    compiled::Prefix,
    syntax::{
        diagnostic::{Diagnostic, Location, Report},
        rules,
    },
};

/// Half of all IPv4 addresses.
const HALF_OF_IPV4: u128 = 1 << 31;
/// Half of `2000::/3`, the only block of IPv6 that is assigned as global unicast (IANA, IPv6 Global
/// Unicast Address Assignments).
const HALF_OF_IPV6: u128 = 1 << 124;
const GLOBAL_UNICAST: (u128, u128) = (0x2000 << 112, (0x4000 << 112) - 1);

/// Counts the addresses of a range, both ends included, that some of these prefixes contain.
fn covered<'p, A: Octets + 'p>(
    prefixes: impl Iterator<Item = &'p Prefix<A>>,
    (first, last): (u128, u128),
) -> u128 {
    let ranges = prefixes
        .map(ends)
        .map(|(start, end)| (start.max(first), end.min(last)))
        .filter(|(start, end)| start <= end);
    let sizes = merged(ranges.collect()).into_iter();
    sizes.fold(0, |sum, (start, end)| sum.saturating_add(end - start).saturating_add(1))
}

pub(crate) fn check(out: &mut Report, services: &[ServiceView<'_>]) {
    for known in services {
        let sets = || known.service.allow.prefixes.iter();
        let four = covered(sets().flat_map(|set| &set.v4), (0, u32::MAX.into()));
        let six = covered(sets().flat_map(|set| &set.v6), GLOBAL_UNICAST);
        let what = match (four >= HALF_OF_IPV4, six >= HALF_OF_IPV6) {
            (true, true) => "IPv4 and IPv6",
            (true, false) => "IPv4",
            (false, true) => "global IPv6",
            (false, false) => continue,
        };
        let allow = &known.doc.allow;
        let places = allow.cidrs.iter().map(|cidr| cidr.place);
        let mut places = places.chain(allow.networks.iter().map(|name| name.place));
        let place: Location = places.next().unwrap_or(known.doc.name.place);
        let message = format!(
            "`{}` admits half of all {what} addresses or more, which is nearly every host",
            known.doc.name.value
        );
        let finding = Diagnostic::warning(rules::NEARLY_EVERYTHING, place, message)
            .help("list the networks that need it; to admit every source, write `any: true`");
        out.push(
            places
                .take(3)
                .fold(finding, |finding, place| finding.related(place, "together with this")),
        );
    }
}
