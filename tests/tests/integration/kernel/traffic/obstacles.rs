//! Rules by which packets that routes would send on are delivered to the node: as long as there is one,
//! nothing counts as forwarded, and `status` and `doctor` say why.

use guard_tests::{
    nft::{self, Hook, Table},
    node::{MEMBER_TOO, NODE},
    skip,
};

use super::{
    packets::syn,
    site::{CONTAINER, Fate, MEMBERS, STRANGER, Site, policy, service},
};

/// The guarded port.
const PORT: u16 = 9091;

/// Kinds of rules, with what is said of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    ByMark,
    Redirect,
    Tproxy,
}

impl Rule {
    const ALL: [Self; 3] = [Self::ByMark, Self::Redirect, Self::Tproxy];

    /// Returns how the rule is named.
    fn name(self) -> &'static str {
        match self {
            Self::ByMark => "a routing rule by firewall mark (`ip rule`)",
            Self::Redirect => "a redirect rule of nf_tables (table `test`, chain `c`, handle ",
            Self::Tproxy => "a TPROXY rule of nf_tables (table `test`, chain `c`, handle ",
        }
    }

    /// Adds the rule for a family. Returns whether this kernel has such rules.
    fn add(self, site: &Site, family: usize) -> bool {
        let table = table(family);
        let (kind, expressions) = match self {
            Self::ByMark => {
                site.node.ip(&by_mark(family, "add"));
                return true;
            }
            Self::Redirect => ("nat", vec![nft::expression("redir", &[])]),
            Self::Tproxy => ("filter", nft::tproxy(table.family, PORT).to_vec()),
        };
        let messages =
            [table.create(), table.chain(kind, Hook::Prerouting), table.rule(&expressions)];
        match site.node.at_node(|| nft::transact(&messages)) {
            Ok(()) => true,
            Err(error) => {
                skip::skip("traffic/nf_tables", &format!("{self:?}: {error}"));
                false
            }
        }
    }

    fn delete(self, site: &Site, family: usize) {
        match self {
            Self::ByMark => site.node.ip(&by_mark(family, "del")),
            _ => site.node.at_node(|| nft::transact(&[table(family).delete()])).expect("a table"),
        }
    }
}

fn table(family: usize) -> Table {
    Table { family: [nft::IPV4, nft::IPV6][family], name: "test" }
}

fn by_mark(family: usize, action: &'static str) -> [&'static str; 7] {
    [["-4", "-6"][family], "rule", action, "fwmark", "1", "lookup", "100"]
}

#[test]
fn nothing_counts_as_forwarded_while_a_rule_delivers_to_the_node() {
    let Some(mut site) = Site::new("traffic/obstacles") else { return };
    site.forward("1");
    site.guard("native", &policy(&[service("store", "tcp/9091", "all", MEMBERS, "")]));
    let stranger_reaches = |what: &str, family: usize, fate: Fate| {
        let reason = if fate == Fate::Nowhere { "not_allowed" } else { "forwarded" };
        let sent = [(syn(STRANGER[family], CONTAINER[family], PORT), fate)];
        site.check(what, &sent, &[("store", reason, 1)]);
    };
    for (rule, family) in Rule::ALL.into_iter().flat_map(|rule| [(rule, 0), (rule, 1)]) {
        let what = |when: &str| format!("{rule:?}, {}: {when}", NODE[family]);
        site.wait_for_forwarding(&what("before"), [true; 2]);
        stranger_reaches(&what("before"), family, Fate::AtContainer);
        if !rule.add(&site, family) {
            continue;
        }
        site.wait_for_forwarding(&what("with the rule"), [family == 1, family == 0]);
        stranger_reaches(&what("with the rule"), family, Fate::Nowhere);
        stranger_reaches(&what("the other family"), 1 - family, Fate::AtContainer);
        // A redirect answers in the name of the container, whose port it is. The other rules give
        // nothing to the node, because nothing sets the mark and no socket is transparent.
        let fate = if rule == Rule::Redirect { Fate::Reset } else { Fate::AtContainer };
        let sent = [(syn(MEMBER_TOO[family], CONTAINER[family], PORT), fate)];
        site.check(&what("a member"), &sent, &[("store", "allowed", 1)]);

        let says = |text: &str| text.contains(rule.name());
        site.node
            .wait("reported", |status| status["forwarded"]["suspended"].as_str().is_some_and(says));
        let diagnosis = site.diagnosis("forwarding");
        assert_eq!(diagnosis["state"], "warning", "{rule:?}: {diagnosis}");
        assert!(says(&diagnosis.to_string()), "{rule:?}: {diagnosis}");

        rule.delete(&site, family);
        site.wait_for_forwarding(&what("without the rule"), [true; 2]);
        stranger_reaches(&what("without the rule"), family, Fate::AtContainer);
        site.node.wait("not reported", |status| status["forwarded"]["suspended"].is_null());
        let diagnosis = site.diagnosis("forwarding");
        assert_eq!(diagnosis["state"], "note", "{rule:?}: {diagnosis}");
    }
    assert_eq!(site.node.generation(), 1, "without a reload");
}
