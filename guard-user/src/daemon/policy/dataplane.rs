//! The interface through which policies take effect, and the changes reported through it.

use std::time::SystemTime;

use super::candidate::{Candidate, PolicyInfo};
use crate::{
    api::{
        connections::Connections,
        control::Session,
        events::{self, PolicyChange},
    },
    daemon::install_error::InstallError,
    policy::{
        Placement,
        compile::hash::hexadecimal,
        compiled::{CompiledPolicy, Tunnels},
    },
    system_error::SystemError,
    text::time,
};

/// Maximum number of lines of text in an event.
const MAX_EVENT_LINES: usize = 5;

/// A policy in force.
#[derive(Debug)]
pub(crate) struct InForce {
    /// Number of its generation.
    pub(crate) number: u64,
    /// When it came into force.
    pub(crate) since: SystemTime,
    /// SHA-256 of the compiled services, as enforced.
    pub(crate) hash: [u8; 32],
    /// The tunnels whose packets the node unpacks, as compiled into the policy.
    pub(crate) tunnels: Tunnels,
    /// Names, services, patterns and sizes of the policy.
    pub(crate) info: PolicyInfo,
}

impl InForce {
    /// Returns whether a candidate would change neither verdicts nor interfaces. The hash covers the
    /// services, but not the interfaces.
    pub(crate) fn is_same_as(&self, candidate: &Candidate) -> bool {
        self.hash == candidate.policy.hash && self.info.patterns == candidate.info.patterns
    }
}

/// The result of putting a policy into force.
#[derive(Debug)]
pub(crate) struct Installed {
    /// The policy that is in force now.
    pub(crate) in_force: InForce,
    /// A failure that did not undo the switch.
    pub(crate) problem: Option<String>,
}

/// A change to report: to events, counters or the service manager.
#[derive(Debug)]
pub(crate) enum Change {
    /// An event for the clients that follow the node's events.
    Event(events::Policy),
    /// The files were loaded, or failed to load.
    Loaded {
        /// Whether they came into force.
        success: bool,
    },
    /// A policy was rejected because of its signature.
    SignatureRejected {
        /// Whether the signature is valid, but older than one that was accepted.
        replayed: bool,
    },
    /// A reload begins.
    Reloading,
    /// A reload has ended, successfully or not.
    Reloaded,
}

/// Creates an event about the policy in force, with at most [`MAX_EVENT_LINES`] lines of text.
pub(crate) fn policy_event(
    what: PolicyChange,
    in_force: Option<&InForce>,
    lines: &[String],
) -> events::Policy {
    events::Policy {
        what,
        generation: in_force.map_or(0, |now| now.number),
        policy_hash: in_force.map(|now| hexadecimal(&now.hash)).unwrap_or_default(),
        since: in_force.map(|now| time(now.since)),
        text: lines.get(..MAX_EVENT_LINES).unwrap_or(lines).join("\n"),
    }
}

/// The node, as far as policies take effect on it. `switch.rs` implements this for the kernel; the
/// tests of this module record the calls.
pub(crate) trait Dataplane {
    /// Returns the tunnels whose packets the node unpacks.
    fn tunnels(&self) -> Tunnels;

    /// Returns whether a device of this node matches one of the patterns.
    fn has_device(&self, patterns: &[String]) -> bool;

    /// Returns why interfaces that the patterns select cannot be guarded: they are ports of bridges.
    /// None if no guard would have to be attached to a port.
    fn refused_ports(&self, patterns: &[String]) -> Option<String>;

    /// Returns the slots of services, including those assigned by an earlier daemon.
    ///
    /// # Errors
    /// The pinned maps cannot be read.
    fn placement(&self) -> Result<Placement, SystemError>;

    /// Puts a policy into force in place of `current`.
    ///
    /// # Errors
    /// The kernel refuses it. The policy in force stays in force.
    fn install(
        &mut self,
        candidate: Candidate,
        current: Option<&InForce>,
    ) -> Result<Installed, InstallError>;

    /// Returns the effect of a candidate on open connections. `compile_current` compiles the policy in
    /// force, if its texts are known; it is called only if the result depends on it.
    ///
    /// # Errors
    /// The connections cannot be listed.
    fn connections_under(
        &self,
        candidate: &Candidate,
        session: Option<Session>,
        current: Option<&InForce>,
        compile_current: &mut dyn FnMut() -> Option<CompiledPolicy>,
    ) -> Result<Connections, SystemError>;

    /// Reports a change of policies.
    fn report(&mut self, change: Change);
}
