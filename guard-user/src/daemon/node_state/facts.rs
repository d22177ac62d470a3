//! The facts about the node, for the status and for `trainguard doctor`.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use guard_common::layout::node::NodeState;

use crate::netlink::{forwarding::Family, nftables::RuleId};

/// Why packets that the node forwards cannot be told from packets for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// A routing rule by firewall mark: the mark of a packet is not known before netfilter.
    RuleByMark,
    /// A rule of `nf_tables` gives packets for other addresses to a socket of this node.
    Tproxy(NftPlace),
    /// A rule of `nf_tables` redirects packets for other addresses to this node.
    Redirect(NftPlace),
    /// There can be such a rule of `iptables-legacy`, with this target.
    Legacy(&'static str),
    /// Whether there are such rules is not known.
    Unknown(String),
}

/// Place of a rule of `nf_tables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftPlace {
    /// Which rule it is.
    pub id: RuleId,
    /// Name of its chain.
    pub chain: String,
}

impl fmt::Display for NftPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table `{}`, chain `{}`, handle {}", self.id.table, self.chain, self.id.handle)
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RuleByMark => f.write_str("a routing rule by firewall mark (`ip rule`)"),
            Self::Tproxy(place) => write!(f, "a TPROXY rule of nf_tables ({place})"),
            Self::Redirect(place) => write!(f, "a redirect rule of nf_tables ({place})"),
            Self::Legacy(target) => {
                write!(f, "there can be a rule with the target {target} (`iptables-legacy`)")
            }
            Self::Unknown(why) => write!(f, "not known: {why}"),
        }
    }
}

/// What is known about the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct NodeFacts {
    /// The addresses that the node holds.
    pub own: Arc<BTreeSet<IpAddr>>,
    /// Whether the node forwards IPv4 packets.
    pub forwards_ipv4: bool,
    /// Whether the node forwards IPv6 packets.
    pub forwards_ipv6: bool,
    /// Why no IPv4 packet counts as forwarded; empty if they can.
    pub obstacles_ipv4: Vec<Obstacle>,
    /// Why no IPv6 packet counts as forwarded; empty if they can.
    pub obstacles_ipv6: Vec<Obstacle>,
    /// Names of the interfaces whose IPv6 forwarding differs from that of `all`. The kernel forwards by
    /// `all`; the look-up of the programs reads the interface.
    pub mixed_ipv6: Vec<String>,
    /// Whether `nf_tables` has rules that replace destination addresses. Not reset while the daemon
    /// runs, unless notifications were lost.
    pub dnat: bool,
    /// Whether `nf_tables` has rules that replace source addresses by one of the node, likewise.
    pub masquerade: bool,
    /// TCP ports at which a socket listens that is bound to a device that is not guarded.
    pub bound_ports: BTreeSet<u16>,
    /// Number of known ways on which frames arrive.
    pub devices: usize,
    /// What could not be read or does not fit.
    pub incomplete: Vec<String>,
}

impl NodeFacts {
    /// Reports whether packets of a version can count as forwarded.
    pub fn tells_forwarded(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.forwards_ipv4 && self.obstacles_ipv4.is_empty(),
            Family::V6 => self.forwards_ipv6 && self.obstacles_ipv6.is_empty(),
        }
    }

    /// Reports whether the node forwards packets of a version.
    pub fn forwards(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.forwards_ipv4,
            Family::V6 => self.forwards_ipv6,
        }
    }

    /// Returns why packets of the versions that the node forwards do not count as forwarded.
    pub fn why_untold(&self) -> impl Iterator<Item = &Obstacle> {
        let v4 = self.obstacles_ipv4.iter().filter(|_| self.forwards_ipv4);
        v4.chain(self.obstacles_ipv6.iter().filter(|_| self.forwards_ipv6))
    }

    /// Returns the flags of [`NodeState`].
    pub(super) fn flags(&self) -> u64 {
        let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
        flag(self.tells_forwarded(Family::V4), NodeState::FORWARDS_IPV4)
            | flag(self.tells_forwarded(Family::V6), NodeState::FORWARDS_IPV6)
            | flag(!self.bound_ports.is_empty(), NodeState::BOUND_LISTENERS)
    }
}
