//! The sockets of the daemon: who may ask, what they are answered, and what the service manager is
//! told.

pub(crate) mod audit;
pub(crate) mod coalesce;
pub(crate) mod connection_limits;
mod exposition;
pub(crate) mod http;
pub(crate) mod metrics;
mod peer_credentials;
pub(crate) mod request;
pub(crate) mod systemd;

use std::{sync::Arc, time::SystemTime};

use self::{
    audit::AuditLog, coalesce::PendingReads, connection_limits::ConnectionLimits, systemd::Notifier,
};
use super::options::Options;

pub(crate) use self::{exposition::Exposition, peer_credentials::Peer};

/// The owner of connections, of requests that wait, of the audit log, and of what the service manager
/// knows.
#[derive(Debug)]
pub(crate) struct Serving {
    /// The connections of all sockets.
    pub(crate) limits: Arc<ConnectionLimits>,
    /// Requests for statistics and metrics that wait for their answer.
    pub(crate) pending: PendingReads,
    /// The service manager.
    pub(crate) notifier: Notifier,
    /// Who commanded what.
    pub(crate) audit: AuditLog,
    /// When the daemon was started.
    pub(crate) started: SystemTime,
}

impl Serving {
    /// Nobody has asked yet.
    pub(crate) fn new(options: &Options, limits: Arc<ConnectionLimits>) -> Self {
        Self {
            limits,
            pending: PendingReads::default(),
            notifier: Notifier::new(options.wait.unwrap_or_default(), &options.timing),
            audit: AuditLog::at(&options.state_dir),
            started: SystemTime::now(),
        }
    }
}
