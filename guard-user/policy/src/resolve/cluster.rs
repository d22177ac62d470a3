//! A cluster with everything resolved: host lists expanded, files read, names looked up.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use guard_common::{Addr, tables::Limits};

use crate::{
    compiled::Prefix,
    syntax::{
        diagnostic::{At, Location},
        document::{Match, Mode},
        scalars::{Cidr, PortRange},
        walk::nearest,
    },
};

/// Prefixes of both families, sorted, none twice.
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

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its addresses, each of one node only.
    pub addresses: Vec<Addr>,
    /// What it does, sorted.
    pub roles: Arc<[String]>,
    /// Glob patterns of the interfaces to guard.
    pub interfaces: Arc<[String]>,
    /// Where the manifest names it: a name, or the host list that it comes from.
    pub place: Location,
}

/// A named network of the manifest.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name, and where the manifest gives it.
    pub name: At<String>,
    /// What it holds.
    pub prefixes: Arc<PrefixSet>,
}

/// A service of a policy.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name in the policy.
    pub name: String,
    /// `policy/service`, unique in the cluster.
    pub label: String,
    /// Where its policy names it.
    pub place: Location,
    /// The roles of the nodes that run it.
    pub roles: Vec<String>,
    /// Its ports.
    pub ports: Vec<PortRange>,
    /// Ports that it leaves alone.
    pub except: Vec<PortRange>,
    /// Which packets it is about.
    pub matching: Match,
    /// Who may reach it.
    pub allow: Allow,
    /// What happens to others.
    pub mode: Mode,
    /// What each source may send.
    pub per_source: Limits,
    /// What all sources together may send.
    pub total: Limits,
}

/// Who may reach a service.
#[derive(Debug, Clone, Default)]
pub struct Allow {
    /// Everybody.
    pub any: bool,
    /// Nodes of these roles.
    pub roles: Vec<String>,
    /// The prefixes of the networks and prefixes that it lists.
    pub prefixes: Vec<Arc<PrefixSet>>,
    /// Where it lists each of `roles`, in their order.
    pub role_places: Vec<Location>,
    /// The names of the networks that it lists, and where.
    pub networks: Vec<At<String>>,
    /// The prefixes that it lists itself, and where.
    pub cidrs: Vec<At<Cidr>>,
}

/// A cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its nodes, in the order of the manifest.
    pub nodes: Vec<Node>,
    /// The networks that the manifest names, by name.
    pub networks: Vec<Network>,
    /// The services of all policies, in the order of the manifest.
    pub services: Vec<Service>,
    /// Names of the policies.
    pub policies: Vec<String>,
}

impl Service {
    /// Whether nodes with these roles run it.
    pub fn runs_on(&self, roles: &[String]) -> bool {
        self.roles.iter().any(|role| roles.contains(role))
    }
}

/// What is known about the node to find.
#[derive(Debug, Clone, Default)]
pub struct NodeChoice {
    /// The name that the operator gave.
    pub name: Option<String>,
    /// The host name of this machine.
    pub hostname: Option<String>,
    /// The addresses of this machine.
    pub addresses: Vec<IpAddr>,
}

/// Why no node was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The name that the operator gave is no node.
    #[error("the manifest has no node `{name}`{}", hint(.nearest.as_deref()))]
    NoSuchName {
        /// The name.
        name: String,
        /// A name that may have been meant.
        nearest: Option<String>,
    },
    /// Neither host name nor addresses are in the manifest.
    #[error(
        "this machine is not in the manifest: no node is called `{hostname}`{} and none has its \
         addresses ({addresses}); name the node with --node",
        hint(.nearest.as_deref())
    )]
    Absent {
        /// The host name.
        hostname: String,
        /// The addresses.
        addresses: String,
        /// A name that may have been meant.
        nearest: Option<String>,
    },
    /// Several nodes could be meant.
    #[error("this machine could be {}; name the node with --node", .candidates.join(" or "))]
    Ambiguous {
        /// The nodes, each with what speaks for it.
        candidates: Vec<String>,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

impl Cluster {
    /// The prefixes of a named network.
    pub fn network(&self, name: &str) -> Option<&PrefixSet> {
        let network = self.networks.iter().find(|network| network.name.value == name)?;
        Some(&network.prefixes)
    }

    /// The node of a name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The service of a label.
    pub fn service(&self, label: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.label == label)
    }

    /// The node that has an address.
    pub fn node_at(&self, addr: &Addr) -> Option<&Node> {
        self.nodes.iter().find(|node| node.addresses.contains(addr))
    }

    fn nearest(&self, name: &str) -> Option<String> {
        let names = self.nodes.iter().map(|node| node.name.as_str());
        nearest(name, names).map(str::to_owned)
    }

    /// Finds the node that this machine is: by the name given, else by host name and addresses.
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
            // Several containers of one name: the address knows better only if it agrees.
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
