//! A resolved cluster: host lists are expanded, list files read, names looked up.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use guard_common::{Addr, port_table::Transport, tables::Limits};

use crate::{
    compiled::Prefix,
    syntax::{
        diagnostic::{At, Location},
        document::{Forwarded, Match, Mode},
        scalars::{Cidr, PortRange},
        walk::nearest,
    },
};

/// Prefixes of both families, sorted, without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixSet {
    /// IPv4 prefixes.
    pub v4: Vec<Prefix<[u8; 4]>>,
    /// IPv6 prefixes.
    pub v6: Vec<Prefix<[u8; 16]>>,
}

impl FromIterator<Cidr> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Cidr>>(cidrs: I) -> Self {
        let mut set = Self::default();
        for cidr in cidrs {
            match cidr {
                Cidr::V4(prefix) => set.v4.push(prefix),
                Cidr::V6(prefix) => set.v6.push(prefix),
            }
        }
        set.v4.sort_unstable();
        set.v4.dedup();
        set.v6.sort_unstable();
        set.v6.dedup();
        set
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name, unique in the cluster.
    pub name: String,
    /// Addresses of the node. No two nodes share an address.
    pub addresses: Vec<Addr>,
    /// The roles, sorted, without duplicates. Shared by all nodes of a host list.
    pub roles: Arc<[String]>,
    /// Glob patterns of the interfaces to guard; those of the manifest if the node has none of its own.
    pub interfaces: Arc<[String]>,
    /// Where the manifest names the node: a name or a host list.
    pub place: Location,
}

/// A named network of the manifest.
#[derive(Debug, Clone)]
pub struct Network {
    /// The name, and where the manifest gives it.
    pub name: At<String>,
    /// The prefixes of the network.
    pub prefixes: Arc<PrefixSet>,
}

/// A service of a policy.
#[derive(Debug, Clone)]
pub struct Service {
    /// The name within the policy.
    pub name: String,
    /// `policy/service`, unique in the cluster.
    pub label: String,
    /// Where the policy names the service.
    pub place: Location,
    /// Roles of the nodes that run the service.
    pub roles: Vec<String>,
    /// Port entries of the service, as written.
    pub ports: Vec<PortRange>,
    /// Ports that the entries do not include.
    pub except: Vec<PortRange>,
    /// The packets that the service checks.
    pub matching: Match,
    /// The sources that may reach the service.
    pub allow: Allow,
    /// What happens to packets from other sources.
    pub mode: Mode,
    /// What happens to packets that the node would only forward.
    pub forwarded: Forwarded,
    /// Limits for each source.
    pub per_source: Limits,
    /// Limits for all sources together.
    pub total: Limits,
}

/// The sources that may reach a service.
#[derive(Debug, Clone, Default)]
pub struct Allow {
    /// Whether every source is admitted.
    pub any: bool,
    /// Roles whose nodes are admitted.
    pub roles: Vec<String>,
    /// One set for each listed network, and one for the prefixes listed directly, if any.
    pub prefixes: Vec<Arc<PrefixSet>>,
    /// Where each entry of `roles` is listed, in the same order.
    pub role_places: Vec<Location>,
    /// The names of the listed networks, and where they are listed.
    pub networks: Vec<At<String>>,
    /// The prefixes listed directly, and where they are listed.
    pub cidrs: Vec<At<Cidr>>,
}

/// A cluster: the nodes, networks and services of a manifest and its policies, with all names resolved.
///
/// Made by `load`, which checks it; `compile` turns it into the tables of one node.
///
/// # Examples
///
/// ```
/// use guard_policy::{Disk, NodeChoice, load};
/// use std::path::Path;
///
/// let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/cluster.yaml");
/// let cluster = load(Path::new(manifest), &Disk)?.cluster;
/// let hostname = Some("worker-3.example.org".to_owned());
/// let choice = NodeChoice { hostname, ..NodeChoice::default() };
/// let node = cluster.find_node(&choice)?;
/// assert_eq!(node.name, "worker-3");
/// assert_eq!(node.roles[..], ["worker"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Name of the cluster.
    pub name: String,
    /// The nodes, in the order of the manifest. Host lists are expanded.
    pub nodes: Vec<Node>,
    /// The networks that the manifest defines, sorted by name.
    pub networks: Vec<Network>,
    /// The services of all policies, in the order of the manifest.
    pub services: Vec<Service>,
    /// Names of the policies, in the order of the manifest.
    pub policies: Vec<String>,
}

impl Service {
    /// Reports whether nodes with these roles run the service.
    pub fn runs_on(&self, roles: &[String]) -> bool {
        self.roles.iter().any(|role| roles.contains(role))
    }

    /// Returns the range of the service that contains a port and nevertheless leaves it alone, because
    /// it is a UDP port of DHCP or NTP. None if there is no such range, or if an entry of the service
    /// names the port by itself or takes it out.
    pub fn range_beside(&self, transport: Transport, port: u16) -> Option<PortRange> {
        let here = PortRange { transport, first: port, last: port };
        let holds = |entry: &PortRange| entry.intersect(&here).is_some();
        let by_itself = |entry: &PortRange| entry.width() == 0 && holds(entry);
        if self.except.iter().any(holds) || self.ports.iter().any(by_itself) {
            return None;
        }
        self.ports
            .iter()
            .copied()
            .find(|entry| holds(entry) && entry.left_alone().any(|(alone, _)| alone == port))
    }
}

/// What is known about this machine, to find its node in a manifest.
#[derive(Debug, Clone, Default)]
pub struct NodeChoice {
    /// The node name that the operator gave; overrides everything else.
    pub name: Option<String>,
    /// The host name of this machine. May be qualified; the part before the first `.` is tried, too.
    pub hostname: Option<String>,
    /// The addresses of this machine.
    pub addresses: Vec<IpAddr>,
}

/// The reason why no node was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No node has the name that the operator gave.
    #[error("the manifest has no node `{name}`{}", hint(.nearest.as_deref()))]
    NoSuchName {
        /// The name that was given.
        name: String,
        /// The most similar name in the manifest, if one is close.
        nearest: Option<String>,
    },
    /// No node has the host name or an address of this machine.
    #[error(
        "this machine is not in the manifest: no node is called `{hostname}`{} and none has its \
         addresses ({addresses}); name the node with --node",
        hint(.nearest.as_deref())
    )]
    Absent {
        /// The host name of this machine.
        hostname: String,
        /// The addresses of this machine, separated by commas.
        addresses: String,
        /// The name most similar to the host name, if one is close.
        nearest: Option<String>,
    },
    /// More than one node fits.
    #[error("this machine could be {}; name the node with --node", .candidates.join(" or "))]
    Ambiguous {
        /// The nodes, each with the reason why it fits.
        candidates: Vec<String>,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

impl Cluster {
    /// Returns the prefixes of a named network.
    pub fn network(&self, name: &str) -> Option<&PrefixSet> {
        let network = self.networks.iter().find(|network| network.name.value == name)?;
        Some(&network.prefixes)
    }

    /// Returns the node with a name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Returns the service with a label, `policy/service`.
    pub fn service(&self, label: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.label == label)
    }

    /// Returns the node that has an address.
    pub fn node_at(&self, addr: &Addr) -> Option<&Node> {
        self.nodes.iter().find(|node| node.addresses.contains(addr))
    }

    fn nearest(&self, name: &str) -> Option<String> {
        let names = self.nodes.iter().map(|node| node.name.as_str());
        nearest(name, names).map(str::to_owned)
    }

    /// Finds the node of this machine: by the given name, else by host name and addresses.
    ///
    /// # Errors
    /// The given name is unknown, no node fits, or host name and addresses fit different nodes.
    pub fn find_node(&self, choice: &NodeChoice) -> Result<&Node, NodeError> {
        if let Some(name) = &choice.name {
            return self.node(name).ok_or_else(|| NodeError::NoSuchName {
                name: name.clone(),
                nearest: self.nearest(name),
            });
        }
        let hostname = choice.hostname.as_deref().unwrap_or_default();
        let short = hostname.split('.').next().unwrap_or_default();
        let by_name = self.node(hostname).or_else(|| self.node(short));
        let own: BTreeSet<Addr> = choice.addresses.iter().map(|addr| Addr::from(*addr)).collect();
        let by_address: Vec<&Node> = self
            .nodes
            .iter()
            .filter(|node| node.addresses.iter().any(|addr| own.contains(addr)))
            .collect();
        match (by_name, by_address.as_slice()) {
            (Some(node), []) => Ok(node),
            (None, [node]) => Ok(node),
            // With several containers on one host, further nodes may have an address of this machine:
            // the host name decides if an address confirms it.
            (Some(node), found) if found.iter().any(|n| n.name == node.name) => Ok(node),
            (None, []) => Err(NodeError::Absent {
                hostname: hostname.to_owned(),
                addresses: match choice.addresses.as_slice() {
                    [] => "none".to_owned(),
                    some => some.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "),
                },
                nearest: self.nearest(short),
            }),
            (by_name, found) => {
                let named = by_name.map(|node| format!("`{}` by its host name", node.name));
                let addressed = found.iter().map(|node| format!("`{}` by an address", node.name));
                Err(NodeError::Ambiguous {
                    candidates: named.into_iter().chain(addressed).collect(),
                })
            }
        }
    }
}
