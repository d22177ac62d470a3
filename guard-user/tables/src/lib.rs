//! The tables of one node: a policy in the form in which it is enforced, and the host's decision by it.
//!
//! A crate of its own because tests, `lint` and `trace` spend their time here: it is optimised where the
//! rest of a test build is not.

pub mod compiled;
pub mod limiter;
pub mod trie;
