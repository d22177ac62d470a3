//! The effect of a new policy on open connections, determined before it comes into force.
//!
//! Decision: `docs/decisions/0033-connections-are-checked-first.md`.

use std::collections::BTreeSet;

use guard_common::tables::Service;

use super::{
    affected_connections::{self, ConnectionCheck, Impact, RefusedConnection, SSH, is_session},
    candidate::Candidate,
    dataplane::InForce,
    forwarded_connections::{self, AttachedNetworks, Tracked},
};
use crate::{
    api::{
        connections::{Connections, ForwardedConnections},
        control::{Consent, Refusal, Session},
    },
    netlink::{
        connections::{self, Connection, Listeners},
        devices::Device,
        forwarding::Family,
        sock_diag,
    },
    policy::compiled::{CompiledPolicy, service_name},
    system_error::SystemError,
    text::counted,
};

/// Maximum number of connections that are checked.
const MAX_CHECKED: usize = 10_000;
/// Maximum number of lines about connections in a log record and in an event.
pub(super) const MAX_REPORTED: usize = 5;

impl Consent {
    /// Checks whether the caller has consented to the effect of a change on connections.
    ///
    /// # Errors
    /// The connections that would be cut without consent.
    pub(crate) fn check(&self, connections: &Connections) -> Result<(), Refusal> {
        let (all, sessions) = (connections.all_cut(), connections.cut.sessions);
        let [own, others] =
            [sessions > 0 && !self.cut_own_session, all > sessions && !self.cut_connections];
        let counted = |count| counted(count, "open connection");
        let why = match (own, others) {
            (false, false) => return Ok(()),
            (true, false) => "the change would cut an ssh session, probably your own".to_owned(),
            (false, true) => format!("the change would cut {}", counted(all - sessions)),
            (true, true) => {
                let all = counted(all);
                format!("the change would cut {all}, probably including your own ssh session")
            }
        };
        Err(Refusal { why, connections: Some(Box::new(connections.clone())) })
    }
}

/// The interfaces that are guarded now, and those that a candidate guards.
#[derive(Debug)]
pub(crate) struct GuardedInterfaces<'a> {
    /// All devices of the node.
    pub(crate) devices: &'a [Device],
    /// Indices of the guarded interfaces.
    pub(crate) now: BTreeSet<u32>,
    /// Indices of the interfaces that the candidate guards.
    pub(crate) then: BTreeSet<u32>,
    /// IP versions of which all services judge forwarded packets.
    pub(crate) untold: BTreeSet<Family>,
}

/// Determines the effect of a candidate on open connections. `compile_current` compiles the policy in
/// force; it is called only if the candidate refuses a connection.
///
/// # Errors
/// The connections or the addresses of the node cannot be listed.
pub(crate) fn impact(
    candidate: &Candidate,
    interfaces: &GuardedInterfaces<'_>,
    session: Option<Session>,
    current: Option<&InForce>,
    compile_current: &mut dyn FnMut() -> Option<CompiledPolicy>,
) -> Result<Connections, SystemError> {
    let (mut found, more) = connections::established(MAX_CHECKED)?;
    let own = session
        .filter(|session| found.iter().any(|connection| is_session(session, connection)) || more);
    if let Some(Session { peer, local }) = own
        && !found.iter().any(|connection| (connection.peer, connection.local) == (peer, local))
    {
        found.push(Connection { local, peer, ifindex: 0, inode: 0 });
    }
    let addresses = connections::addresses()?;
    let GuardedInterfaces { devices, now, then, untold } = interfaces;
    let check = |policy, guarded| ConnectionCheck {
        policy,
        guarded,
        addresses: &addresses,
        devices,
        untold,
    };
    let new = check(&candidate.policy, then);
    let mut refused = new.suspects(&found, &Listeners::of_this_node()?);
    let (tracked, networks, not_counted) = tracked();
    let others = forwarded_connections::of_others(&tracked.connections, &addresses);
    let mut refused_others = new.cuts_of_others(&others, &networks);
    let names = current.map_or(&[][..], |current| &current.info.names);
    if !(refused.is_empty() && refused_others.is_empty())
        && let Some(policy) = compile_current()
    {
        let old = check(&policy, now);
        old.keep_passing(&mut refused);
        old.keep_others(&mut refused_others, &networks);
    }
    let sessions = sessions(own, &refused);
    let is_session = |connection: &Connection| sessions.contains(connection);
    let sum = |impact| affected_connections::sum_up(&refused, impact, names, is_session);
    Ok(Connections {
        looked_at: u64::try_from(found.len()).unwrap_or(u64::MAX),
        incomplete: more
            .then(|| format!("only {MAX_CHECKED} connections were checked, and there are more")),
        cut: sum(Impact::Cut),
        not_reopened: sum(Impact::NotReopened),
        forwarded: Some(ForwardedConnections {
            forwards: forwarded_connections::node_forwards(),
            looked_at: u64::try_from(others.len()).unwrap_or(u64::MAX),
            not_counted,
            guarded_by: guarding(&candidate.policy, !untold.is_empty()),
            cut: affected_connections::sum_up(&refused_others, Impact::Cut, names, |_| false),
        }),
    })
}

/// Returns the tracked connections and the networks of the interfaces, and why some are missing.
fn tracked() -> (Tracked, AttachedNetworks, Option<String>) {
    let read = forwarded_connections::tracked()
        .and_then(|tracked| Ok((tracked, AttachedNetworks::of_this_node()?)));
    match read {
        Ok((tracked, networks)) => {
            let why = tracked.more.then(|| {
                format!(
                    "only {} connections were checked, and there are more",
                    tracked.connections.len()
                )
            });
            let is_off = tracked.is_empty.then(|| {
                "the table of connection tracking is empty, which it also is if nothing is tracked"
                    .to_owned()
            });
            (tracked, networks, why.or(is_off))
        }
        Err(error) => {
            let why = format!("the table of connection tracking cannot be read: {error}");
            (Tracked::default(), AttachedNetworks::default(), Some(why))
        }
    }
}

/// Returns the names of the services that judge forwarded packets. `all`: whether all do, because
/// these packets cannot be told apart.
fn guarding(policy: &CompiledPolicy, all: bool) -> Vec<String> {
    let labels = || policy.services.iter().map(|service| &service.label);
    let guarding =
        policy.services.iter().filter(|it| all || it.service.has(Service::GUARDS_FORWARDED));
    guarding.map(|service| service_name(&service.label, labels()).to_owned()).collect()
}

/// Returns the suspect connections that the caller may be using: its own session if it is known,
/// otherwise all connections of ssh.
fn sessions(own: Option<Session>, suspects: &[RefusedConnection]) -> BTreeSet<Connection> {
    let cut = suspects.iter().map(|suspect| suspect.connection);
    if let Some(own) = own {
        return cut.filter(|connection| is_session(&own, connection)).collect();
    }
    let inodes: BTreeSet<u32> = cut.clone().map(|connection| connection.inode).collect();
    let commands = sock_diag::commands(&inodes);
    let is_ssh = |connection: &Connection| {
        let command = commands.get(&connection.inode);
        connection.local.port() == SSH || command.is_some_and(|command| command.starts_with("sshd"))
    };
    cut.filter(is_ssh).collect()
}
