//! Bodies of the requests to the control socket, and of their answers.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    connections::Connections,
    status::{ServiceMode, TrialStatus},
};
use crate::policy::{Bundle, resolve::signature::Signed};

/// Minimum duration of a trial and of a mode override.
pub const MIN_DURATION: Duration = Duration::from_secs(5);
/// Minimum and maximum of `confirm_within`.
pub const CONFIRM_WITHIN: [Duration; 2] = [MIN_DURATION, Duration::from_hours(24)];
/// Minimum and maximum duration of a mode override.
pub const MODE_FOR: [Duration; 2] = [MIN_DURATION, Duration::from_hours(30 * 24)];

/// The body of `POST /v1/detach`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Names of the interfaces to detach from; empty for all.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

/// The answer to `POST /v1/detach`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Detached {
    /// Interfaces that were guarded and are now detached.
    pub detached: Vec<String>,
    /// Named interfaces that were not guarded.
    pub not_guarded: Vec<String>,
}

/// The body of `POST /v1/apply`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The manifest and all files that it names.
    pub bundle: Bundle,
    /// Seconds after which the policy is undone unless it is confirmed; none to keep it without
    /// confirmation.
    #[serde(default)]
    pub confirm_within: Option<u64>,
    /// Signature of the files; none if they are not signed.
    #[serde(default)]
    pub signed: Option<Signed>,
    /// Whether to report the effects without putting the policy into force.
    #[serde(default)]
    pub dry_run: bool,
    /// Which open connections may be cut.
    #[serde(default)]
    pub consent: Consent,
}

impl fmt::Display for Apply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bundle, confirm_within, dry_run, consent, .. } = self;
        write!(f, "{}", bundle.manifest.display())?;
        if let Some(seconds) = confirm_within {
            write!(f, ", on trial for {seconds} s")?;
        }
        if *dry_run {
            f.write_str(", as a dry run")?;
        }
        write!(f, "{consent}")
    }
}

/// The answer to `POST /v1/apply`, `/v1/reload`, `/v1/confirm`, `/v1/rollback` and `/v1/mode`.
///
/// The policy that is in force afterwards; for a dry run, the policy that would be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Number of the generation; for a dry run, that of the one in force.
    pub generation: u64,
    /// SHA-256 of the enforced policy, in hexadecimal.
    pub policy_hash: String,
    /// Whether the policy differs from the one before.
    pub changed: bool,
    /// The effect on open connections.
    #[serde(default)]
    pub connections: Connections,
    /// For a dry run: the files of the policy in force, to compare with; none if the daemon has not
    /// kept them.
    #[serde(default)]
    pub in_force: Option<Bundle>,
    /// The pending confirmation; null if none is required.
    pub trial: Option<TrialStatus>,
    /// Problems of the policy or of the node.
    pub problems: Vec<String>,
}

/// Requested mode of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestedMode {
    /// Count the packets that would be dropped, and drop none.
    Observe,
    /// Drop refused packets.
    Enforce,
    /// The mode that the policy sets: ends an override.
    Policy,
}

impl From<RequestedMode> for ServiceMode {
    fn from(requested: RequestedMode) -> Self {
        match requested {
            RequestedMode::Observe => Self::Observe,
            RequestedMode::Enforce => Self::Enforce,
            RequestedMode::Policy => Self::Unknown,
        }
    }
}

impl RequestedMode {
    /// Returns the mode as it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
            Self::Policy => "policy",
        }
    }
}

/// The body of `POST /v1/mode`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeChange {
    /// The requested mode.
    pub mode: RequestedMode,
    /// Names of the services, as `service` or `policy/service`; empty for all.
    #[serde(default)]
    pub services: Vec<String>,
    /// Duration of the override in seconds; none to keep it until the next change.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// Which open connections may be cut.
    #[serde(default)]
    pub consent: Consent,
}

impl fmt::Display for ModeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, services, seconds, consent } = self;
        let which =
            if services.is_empty() { "all services".to_owned() } else { services.join(", ") };
        write!(f, "{}: {which}", mode.name())?;
        match seconds.map(Duration::from_secs) {
            _ if *mode == RequestedMode::Policy => {}
            Some(time) => write!(f, ", for {}", humantime::format_duration(time))?,
            None => f.write_str(", until it is changed")?,
        }
        write!(f, "{consent}")
    }
}

/// Which open connections a command may cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// Allows cutting connections other than ssh sessions that may be the caller's.
    #[serde(default)]
    pub cut_connections: bool,
    /// Allows cutting ssh sessions that may be the caller's.
    #[serde(default)]
    pub cut_own_session: bool,
    /// The caller's own ssh session; none if the client could not find it.
    #[serde(default)]
    pub session: Option<Session>,
}

impl fmt::Display for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cut_connections {
            f.write_str(", connections may be cut")?;
        }
        if self.cut_own_session {
            f.write_str(", the caller's session may be cut")?;
        }
        Ok(())
    }
}

/// The ssh session of the caller, from `SSH_CONNECTION` (ssh(1)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Address and port of the ssh client.
    pub peer: SocketAddr,
    /// Address and port on this node.
    pub local: SocketAddr,
}

impl Session {
    /// Parses the four words of `SSH_CONNECTION`; returns none for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [peer, peer_port, local, local_port] = words[..] else { return None };
        let end = |address: &str, port: &str| {
            let address: IpAddr = address.parse().ok()?;
            Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
        };
        Some(Self { peer: end(peer, peer_port)?, local: end(local, local_port)? })
    }
}

/// The body of the answer to a refused request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// The reason.
    #[serde(rename = "error")]
    pub(crate) why: String,
    /// The connections that the command would cut, if that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<Box<Connections>>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(why: T) -> Self {
        Self { why: why.into(), connections: None }
    }
}
