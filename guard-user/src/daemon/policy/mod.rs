//! The policy of the node: which policy should be in force, and why.
//!
//! [`Lifecycle`] decides. Its decisions take effect through a [`Dataplane`], so that its tests need
//! neither a kernel nor network namespaces. Several files add methods to [`Lifecycle`]: `lifecycle.rs`
//! loads files, `commit_confirm.rs` applies policies and runs trials, `mode_override.rs` changes modes,
//! and `signature.rs` checks signatures. `state_dir.rs` and `documents.rs` hold what survives the
//! daemon.

mod affected_connections;
pub(crate) mod candidate;
mod commit_confirm;
pub(crate) mod connection_impact;
pub(crate) mod dataplane;
pub(crate) mod documents;
mod file_watcher;
mod forwarded_connections;
pub(crate) mod lifecycle;
mod mode_override;
mod signature;
pub(crate) mod state_dir;

pub(crate) use self::{
    candidate::{Candidate, PolicyInfo},
    dataplane::{Change, Dataplane, InForce},
    lifecycle::Lifecycle,
};

#[cfg(test)]
mod tests;
