//! Changes of verdicts.

use std::net::IpAddr;

use guard_common::{
    port_table::Transport,
    verdict::{Action, Reason},
};

use super::space::Region;
use crate::syntax::scalars::PortRange;

/// The result of evaluating a packet with a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meets {
    /// The action taken.
    pub action: Action,
    /// The reason for the action.
    pub reason: Reason,
    /// `policy/service` of the service that decided; none if no service did.
    pub service: Option<String>,
}

/// The direction of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Packets that were dropped now pass.
    Wider,
    /// Packets that passed are now dropped.
    Narrower,
    /// Packets pass as before, but an observing service now counts them as drops, or no longer does.
    Observed,
}

/// The kind of packets that a change affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// All packets to the ports.
    All,
    /// TCP segments that open a connection.
    Opening,
    /// TCP segments that do not open a connection.
    Established,
    /// Later fragments, which have no ports.
    Fragments,
    /// Frames that cannot be parsed.
    Unreadable,
}

/// What the node does with the packets that a change affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketPath {
    /// It receives them. Forwarded packets to the same ports keep their verdict, or have a change of
    /// their own.
    Received,
    /// It receives or forwards them: the change is the same.
    Both,
    /// It only forwards them.
    Forwarded,
}

/// A change of the verdict that is the same for all packets of a region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The result before.
    pub old: Meets,
    /// The result after.
    pub new: Meets,
    /// The kind of packets affected.
    pub traffic: Traffic,
    /// Whether the change affects packets for the node, or packets that it only forwards.
    pub path: PacketPath,
    /// The transports of the fragments; empty for other packets.
    pub transports: Vec<Transport>,
    /// The destination ports; empty for packets without ports.
    pub ports: Vec<PortRange>,
    /// The source addresses.
    pub sources: Region,
    /// An example: a source address, and a port if the packets have one.
    pub example: Option<(IpAddr, Option<PortRange>)>,
    /// The receiving nodes.
    pub nodes: Vec<String>,
}

impl Change {
    /// Returns the direction of the change.
    pub fn direction(&self) -> Direction {
        match (self.old.action, self.new.action) {
            (Action::Drop, _) => Direction::Wider,
            (_, Action::Drop) => Direction::Narrower,
            _ => Direction::Observed,
        }
    }
}
