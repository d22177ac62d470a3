//! What a policy comes into force on, and what is told of it.

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

/// Lines of text that an event holds.
const MAX_EVENT_LINES: usize = 5;

/// A policy in force.
#[derive(Debug)]
pub(crate) struct InForce {
    /// Number of its generation.
    pub(crate) number: u64,
    /// When it came into force.
    pub(crate) since: SystemTime,
    /// SHA-256 of what is enforced.
    pub(crate) hash: [u8; 32],
    /// What the node unpacks, as it is compiled in.
    pub(crate) tunnels: Tunnels,
    /// What else is known of it.
    pub(crate) info: PolicyInfo,
}

impl InForce {
    /// Whether a candidate would change neither verdicts nor interfaces. The hash covers the services,
    /// not the interfaces.
    pub(crate) fn is_same_as(&self, candidate: &Candidate) -> bool {
        self.hash == candidate.policy.hash && self.info.patterns == candidate.info.patterns
    }
}

/// The result of putting a policy into force.
#[derive(Debug)]
pub(crate) struct Installed {
    /// What is in force now.
    pub(crate) in_force: InForce,
    /// A failure that did not undo the switch.
    pub(crate) problem: Option<String>,
}

/// Something that became of policies.
#[derive(Debug)]
pub(crate) enum Change {
    /// An event for those who follow the node.
    Event(events::Policy),
    /// The files were loaded, or could not be.
    Loaded {
        /// Whether they came into force.
        success: bool,
    },
    /// A policy was rejected because of its signature.
    SignatureRejected {
        /// Whether the signature is good, and older than one that was accepted.
        replayed: bool,
    },
    /// A reload begins.
    Reloading,
    /// A reload has ended, with success or without.
    Reloaded,
}

/// An event about the policy in force.
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

/// The node as far as policies come into force on it.
pub(crate) trait Dataplane {
    /// What the node unpacks.
    fn tunnels(&self) -> Tunnels;

    /// Whether a device of this node matches one of the patterns.
    fn has_device(&self, patterns: &[String]) -> bool;

    /// The slots of services, also of those that an earlier daemon had.
    ///
    /// # Errors
    /// The pinned maps cannot be read.
    fn placement(&self) -> Result<Placement, SystemError>;

    /// Puts a policy into force in the place of another one.
    ///
    /// # Errors
    /// The kernel refuses. What was in force still is.
    fn install(
        &mut self,
        candidate: Candidate,
        current: Option<&InForce>,
    ) -> Result<Installed, InstallError>;

    /// What a policy would do to open connections. `current` compiles the policy in force, if its
    /// texts are known; it is called only if the result depends on it.
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

    /// Reports what became of policies.
    fn report(&mut self, change: Change);
}
