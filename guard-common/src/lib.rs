//! The decision of trainguard about a frame, implemented once for kernel and user space.
//!
//! The same code is compiled into the XDP and tc programs and into the host binary, where `lint`,
//! `trace`, `replay` and the tests run it. It therefore uses no maps, no clocks, no YAML and no
//! system calls: the caller passes a [`Packet`], the [`Tables`] of a policy and a [`Limiter`], and
//! [`evaluate`] returns a [`Verdict`].
//!
//! The order of the checks is the contract of the project. It is defined in [`mod@decide`] and
//! nowhere else.
//!
//! Decision: `docs/decisions/0001-one-decision-function.md`.
#![no_std]
#![deny(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![deny(unsafe_code)]
#![expect(clippy::inline_always, reason = "the verifier loses packet bounds across calls")]
#![expect(clippy::many_single_char_names, reason = "octets of an address")]

#[cfg(test)]
extern crate std;

pub mod bucket;
pub mod decide;
pub mod flow;
pub mod layout;
pub mod limit;
pub mod names;
pub mod observe;
pub mod packet;
pub mod parse;
pub mod port_table;
pub mod siphash;
pub mod stack;
pub mod tables;
pub mod trie;
pub mod verdict;
pub mod wire;

pub use crate::{
    decide::{decide, evaluate},
    flow::Addr,
    limit::Limiter,
    observe::{NoTrace, Observer},
    packet::Packet,
    parse::parse,
    stack::Stack,
    tables::Tables,
    verdict::{Action, Reason, Verdict},
};
