//! The effect of a change of policy on open connections.

use serde::{Deserialize, Serialize};

use crate::{text::counted, vocabulary::vocabulary};

/// The effect of a change on the open connections of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// TCP connections with other hosts that were checked.
    pub looked_at: u64,
    /// Why some connections were not checked; null if all were.
    pub incomplete: Option<String>,
    /// Connections whose packets pass now and would be dropped.
    pub cut: Affected,
    /// Connections whose packets would still pass, but which could not be opened again.
    pub not_reopened: Affected,
    /// Connections of others through this node. Null if an older daemon has answered, or nothing
    /// changes.
    #[serde(default)]
    pub forwarded: Option<ForwardedConnections>,
}

impl Connections {
    /// Returns the number of connections that would be cut, those of others included.
    pub fn all_cut(&self) -> u64 {
        let forwarded = self.forwarded.as_ref().map_or(0, |forwarded| forwarded.cut.connections);
        self.cut.connections.saturating_add(forwarded)
    }
}

/// The effect of a change on connections of others through this node: those that it forwards, to
/// containers for example, and those whose addresses it translates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedConnections {
    /// Whether the node forwards packets.
    pub forwards: bool,
    /// TCP connections that were checked.
    pub looked_at: u64,
    /// Why they were not counted, or not all of them; null if they were.
    pub not_counted: Option<String>,
    /// Services of the new policy that judge forwarded packets: those with `forwarded: guard`, or all
    /// on a node where forwarded packets cannot be told apart. Others do not touch them.
    pub guarded_by: Vec<String>,
    /// Connections whose packets pass now and would be dropped.
    pub cut: Affected,
}

/// The connections that a change affects in one way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// Number of connections.
    pub connections: u64,
    /// Number of ssh sessions among them that may be the caller's.
    pub sessions: u64,
    /// The connections in groups, sessions first; at most 100 groups.
    pub groups: Vec<Group>,
}

vocabulary! {
    /// Which end opened a connection.
    pub enum Direction, by default Unknown {
        /// The peer connected to `port` of this node.
        In = "in",
        /// This node connected to `port` of the peer.
        Out = "out",
        /// Another host, a container or a virtual machine has the other end: the packets of the peer
        /// go to `port` through this node.
        Through = "through",
    }
}

/// Connections with the same values in all of these fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Number of connections.
    pub connections: u64,
    /// Address of the peer; one of its addresses if the peer is a node with several.
    pub peer: String,
    /// Name of the node that has the address; null if it is not in the manifest.
    pub node: Option<String>,
    /// Which end opened the connections.
    pub direction: Direction,
    /// Port of the end that accepted the connections; for [`Direction::Through`] the port that the
    /// peer's packets go to.
    pub port: u16,
    /// Name of the service that would refuse their packets.
    pub service: String,
    /// Whether these are ssh sessions that may be the caller's.
    pub session: bool,
}

impl Group {
    /// Formats the group as one line of text.
    pub fn line(&self) -> String {
        let Self { connections, peer, node, port, service, .. } = self;
        let peer = match node {
            Some(node) => format!("{node} ({peer})"),
            None => format!("{peer} (not in the manifest)"),
        };
        let count = counted(*connections, "connection");
        let line = match self.direction {
            Direction::In => format!("{count} of {peer} to tcp/{port} ({service})"),
            Direction::Through => {
                format!("{count} of {peer} through this node to tcp/{port} ({service})")
            }
            _ => format!("{count} to tcp/{port} of {peer}, whose replies {service} would refuse"),
        };
        if self.session { format!("{line}: an ssh session, probably yours") } else { line }
    }
}

impl Affected {
    /// Formats at most `limit` groups, a line each. A last line has the number of the other
    /// connections.
    pub fn lines(&self, limit: usize) -> Vec<String> {
        let shown = self.groups.iter().take(limit);
        let count: u64 = shown.clone().map(|group| group.connections).sum();
        let mut lines: Vec<String> = shown.map(Group::line).collect();
        if let Some(rest) = self.connections.checked_sub(count).filter(|rest| *rest > 0) {
            lines.push(format!("and {rest} more"));
        }
        lines
    }
}
