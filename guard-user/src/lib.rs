//! trainguard in user space: from a cluster manifest to a guarded interface.
//!
//! - [`policy`], a crate of its own, turns YAML into tables; it touches files, never the kernel.
//! - [`kernel`] loads, attaches and pins; it knows no YAML.
//! - [`daemon`] keeps the two in step.
//! - [`commands`] has a file for each verb; [`report`] is the only code that prints.
//! - [`logs`] is what the daemon says of itself.
//! - `doctor` tells what would keep a node from being guarded, and what to do about it.
//! - [`learn`] makes a proposal of what was seen.
//! - `trust` is who could change a file, for daemon and doctor.
//! - [`explain`] has a page for each finding and each reason.

pub mod capture;
pub mod cli;
pub mod commands;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod doctor;
pub mod event;
pub mod exit;
pub mod explain;
pub mod init;
pub mod kernel;
pub mod learn;
#[cfg(feature = "daemon")]
pub mod logs;
pub mod machine;
#[cfg(feature = "daemon")]
pub mod object;
pub mod report;
#[cfg(feature = "daemon")]
pub mod trust;

pub use guard_policy::{self as policy, probe};
