//! trainguard in user space: from a cluster manifest to guarded interfaces.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`policy`] | compiles YAML into tables; a separate crate that does not use the kernel |
//! | [`bpf`] | loads, attaches and pins programs, reads counters; does not use the YAML syntax |
//! | `netlink` | lists devices, addresses, sockets and offloads |
//! | `daemon` | keeps the kernel consistent with the files |
//! | [`api`] | documents and commands of the daemon's sockets, and the client |
//! | [`commands`] | the subcommands, a file for each |
//! | [`report`], [`output`] | formats and prints results |
//! | `doctor` | checks a node for problems that would prevent it from being guarded |
//! | [`init`], [`learn`] | draft manifests and policies |
//! | [`capture`] | reads pcap, pcapng and recorded events |
//! | [`explain`] | a page for each rule and each reason |
//! | `logs` | the log of the daemon |
//!
//! `xtask/src/layers.rs` defines which modules may import which.

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
