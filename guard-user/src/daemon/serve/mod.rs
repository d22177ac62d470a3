//! The sockets of the daemon: access control, limits, requests and answers; and the messages to the
//! service manager.
//!
//! Tasks in `http.rs` accept connections within the bounds of `connection_limits.rs`, and parse
//! requests. They send each as a `request::QueuedRequest` to the daemon's loop, whose `requests.rs`
//! answers it.

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

/// The owner of the connections, of the requests that wait for statistics or metrics, of the audit log,
/// and of the messages to the service manager.
#[derive(Debug)]
pub(crate) struct Serving {
    /// The connections of all sockets, shared with the tasks that serve them.
    pub(crate) limits: Arc<ConnectionLimits>,
    /// Requests for statistics and metrics that wait for an answer.
    pub(crate) pending: PendingReads,
    /// The messages to the service manager.
    pub(crate) notifier: Notifier,
    /// The audit log of commands.
    pub(crate) audit: AuditLog,
    /// When the daemon was started.
    pub(crate) started: SystemTime,
}

impl Serving {
    /// Starts without connections and requests.
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
