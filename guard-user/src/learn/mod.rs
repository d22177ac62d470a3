//! From traffic that was seen to a proposal: who reached which port of a node, and what would let
//! exactly them. Nothing of it is applied; what was seen is no proof of anything but itself.
//!
//! [`connection_tracker`] follows connections, [`classify`] says which of them count, [`draft`] writes the policy.
//! The manifest is edited by [`crate::policy::edit::patch`].

pub mod classify;
pub mod connection_tracker;
pub mod draft;

/// `schema` of the answer of `learn`.
pub const SCHEMA: &str = "trainguard/learn/v1";
