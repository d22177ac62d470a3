//! Decides which service a port belongs to: the one with the narrowest entry that contains the port.

use crate::syntax::scalars::PortRange;

/// A part of a port entry that `except` does not exclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortClaim {
    /// The ports of the part.
    pub(crate) range: PortRange,
    /// Width of the whole entry as written. The narrower entry wins.
    pub(crate) width: u16,
}

/// Returns the ports that a service claims: its entries minus the exceptions.
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

/// Subtracts a range from another: returns the ports before `hole` and the ports after it.
fn without(range: PortRange, hole: PortRange) -> [Option<PortRange>; 2] {
    let Some(cut) = range.intersect(&hole) else {
        return [Some(range), None];
    };
    let before = (cut.first > range.first).then(|| PortRange { last: cut.first - 1, ..range });
    let after = (cut.last < range.last).then(|| PortRange { first: cut.last + 1, ..range });
    [before, after]
}
