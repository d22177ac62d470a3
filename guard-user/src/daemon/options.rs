//! The options that a daemon is started with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{interfaces::attach::AttachMode, timing::Timing};
use crate::{logs::Log, policy::compiled::Tunnels};

/// Options of a daemon, from the command line.
#[derive(Debug)]
pub struct Options {
    /// Path of the cluster manifest.
    pub manifest: PathBuf,
    /// Name of this node in the manifest; none to find the node by host name or address.
    pub node: Option<String>,
    /// Interface patterns from `--interface`; override the manifest's if not empty.
    pub interfaces: Vec<String>,
    /// Mode in which the program is attached to interfaces.
    pub mode: AttachMode,
    /// Tunnels whose packets the node unpacks, in addition to those of its tunnel devices.
    pub tunnels: Tunnels,
    /// Time to wait for interfaces before the daemon reports that it is ready without them. None: the
    /// daemon ends if no interface matches at the start.
    pub wait: Option<Duration>,
    /// Path of the public key with which policies must be signed; none to accept unsigned policies.
    pub policy_key: Option<PathBuf>,
    /// Loopback address on which the metrics are served over TCP, besides the socket; none for no TCP.
    pub metrics_listen: Option<SocketAddr>,
    /// Directory of the state that survives a reboot, such as the last known good policy and the audit
    /// log.
    pub state_dir: PathBuf,
    /// Directory of the sockets.
    pub run_dir: PathBuf,
    /// Directory in which maps and links are pinned, on a bpf file system.
    pub bpf_dir: PathBuf,
    /// Intervals and time limits.
    pub timing: Timing,
    /// The log of the process.
    pub log: Log,
}
