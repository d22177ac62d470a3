//! trainguard in user space: from a cluster manifest to a guarded interface.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`policy`] | turns YAML into tables; a crate of its own, which reads files and never asks the kernel |
//! | [`bpf`] | loads, attaches, pins, reads counters; knows no YAML |
//! | `netlink` | lists devices, addresses, sockets and offloads |
//! | `daemon` | keeps the kernel in step with the files |
//! | [`api`] | documents and commands that cross the daemon's sockets, and the client |
//! | [`commands`] | a file for each verb |
//! | [`report`], [`output`] | what is printed |
//! | `doctor` | checks a node for what would keep it from being guarded |
//! | [`init`], [`learn`] | draft manifests and policies |
//! | [`capture`] | reads pcap, pcapng and recorded events |
//! | [`explain`] | a page for each rule and each reason |
//! | `logs` | the log of the daemon |
//!
//! `xtask/src/layers.rs` has the order in which they may import each other.

pub mod api;
#[cfg(feature = "daemon")]
pub mod attach_mode;
pub mod bpf;
pub mod capture;
pub mod cli;
pub mod commands;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod doctor;
#[cfg(feature = "daemon")]
pub mod embedded_object;
pub mod exit;
pub mod explain;
#[cfg(feature = "daemon")]
pub mod file_permissions;
pub mod findings;
pub mod host;
pub mod init;
pub mod learn;
#[cfg(feature = "daemon")]
pub mod logs;
#[cfg(feature = "daemon")]
pub mod netlink;
pub mod output;
pub mod report;
#[cfg(feature = "daemon")]
pub mod sys;
pub mod system_error;
pub mod text;
mod vocabulary;

pub use guard_policy::{self as policy, probe};
