//! A policy that is compiled for this node and not in force yet.

use std::collections::BTreeMap;

use guard_common::{Addr, tables};

use crate::{
    api::status::{ServiceMode, ServiceStatus, TableStatus},
    daemon::{
        install_error::InstallError, interfaces::open_ports::GuardedPorts,
        telemetry::missing_members::ClusterNetworks,
    },
    host,
    policy::{
        self, Loaded, Placement,
        compiled::{CompiledPolicy, Tunnels, service_name},
        resolve::cluster::Node,
    },
};

/// Hint of errors about interfaces to guard.
pub(crate) const NAME_AN_INTERFACE: &str =
    "name an existing interface in `interfaces` of the manifest, or with --interface";

/// Facts about a policy besides its compiled tables: names, services, patterns and sizes.
#[derive(Debug)]
pub(crate) struct PolicyInfo {
    /// Name of the cluster.
    pub(crate) cluster: String,
    /// SHA-256 over the policy files.
    pub(crate) files_hash: [u8; 32],
    /// Name of this node.
    pub(crate) node: String,
    /// Patterns of the interfaces to guard.
    pub(crate) patterns: Vec<String>,
    /// The services by their slots.
    pub(crate) services: BTreeMap<u8, ServiceStatus>,
    /// Names of nodes by address, sorted by address.
    pub(crate) names: Vec<(Addr, String)>,
    /// The ports that services guard.
    pub(crate) ports: GuardedPorts,
    /// Sizes of the tables.
    pub(crate) tables: TableStatus,
}

/// A compiled policy, ready to be put into force.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// The compiled tables.
    pub(crate) policy: CompiledPolicy,
    /// Names, services, patterns and sizes of the policy.
    pub(crate) info: PolicyInfo,
    /// The networks of its nodes.
    pub(crate) cluster_networks: ClusterNetworks,
    /// The tunnels whose packets the node unpacks, as compiled into the policy.
    pub(crate) tunnels: Tunnels,
}

/// The choice of this node in the manifest, and of the interfaces to guard.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeOptions {
    /// Name of this node; none to find the node by host name or address.
    pub(crate) node: Option<String>,
    /// Interface patterns from `--interface`; override the manifest's if not empty.
    pub(crate) interfaces: Vec<String>,
}

impl NodeOptions {
    /// Returns the patterns of the interfaces to guard.
    ///
    /// # Errors
    /// The manifest does not contain this node, or names no interface for it.
    pub(crate) fn patterns(&self, loaded: &Loaded) -> Result<Vec<String>, InstallError> {
        if !self.interfaces.is_empty() {
            self.find(loaded)?;
            return Ok(self.interfaces.clone());
        }
        let node = self.find(loaded)?;
        if node.interfaces.is_empty() {
            let why = format!("no interfaces to guard on node `{}`", node.name);
            return Err(InstallError::Unfit(why, Some(NAME_AN_INTERFACE)));
        }
        Ok(node.interfaces.to_vec())
    }

    /// Compiles a policy for this node.
    ///
    /// # Errors
    /// The manifest does not contain this node, or the policy does not fit into the tables.
    pub(crate) fn compile(
        &self,
        loaded: &Loaded,
        patterns: Vec<String>,
        placement: &Placement,
        tunnels: Tunnels,
    ) -> Result<Candidate, InstallError> {
        let node = self.find(loaded)?;
        let mut policy = policy::compile(loaded, node, placement).map_err(InstallError::unfit)?;
        policy.set_tunnels(&tunnels);
        let labels = || policy.services.iter().map(|service| &service.label);
        let services = policy.services.iter().map(|service| {
            let observes = service.service.has(tables::Service::OBSERVE);
            let (of, _) = service.label.split_once('/').unwrap_or_default();
            let status = ServiceStatus {
                name: service_name(&service.label, labels()).to_owned(),
                policy: of.to_owned(),
                mode: if observes { ServiceMode::Observe } else { ServiceMode::Enforce },
                forwarded_packets: 0,
            };
            (service.slot, status)
        });
        let services = services.collect();
        let info = PolicyInfo {
            cluster: policy.cluster.clone(),
            files_hash: loaded.bundle.hash(),
            node: policy.node.clone(),
            patterns,
            services,
            names: std::mem::take(&mut policy.names),
            ports: GuardedPorts::of(&policy.ports),
            tables: TableStatus {
                prefixes4: policy.sources4.len(),
                prefixes6: policy.sources6.len(),
                classes: policy.classes.len(),
                members: policy.members.len(),
                source_bytes: policy.source_bytes(),
            },
        };
        let cluster_networks = ClusterNetworks::of(&loaded.cluster);
        Ok(Candidate { policy, info, cluster_networks, tunnels })
    }
    fn find<'l>(&self, loaded: &'l Loaded) -> Result<&'l Node, InstallError> {
        let choice = host::node_choice(self.node.as_deref());
        loaded.find_node(&choice).map_err(InstallError::unfit)
    }
}
