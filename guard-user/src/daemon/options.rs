//! What a daemon is started with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{interfaces::attach::AttachMode, timing::Timing};
use crate::{logs::Log, policy::compiled::Tunnels};

/// Options of a daemon.
#[derive(Debug)]
pub struct Options {
    /// The cluster manifest.
    pub manifest: PathBuf,
    /// Name of this node in the manifest; found by host name or address if there is none.
    pub node: Option<String>,
    /// Interface patterns that override those of the manifest, if there are any.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub mode: AttachMode,
    /// What the node unpacks, in addition to what its tunnel devices show.
    pub tunnels: Tunnels,
    /// How long to wait for interfaces before the daemon is ready without them; none to end if
    /// there is none.
    pub wait: Option<Duration>,
    /// Public key with which policies must be signed; none to accept unsigned ones.
    pub policy_key: Option<PathBuf>,
    /// Address of the loopback device that serves the metrics, too.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the last good policy is kept.
    pub state_dir: PathBuf,
    /// Where the sockets are.
    pub run_dir: PathBuf,
    /// Where maps and links are pinned.
    pub bpf_dir: PathBuf,
    /// Intervals and time limits.
    pub timing: Timing,
    /// The log.
    pub log: Log,
}
