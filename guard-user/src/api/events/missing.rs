//! The document of refused sources that behave like members of the cluster.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Value of [`Missing::schema`].
pub const SCHEMA: &str = "trainguard/missing-members/v1";

/// Sources that were refused repeatedly and belong to no node of the policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Identifies the daemon process that recorded the sources.
    pub instance: String,
    /// Name of this node.
    pub node: String,
    /// Path of the manifest, as given to the daemon.
    pub manifest: String,
    /// When the daemon began to record sources. All times are RFC 3339, UTC, milliseconds.
    pub since: String,
    /// The sources, those with the most attempts first.
    pub sources: Vec<UnlistedSource>,
}

/// A source that was refused repeatedly and belongs to no node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlistedSource {
    /// Address of the source.
    pub address: IpAddr,
    /// Whether the address is in the /24 (IPv4) or /64 (IPv6) of a node, or in a network of the
    /// manifest. If the networks have too many prefixes for the daemon, the client has to check them.
    pub near: bool,
    /// Names of some nodes in the same /24 or /64.
    pub neighbours: Vec<String>,
    /// Number of nodes in the same /24 or /64.
    pub neighbour_count: usize,
    /// Number of sampled packets that open a connection.
    pub attempts: u64,
    /// Number of sampled packets of protocols without connections.
    pub datagrams: u64,
    /// Number of slots of five seconds in which packets arrived.
    pub slots: u64,
    /// When the source was first seen.
    pub first_seen: String,
    /// When the source was last seen.
    pub last_seen: String,
    /// The ports that it sent to.
    pub tried: Vec<TriedPort>,
    /// Whether it sent to more ports than `tried` lists.
    pub tried_more: bool,
}

/// A port that a refused source sent to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TriedPort {
    /// The service that refused the packets.
    pub service: String,
    /// The destination, such as `tcp/9091`.
    pub port: String,
}
