//! The output of all subcommands: results on standard output, messages on standard error.

#[cfg(feature = "daemon")]
pub mod apply;
pub mod diff;
#[cfg(feature = "daemon")]
pub mod doctor;
#[cfg(feature = "daemon")]
pub mod events;
pub mod explain;
pub mod learn;
pub mod lint;
#[cfg(feature = "daemon")]
pub mod missing;
pub mod progress;
pub mod replay;
#[cfg(feature = "daemon")]
pub mod stats;
#[cfg(feature = "daemon")]
pub mod status;
pub mod test;
pub mod trace;
