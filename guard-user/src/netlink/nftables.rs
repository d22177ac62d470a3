//! Rules of `nf_tables` that deliver packets for other addresses to this node, or translate addresses.
//!
//! Only the kinds of expressions are read. `nf_tables` lists rules, and sends notifications, only to
//! processes with `CAP_NET_ADMIN`.

use std::io;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::message::{Attributes, Notifications, Query, invalid, text};

// From include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_NEWRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 6;
const NFT_MSG_GETRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 7;
const NFT_MSG_DELRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 8;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_NAT_TYPE: u16 = 1;
const NFT_NAT_DNAT: u32 = 1;
/// Name of the target of a rule that `iptables-nft` added.
const NFTA_TARGET_NAME: u16 = 1;
/// Size of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
// From include/uapi/linux/netfilter.h.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// What the expressions of a rule do with packets. A rule can have several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set")]
pub struct Effects {
    /// Gives packets to a socket of this node, whatever their destination (TPROXY).
    pub tproxy: bool,
    /// Redirects packets to a port of this node.
    pub redirect: bool,
    /// Replaces the destination address.
    pub dnat: bool,
    /// Replaces the source address by one of this node.
    pub masquerade: bool,
}

impl Effects {
    /// Reports whether packets for other addresses may be delivered to this node.
    pub fn delivers_here(self) -> bool {
        self.tproxy || self.redirect
    }
}

/// Identifies a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId {
    /// Family of the table (`NFPROTO_*`).
    pub family: u8,
    /// Name of the table.
    pub table: String,
    /// Number of the rule, unique in its table.
    pub handle: u64,
}

impl RuleId {
    /// Reports whether the rule sees IPv4 packets.
    pub fn sees_ipv4(&self) -> bool {
        self.family != NFPROTO_IPV6
    }

    /// Reports whether the rule sees IPv6 packets.
    pub fn sees_ipv6(&self) -> bool {
        self.family != NFPROTO_IPV4
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which rule it is.
    pub id: RuleId,
    /// Name of its chain.
    pub chain: String,
    /// What it does.
    pub effects: Effects,
}

/// A notification about a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A rule was added.
    Added(Rule),
    /// A rule was removed.
    Removed(RuleId),
}

/// Lists the rules with effects in the network namespace of this thread. A kernel without `nf_tables`
/// has none; asking it loads the module if there is one.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`; the rules changed at each attempt to list them; the kernel does not
/// answer.
pub fn rules() -> io::Result<Vec<Rule>> {
    let query = Query {
        protocol: NETLINK_NETFILTER,
        kind: NFT_MSG_GETRULE,
        payload: &[0; NFGENMSG],
        is_filtered: false,
    };
    let listed = query.list(|kind, payload| match change(kind, payload)? {
        Some(Change::Added(rule)) if rule.effects != Effects::default() => Ok(Some(rule)),
        _ => Ok(None),
    });
    let listed = match listed {
        // EINVAL: netfilter has no nf_tables (`nfnetlink_rcv_msg`, net/netfilter/nfnetlink.c).
        Err(error) if is_missing(&error) || error.raw_os_error() == Some(libc::EINVAL) => {
            return Ok(Vec::new());
        }
        listed => listed?,
    };
    if listed.is_consistent {
        Ok(listed.items)
    } else {
        Err(io::Error::other("the rules changed while the kernel listed them"))
    }
}

/// Opens a socket that receives notifications of `nf_tables`, which [`change`] parses. Returns none if
/// the kernel has no netfilter.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn notifications() -> io::Result<Option<Notifications>> {
    match Notifications::join(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]) {
        Err(error) if is_missing(&error) => Ok(None),
        joined => joined.map(Some),
    }
}

/// Reports whether an error means that the kernel has no netfilter.
fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPROTONOSUPPORT)
}

/// Parses a message. Returns none if it is not about a rule.
///
/// # Errors
/// The message is malformed.
pub fn change(kind: u16, payload: &[u8]) -> io::Result<Option<Change>> {
    if !matches!(kind, NFT_MSG_NEWRULE | NFT_MSG_DELRULE) {
        return Ok(None);
    }
    let family = *payload.first().ok_or_else(|| invalid("a message is too short"))?;
    let (mut table, mut chain, mut handle, mut expressions) = (None, String::new(), None, None);
    for attribute in Attributes::after(NFGENMSG, payload)?.all() {
        match attribute? {
            (NFTA_RULE_TABLE, value) => table = Some(text(value)),
            (NFTA_RULE_CHAIN, value) => chain = text(value),
            (NFTA_RULE_HANDLE, value) => handle = value.try_into().ok().map(u64::from_be_bytes),
            (NFTA_RULE_EXPRESSIONS, value) => expressions = Some(Attributes(value)),
            _ => {}
        }
    }
    let (Some(table), Some(handle)) = (table, handle) else {
        return Err(invalid("a rule without a table or a handle"));
    };
    let id = RuleId { family, table, handle };
    if kind == NFT_MSG_DELRULE {
        return Ok(Some(Change::Removed(id)));
    }
    let effects = expressions.map_or(Ok(Effects::default()), effects)?;
    Ok(Some(Change::Added(Rule { id, chain, effects })))
}

/// Returns the effects of a list of expressions. A malformed list is an error, so that no effect is
/// overlooked.
fn effects(expressions: Attributes<'_>) -> io::Result<Effects> {
    let mut effects = Effects::default();
    for element in expressions.all() {
        let (kind, expression) = element?;
        if kind != NFTA_LIST_ELEM {
            continue;
        }
        let (mut name, mut data) = (None, Attributes(&[]));
        for attribute in Attributes(expression).all() {
            match attribute? {
                (NFTA_EXPR_NAME, value) => name = Some(text(value)),
                (NFTA_EXPR_DATA, value) => data = Attributes(value),
                _ => {}
            }
        }
        let name = name.ok_or_else(|| invalid("an expression without a name"))?;
        let target = (name == "target").then(|| data.text(NFTA_TARGET_NAME)).flatten();
        match target.as_deref().unwrap_or(&name) {
            "tproxy" | "TPROXY" => effects.tproxy = true,
            "redir" | "REDIRECT" => effects.redirect = true,
            "masq" | "MASQUERADE" => effects.masquerade = true,
            "DNAT" => effects.dnat = true,
            "nat" => {
                effects.dnat |=
                    data.number(NFTA_NAT_TYPE).map(u32::from_be_bytes) == Some(NFT_NAT_DNAT);
            }
            _ => {}
        }
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use super::{super::message::recorded, *};

    /// `nft`: in `ip`, `tcp dport 80 counter redirect to :8080`, `dnat to 10.0.0.5`, `oifname "x"
    /// masquerade`; in `inet`, `meta l4proto tcp tproxy ip to :5000 meta mark set 1 accept` and `tcp
    /// dport 22 accept`. Linux 6.18, x86-64.
    const NATIVE: &[u8] = include_bytes!("recorded/nft-native.bin");
    /// `iptables-nft`: REDIRECT, DNAT and MASQUERADE in `nat`, TPROXY in `mangle`.
    const COMPAT: &[u8] = include_bytes!("recorded/nft-compat.bin");

    fn rules_of(recording: &[u8]) -> Vec<Rule> {
        let rules = recorded(recording, |kind, payload| {
            Ok(match change(kind, payload)? {
                Some(Change::Added(rule)) => Some(rule),
                _ => None,
            })
        });
        rules.expect("rules")
    }

    fn effects_of(recording: &[u8]) -> Vec<(u8, String, Effects)> {
        let rules = rules_of(recording).into_iter();
        rules.map(|rule| (rule.id.family, rule.chain, rule.effects)).collect()
    }

    const NONE: Effects =
        Effects { tproxy: false, redirect: false, dnat: false, masquerade: false };

    #[test]
    fn expressions_of_nft_are_recognised() {
        let expected = [
            (2, "pre", Effects { redirect: true, ..NONE }),
            (2, "pre", Effects { dnat: true, ..NONE }),
            (2, "post", Effects { masquerade: true, ..NONE }),
            (1, "pre", Effects { tproxy: true, ..NONE }),
            (1, "f", NONE),
        ];
        let expected = expected.map(|(family, chain, effects)| (family, chain.to_owned(), effects));
        assert_eq!(effects_of(NATIVE), expected);
        let rules = rules_of(NATIVE);
        assert_eq!(rules[0].id.table, "r");
        assert!(rules[0].id.sees_ipv4() && !rules[0].id.sees_ipv6());
        assert!(rules[3].id.sees_ipv4() && rules[3].id.sees_ipv6(), "inet");
    }

    #[test]
    fn targets_of_iptables_nft_are_recognised() {
        let found: Vec<Effects> =
            effects_of(COMPAT).into_iter().map(|(.., effects)| effects).collect();
        let expected = [
            Effects { redirect: true, ..NONE },
            Effects { dnat: true, ..NONE },
            Effects { masquerade: true, ..NONE },
            Effects { tproxy: true, ..NONE },
        ];
        assert_eq!(found, expected);
    }

    /// A truncated or changed recording gives rules or an error, and no panic.
    #[test]
    fn malformed_recordings_are_errors() {
        let parse = |bytes: &[u8]| recorded(bytes, change);
        let whole = parse(NATIVE).expect("rules").len();
        for length in 0..NATIVE.len() {
            let parsed = parse(&NATIVE[..length]);
            assert!(parsed.is_err() || parsed.is_ok_and(|rules| rules.len() <= whole));
        }
        for at in 0..NATIVE.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut changed = NATIVE.to_vec();
                changed[at] = value;
                let _ = parse(&changed);
            }
        }
    }

    #[test]
    fn an_expression_list_that_ends_early_is_an_error() {
        let payload = &NATIVE[16..];
        let length =
            usize::try_from(u32::from_ne_bytes([NATIVE[0], NATIVE[1], NATIVE[2], NATIVE[3]]));
        let payload = &payload[..length.expect("a length") - 16];
        assert!(change(NFT_MSG_NEWRULE, payload).expect("a rule").is_some());
        assert!(change(NFT_MSG_NEWRULE, &payload[..payload.len() - 4]).is_err());
        assert_eq!(change(NFT_MSG_GETRULE, payload).expect("no rule"), None);
    }
}
