//! Loading, attaching, pinning, reading counters. Knows no YAML.
//!
//! A build without the feature `daemon` has only what says that it cannot ask the kernel.

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
pub mod pins;
#[cfg(feature = "daemon")]
pub mod program;
#[cfg(feature = "daemon")]
mod refused;
#[cfg(feature = "daemon")]
pub mod shared;
#[cfg(feature = "daemon")]
pub mod sockets;
#[cfg(feature = "daemon")]
pub mod sys;
