//! Which service a port belongs to: the narrowest entry that holds it.

use crate::syntax::scalars::PortRange;

/// A piece of a port entry that `except` leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortClaim {
    /// The ports.
    pub(crate) range: PortRange,
    /// Width of the entry as it is written: the narrower one decides.
    pub(crate) width: u16,
}

/// What a service claims: its entries without the ports that it leaves alone.
pub(crate) fn claims(ports: &[PortRange], except: &[PortRange]) -> Vec<PortClaim> {
    let mut claims = Vec::new();
    for entry in ports {
        let mut pieces = vec![*entry];
        for hole in except {
            pieces = pieces.into_iter().flat_map(|piece| without(piece, *hole)).flatten().collect();
        }
        let width = entry.width();
        claims.extend(pieces.into_iter().map(|range| PortClaim { range, width }));
    }
    claims.sort_unstable();
    claims.dedup();
    claims
}

/// A range without another: what lies before, and what lies after.
fn without(range: PortRange, hole: PortRange) -> [Option<PortRange>; 2] {
    let Some(cut) = range.intersect(&hole) else {
        return [Some(range), None];
    };
    let before = (cut.first > range.first).then(|| PortRange { last: cut.first - 1, ..range });
    let after = (cut.last < range.last).then(|| PortRange { first: cut.last + 1, ..range });
    [before, after]
}
