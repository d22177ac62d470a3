//! Proposes changes of a policy from observed traffic: which sources reached which ports of a node,
//! and which entries would admit exactly those sources. Nothing is applied: observed traffic does
//! not prove that a source is a member.
//!
//! [`connection_tracker`] tracks connections, [`classify`] decides which of them count, [`draft`]
//! writes the policy. The manifest is edited by [`crate::policy::edit::patch`].
//!
//! Decision: `docs/decisions/0035-learning-never-widens.md`.

pub mod classify;
pub mod connection_tracker;
pub mod draft;

/// Value of the field `schema` of the output of `learn`.
pub const SCHEMA: &str = "trainguard/learn/v1";
