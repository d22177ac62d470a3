//! A look at open connections before the policy is switched.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    cuts::{self, Affected, Asked, Connections, Fate, SSH, Session, Suspect},
    guard::{Guard, Ready, Running},
    interfaces,
    trial::Refusal,
};
use crate::{
    kernel::{
        connections::{self, Connection},
        error::KernelError,
        sockets,
    },
    policy::{self, Placement, compiled::CompiledPolicy},
    report,
};

/// Connections that are looked at.
const LOOKED_AT: usize = 10_000;
/// Lines about connections in a log record and an event.
const TOLD: usize = 5;

/// What of open connections may be cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// Connections other than ssh sessions that the caller may be using.
    #[serde(default)]
    pub cut_connections: bool,
    /// Those.
    #[serde(default)]
    pub cut_own_session: bool,
    /// The caller's own session; none if it does not know of one.
    #[serde(default)]
    pub session: Option<Session>,
}

impl std::fmt::Display for Consent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.cut_connections {
            f.write_str(", connections may be cut")?;
        }
        if self.cut_own_session {
            f.write_str(", the caller's session may be cut")?;
        }
        Ok(())
    }
}

impl Consent {
    /// Whether this may be done.
    ///
    /// # Errors
    /// What would be cut, and how to do it all the same.
    pub(super) fn check(&self, connections: &Connections) -> Result<(), Refusal> {
        let Affected { connections: all, sessions, .. } = connections.cut;
        let [own, others] =
            [sessions > 0 && !self.cut_own_session, all > sessions && !self.cut_connections];
        let counted = |count| report::counted(count, "open connection");
        let why = match (own, others) {
            (false, false) => return Ok(()),
            (true, false) => "it would cut your own ssh session, it seems".to_owned(),
            (false, true) => format!("it would cut {}", counted(all - sessions)),
            (true, true) => {
                format!("it would cut {}, your own ssh session among them, it seems", counted(all))
            }
        };
        Err(Refusal { why, connections: Some(Box::new(connections.clone())) })
    }
}

impl Guard {
    /// What a policy would do to the connections that are open. That they cannot be listed is
    /// told, too.
    pub(super) fn connections_under(&self, ready: &Ready, session: Option<Session>) -> Connections {
        // The hash knows the services, not the interfaces.
        let same = |running: &Running| {
            running.hash == ready.policy.hash && running.facts.patterns == ready.facts.patterns
        };
        if self.running.as_ref().is_some_and(same) {
            return Connections::default();
        }
        self.look_at_connections(ready, session).unwrap_or_else(|error| Connections {
            incomplete: Some(error.to_string()),
            ..Connections::default()
        })
    }

    fn look_at_connections(
        &self,
        ready: &Ready,
        session: Option<Session>,
    ) -> Result<Connections, KernelError> {
        let (mut found, more) = connections::established(LOOKED_AT)?;
        let own =
            session.filter(|session| found.iter().any(|connection| session.is(connection)) || more);
        if let Some(Session { peer, local }) = own
            && !found.iter().any(|connection| (connection.peer, connection.local) == (peer, local))
        {
            found.push(Connection { local, peer, ifindex: 0, inode: 0 });
        }
        let addresses = connections::addresses()?;
        let devices = &self.devices;
        let selection = interfaces::select(&ready.facts.patterns, devices);
        let guarded = selection.devices.iter().map(|device| device.index).collect();
        let new =
            Asked { policy: &ready.policy, guarded: &guarded, addresses: &addresses, devices };
        let mut suspects = new.suspects(&found, &connections::listening_ports()?);
        let mut names = &[][..];
        if let Some(running) = &self.running {
            names = &running.facts.names;
        }
        // Only now, and only if it matters: the policy in force is not kept in memory.
        if !suspects.is_empty()
            && let Some(policy) = self.policy_in_force()
        {
            let guarded = self.links.indices();
            let old = Asked { policy: &policy, guarded: &guarded, addresses: &addresses, devices };
            old.keep_passing(&mut suspects);
        }
        let sessions = sessions(own, &suspects);
        let is_session = |connection: &Connection| sessions.contains(connection);
        let sum = |fate| cuts::sum_up(&suspects, fate, names, is_session);
        Ok(Connections {
            looked_at: u64::try_from(found.len()).unwrap_or(u64::MAX),
            incomplete: more.then(|| {
                format!("there are more connections than the {LOOKED_AT} that are looked at")
            }),
            cut: sum(Fate::Cut),
            not_reopened: sum(Fate::NotReopened),
        })
    }

    /// What is in force, compiled again; none if it is not known any more: then what is open is
    /// taken to pass.
    fn policy_in_force(&self) -> Option<CompiledPolicy> {
        let running = self.running.as_ref()?;
        let bundle = self.bundle_in_force()?;
        let mut loaded = policy::load(&bundle.manifest, &bundle).ok()?;
        self.override_modes(&mut loaded);
        let node = loaded.cluster.nodes.iter().find(|node| node.name == running.facts.node)?;
        let policy = policy::compile(&loaded, node, &Placement::default()).ok()?;
        (policy.hash == running.hash).then_some(policy)
    }

    /// Says which connections are cut by what the files ask for. They are not asked twice: whoever
    /// wrote them has had them checked, and a node that ignores its files would be worse.
    pub(super) fn tell_of_cuts(&mut self, connections: &Connections) {
        let cut = &connections.cut;
        if cut.connections == 0 {
            return;
        }
        let lines = cut.lines(TOLD);
        tracing::warn!(
            connections = cut.connections,
            "this switch cuts open connections: {}",
            lines.join("; ")
        );
        self.note_policy("cuts_connections", &lines);
    }
}

/// The connections among some that the caller may be using: its own, if it is known, else all that
/// are of ssh.
fn sessions(own: Option<Session>, suspects: &[Suspect]) -> BTreeSet<Connection> {
    let cut = suspects.iter().map(|suspect| suspect.connection);
    if let Some(own) = own {
        return cut.filter(|connection| own.is(connection)).collect();
    }
    let inodes: BTreeSet<u32> = cut.clone().map(|connection| connection.inode).collect();
    let commands = sockets::commands(&inodes);
    let is_ssh = |connection: &Connection| {
        let command = commands.get(&connection.inode);
        connection.local.port() == SSH || command.is_some_and(|command| command.starts_with("sshd"))
    };
    cut.filter(is_ssh).collect()
}
