//! The protocol of the daemon's sockets: documents, requests, answers, and the client.
//!
//! Field names, values and paths are a stable interface to other programs. This module does not
//! depend on the daemon; the daemon, `doctor`, the reports and the commands all use its types.

#[cfg(feature = "daemon")]
pub mod client;
#[cfg(feature = "daemon")]
pub mod connections;
#[cfg(feature = "daemon")]
pub mod control;
pub mod events;
#[cfg(feature = "daemon")]
pub mod stats;
#[cfg(feature = "daemon")]
pub mod status;
#[cfg(feature = "daemon")]
pub(crate) mod versioned;

/// File name of the socket for queries.
pub const STATS_SOCKET: &str = "stats.sock";
/// File name of the socket for commands.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Path of the events.
#[cfg(feature = "daemon")]
pub(crate) const EVENTS: &str = "/v1/events";
/// Path of the refused sources that behave like members.
#[cfg(feature = "daemon")]
pub(crate) const MISSING_MEMBERS: &str = "/v1/missing-members";
/// Path of the metrics.
pub const METRICS: &str = "/metrics";
