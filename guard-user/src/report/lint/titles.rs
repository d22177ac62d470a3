//! What each rule is called.

use crate::policy::diagnostic::Code;

/// The title of a rule, without full stop.
pub fn title_of(code: Code) -> String {
    TITLES
        .binary_search_by_key(&code.0, |(number, _)| *number)
        .ok()
        .and_then(|at| TITLES.get(at))
        .map_or_else(|| format!("Rule {code}"), |(_, title)| (*title).to_owned())
}

/// Titles by number of the rule, sorted.
const TITLES: &[(u16, &str)] = &[
    (1, "Not YAML"),
    (2, "A key twice in one mapping"),
    (3, "An anchor, an alias or a merge key"),
    (4, "An explicit tag"),
    (5, "A character that hides or reorders text, or bytes that are no UTF-8"),
    (6, "A scalar that YAML readers understand differently"),
    (7, "An empty document, or null"),
    (8, "More than one document, or a directive"),
    (9, "Too big or nested too deep"),
    (10, "A file that cannot be read"),
    (101, "A field that does not exist"),
    (102, "A field that must be written"),
    (103, "A prefix whose address has bits beyond its length"),
    (104, "Not an address or prefix"),
    (105, "Not a port or range of ports"),
    (106, "Not an interface pattern"),
    (107, "An `apiVersion` or `kind` that is not understood"),
    (109, "A list where a mapping belongs, and the like"),
    (110, "Not a name"),
    (111, "Not a rate or an amount, or out of range"),
    (112, "Not one of the words that are possible"),
    (113, "Not a host list"),
    (114, "Not a path of a file"),
    (201, "A prefix that is everything"),
    (202, "A service that forgets an address family"),
    (203, "Two fields that contradict each other"),
    (204, "Something that never has an effect"),
    (205, "A name twice"),
    (206, "An `allow` that allows nobody"),
    (207, "Two services that claim a port equally"),
    (208, "A role or network that nothing uses"),
    (209, "All packets to ephemeral ports"),
    (210, "A limit that stalls training"),
    (211, "A limit too tight to be useful"),
    (212, "A service that enforces and is open to everybody"),
    (213, "Prefixes that together are nearly everything"),
    (214, "A limit below what a start of the cluster needs"),
    (301, "Nobody but members can log in over SSH"),
    (302, "A management network that cannot log in over SSH"),
    (303, "A member that the policy would refuse"),
    (401, "A node name twice"),
    (402, "An address that no node can have"),
    (403, "An address twice"),
    (404, "A well-known port of a framework that no service covers"),
    (405, "A file that the manifest names and that is not there"),
    (407, "A role that no node has"),
    (408, "A network that the manifest does not name"),
    (409, "A policy file that is named twice"),
    (410, "Host lists of different lengths"),
    (411, "A node without addresses"),
    (412, "A node address outside the cluster's own prefixes"),
    (413, "A prefix that its list has already"),
    (501, "More prefixes than fit"),
    (502, "A host list that expands too far"),
    (503, "More services than a node can run"),
    (504, "More limiter states than fit"),
    (505, "More classes of sources than fit"),
    (901, "An ignore comment that silences nothing"),
    (902, "An ignore comment without a reason"),
    (903, "An ignore comment for what cannot be ignored"),
    (904, "A policy without a description"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_title() {
        assert!(TITLES.is_sorted_by(|a, b| a.0 < b.0));
        let rules = include_str!("../../policy/code.rs");
        let numbers = rules.lines().filter_map(|line| {
            line.strip_prefix("pub const ")?.split_once("Code(")?.1.strip_suffix(");")
        });
        let mut count = 0;
        for number in numbers {
            let code = Code(number.parse().unwrap());
            assert!(!title_of(code).starts_with("Rule TG"), "{code}");
            count += 1;
        }
        assert!(count > 40, "{count}");
    }
}
