//! The policy of the node: which one should be in force, and why.
//!
//! [`Lifecycle`] decides; what it decides takes effect through a [`Dataplane`], so that its tests need
//! neither a kernel nor network namespaces.

mod affected_connections;
pub(crate) mod candidate;
mod commit_confirm;
pub(crate) mod connection_impact;
pub(crate) mod dataplane;
pub(crate) mod documents;
mod file_watcher;
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
