//! Commands over the control socket: the bodies of requests and their answers.

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

/// Shortest trial, and shortest mode by hand.
pub const MIN_DURATION: Duration = Duration::from_secs(5);
/// The shortest and the longest time to confirm in.
pub const CONFIRM_WITHIN: [Duration; 2] = [MIN_DURATION, Duration::from_hours(24)];
/// The shortest and the longest time of an override.
pub const MODE_FOR: [Duration; 2] = [MIN_DURATION, Duration::from_hours(30 * 24)];

/// The body of `POST /v1/detach`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Only these interfaces; all if there are none.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

/// The answer to `POST /v1/detach`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Detached {
    /// The interfaces that were guarded and are not any more.
    pub detached: Vec<String>,
    /// Those that were named but not guarded.
    pub not_guarded: Vec<String>,
}

/// The body of `POST /v1/apply`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The manifest, and every file that it names.
    pub bundle: Bundle,
    /// Seconds after which it is undone unless it is confirmed; for good if there are none.
    #[serde(default)]
    pub confirm_within: Option<u64>,
    /// The signature of the files; none if there is none.
    #[serde(default)]
    pub signed: Option<Signed>,
    /// Only tell what would become of it.
    #[serde(default)]
    pub dry_run: bool,
    /// What may be cut.
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

/// The answer to `POST /v1/apply`, `/v1/reload`, `/v1/confirm`, `/v1/rollback` and `/v1/mode`: what
/// is in force now; of a dry run, what would be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Number of the generation; of a dry run, that of the one in force.
    pub generation: u64,
    /// SHA-256 of what is enforced, in hexadecimal.
    pub policy_hash: String,
    /// Whether it is another one than before.
    pub changed: bool,
    /// What became of open connections.
    #[serde(default)]
    pub connections: Connections,
    /// Of a dry run: what is in force, to compare with; none if it is not kept.
    #[serde(default)]
    pub in_force: Option<Bundle>,
    /// Until when it must be confirmed; null if it need not be.
    pub trial: Option<TrialStatus>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// What services shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestedMode {
    /// Count what they would drop, drop nothing.
    Observe,
    /// Drop.
    Enforce,
    /// What their policy says.
    Policy,
}

impl From<RequestedMode> for ServiceMode {
    fn from(wish: RequestedMode) -> Self {
        match wish {
            RequestedMode::Observe => Self::Observe,
            RequestedMode::Enforce => Self::Enforce,
            RequestedMode::Policy => Self::Unknown,
        }
    }
}

impl RequestedMode {
    /// As it is typed.
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
    /// What services shall do.
    pub mode: RequestedMode,
    /// Which: by their names, or `policy/service`; all if there are none.
    #[serde(default)]
    pub services: Vec<String>,
    /// For how many seconds; until it is changed if there are none.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// What may be cut.
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

/// The caller's own ssh session, as its shell knows it (`SSH_CONNECTION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Where the caller sits.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

impl Session {
    /// From the four words of `SSH_CONNECTION`; none if it is something else.
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

/// Why something is not done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// Why.
    #[serde(rename = "error")]
    pub(crate) why: String,
    /// The connections that it would cut, if that is why.
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
