//! Decides which service a port belongs to: the one with the narrowest entry that contains the port.

use crate::syntax::scalars::PortRange;

/// A part of a port entry that neither `except` nor [`PortRange::left_alone`] takes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortClaim {
    /// The ports of the part.
    pub(crate) range: PortRange,
    /// Width of the whole entry as written. The narrower entry wins.
    pub(crate) width: u16,
}

/// Returns the ports that a service claims: its entries minus the exceptions and minus the ports that
/// ranges leave alone.
pub(crate) fn claims(ports: &[PortRange], except: &[PortRange]) -> Vec<PortClaim> {
    let mut claims = Vec::new();
    for entry in ports {
        let alone =
            entry.left_alone().map(|(port, _)| PortRange { first: port, last: port, ..*entry });
        let holes = except.iter().copied().chain(alone);
        let mut pieces = vec![*entry];
        for hole in holes {
            pieces = pieces.into_iter().flat_map(|piece| without(piece, hole)).flatten().collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> PortRange {
        text.parse().expect("ports")
    }

    fn claimed(ports: &[&str], except: &[&str]) -> Vec<String> {
        let all = |texts: &[&str]| texts.iter().map(|text| range(text)).collect::<Vec<_>>();
        let claims = claims(&all(ports), &all(except));
        claims.iter().map(|claim| claim.range.to_string()).collect()
    }

    #[test]
    fn ranges_leave_dhcp_and_ntp_alone() {
        let whole = ["udp/0-66", "udp/69-122", "udp/124-545", "udp/548-65535"];
        let shown =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        // `udp/any` contains port 0, which no document can write.
        let any = claims(&[range("udp/any")], &[]);
        let any: Vec<String> = any.iter().map(|claim| claim.range.to_string()).collect();
        assert_eq!(any, shown(&whole));
        assert!(any.iter().all(|text| !text.contains("any")));
        assert_eq!(claimed(&["udp/60-70"], &["udp/61-65"]), ["udp/60", "udp/66", "udp/69-70"]);
        assert_eq!(claimed(&["udp/67-68"], &[]), [""; 0]);
        for transport in ["tcp", "sctp"] {
            let entry = format!("{transport}/1-1000");
            assert_eq!(claimed(&[&entry], &[]), [entry.as_str()], "only UDP");
        }
    }

    #[test]
    fn a_port_named_by_itself_is_guarded() {
        assert_eq!(claimed(&["udp/67"], &[]), ["udp/67"]);
        assert_eq!(claimed(&["udp/67-67"], &[]), ["udp/67"], "the same entry, written otherwise");
        assert_eq!(claimed(&["udp/67", "udp/60-70"], &[]), ["udp/60-66", "udp/67", "udp/69-70"]);
        assert_eq!(range("udp/67-67").left_alone().count(), 0);
        let alone: Vec<u16> = range("udp/100-546").left_alone().map(|(port, _)| port).collect();
        assert_eq!(alone, [123, 546]);
    }

    #[test]
    fn the_width_of_a_split_range_is_that_of_the_whole() {
        let claims = claims(&[range("udp/60-70")], &[]);
        assert!(claims.iter().all(|claim| claim.width == 10), "{claims:?}");
    }
}
