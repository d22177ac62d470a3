//! The compiled policy of one node, and the evaluation of packets on the host.
//!
//! A separate crate because `lint`, `trace` and the tests spend most of their time here: test builds
//! optimise this crate, but not the rest.
//!
//! Decision: `docs/decisions/0051-separate-crates-for-build-time.md`.

pub mod compiled;
pub mod limiter;
pub mod trie;
