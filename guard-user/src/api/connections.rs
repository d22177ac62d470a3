//! What a switch of policy does to open connections.

use serde::{Deserialize, Serialize};

use crate::{text::counted, vocabulary::vocabulary};

/// What becomes of open connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Connections that were looked at: TCP, with other hosts.
    pub looked_at: u64,
    /// Why not all of them were; null if all were.
    pub incomplete: Option<String>,
    /// Those whose packets pass now and would be dropped.
    pub cut: Affected,
    /// Those that would go on, but could not be opened again.
    pub not_reopened: Affected,
}

/// Some connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// How many.
    pub connections: u64,
    /// The ssh sessions among them that the caller may be using.
    pub sessions: u64,
    /// What they are, sessions first; not more than a hundred groups.
    pub groups: Vec<Group>,
}

vocabulary! {
    /// Who opened a connection.
    pub enum Direction, by default Unknown {
        /// The peer, to `port` of this node.
        In = "in",
        /// This node, to `port` of the peer.
        Out = "out",
    }
}

/// Connections that have all of this in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// How many.
    pub connections: u64,
    /// The other end; of a node with several addresses one of them.
    pub peer: String,
    /// The node that has it; null if it is not in the manifest.
    pub node: Option<String>,
    /// Who opened it.
    pub direction: Direction,
    /// The port at which it was opened.
    pub port: u16,
    /// The service that would refuse it.
    pub service: String,
    /// It is an ssh session that the caller may be using.
    pub session: bool,
}

impl Group {
    /// For people.
    pub fn line(&self) -> String {
        let Self { connections, peer, node, port, service, .. } = self;
        let who = match node {
            Some(node) => format!("{node} ({peer})"),
            None => format!("{peer} (not in the manifest)"),
        };
        let count = counted(*connections, "connection");
        let line = if self.direction == Direction::In {
            format!("{count} of {who} to tcp/{port} ({service})")
        } else {
            format!("{count} to tcp/{port} of {who}, whose replies meet {service}")
        };
        if self.session { format!("{line}: an ssh session, yours it seems") } else { line }
    }
}

impl Affected {
    /// A line for each group, at most so many, and one that counts the rest.
    pub fn lines(&self, most: usize) -> Vec<String> {
        let told = self.groups.iter().take(most);
        let count: u64 = told.clone().map(|group| group.connections).sum();
        let mut lines: Vec<String> = told.map(Group::line).collect();
        if let Some(rest) = self.connections.checked_sub(count).filter(|rest| *rest > 0) {
            lines.push(format!("and {rest} more"));
        }
        lines
    }
}
