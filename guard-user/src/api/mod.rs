//! What crosses the sockets of the daemon: documents, requests, answers, and the client that asks.
//!
//! Field names, values and paths are a contract with other programs. Nothing here knows how the daemon
//! works; the daemon, `doctor`, the reports and the commands all build on these types.

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

/// Name of the socket that tells.
pub const STATS_SOCKET: &str = "stats.sock";
/// Name of the socket that commands.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Where events are.
#[cfg(feature = "daemon")]
pub(crate) const EVENTS: &str = "/v1/events";
/// Where refused sources are that behave like members.
#[cfg(feature = "daemon")]
pub(crate) const MISSING_MEMBERS: &str = "/v1/missing-members";
/// Where the metrics are.
pub const METRICS: &str = "/metrics";
