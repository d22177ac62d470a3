//! Refused sources that behave like a member of the cluster, as the daemon tells of them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// `schema` of [`Missing`].
pub const SCHEMA: &str = "trainguard/missing-members/v1";

/// The refused sources that come again and again, and that no node of the running policy is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// [`SCHEMA`].
    pub schema: String,
    /// Which daemon.
    pub instance: String,
    /// Name of this node.
    pub node: String,
    /// Path of the manifest, as the daemon was told.
    pub manifest: String,
    /// Since when the daemon takes note; as all times RFC 3339, UTC, to the millisecond.
    pub since: String,
    /// The sources, those with the most attempts first.
    pub sources: Vec<Stranger>,
}

/// A refused source that comes again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// Its address.
    pub address: IpAddr,
    /// It shares its /24 (IPv4) or /64 (IPv6) with a node, or is in a network of the manifest.
    /// Where a manifest has very many prefixes, the daemon leaves those to whoever asks.
    pub near: bool,
    /// Nodes that share its /24 or /64; a few of them.
    pub neighbours: Vec<String>,
    /// How many there are.
    pub neighbour_count: usize,
    /// Sampled packets that open a connection.
    pub attempts: u64,
    /// Sampled packets of protocols without connections.
    pub datagrams: u64,
    /// Slots of five seconds in which it came.
    pub slots: u64,
    /// When it was first seen.
    pub first_seen: String,
    /// When it was last seen.
    pub last_seen: String,
    /// What it tried.
    pub tried: Vec<TriedPort>,
    /// It tried more than is listed.
    pub tried_more: bool,
}

/// A port that was tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TriedPort {
    /// The service that refused.
    pub service: String,
    /// The destination, as `tcp/9091`.
    pub port: String,
}
