//! Loading, attaching, pinning, reading counters. Knows no YAML.
//!
//! A build without the feature `daemon` has only what says that it cannot ask the kernel.

#[cfg(feature = "daemon")]
pub mod abilities;
#[cfg(feature = "daemon")]
mod about;
#[cfg(feature = "daemon")]
pub mod connections;
pub mod error;
#[cfg(feature = "daemon")]
pub mod generation;
#[cfg(not(feature = "daemon"))]
#[path = "no_generation.rs"]
pub mod generation;
#[cfg(feature = "daemon")]
pub mod judge;
#[cfg(feature = "daemon")]
pub mod link;
#[cfg(feature = "daemon")]
mod members;
#[cfg(feature = "daemon")]
pub mod mode;
#[cfg(feature = "daemon")]
pub mod netlink;
#[cfg(feature = "daemon")]
pub mod nic;
#[cfg(feature = "daemon")]
pub mod pins;
#[cfg(feature = "daemon")]
pub mod program;
#[cfg(feature = "daemon")]
mod refused;
#[cfg(feature = "daemon")]
mod rehearsal;
#[cfg(feature = "daemon")]
pub mod shared;
#[cfg(feature = "daemon")]
pub mod sockets;
#[cfg(feature = "daemon")]
pub mod stacking;
#[cfg(feature = "daemon")]
pub mod sys;
#[cfg(feature = "daemon")]
pub mod takeover;
