//! Building blocks for the tests of several crates: documents, frames, captures, the binary.
//!
//! This crate depends on no crate of the workspace, so that guard-user can use it in its own tests.
#![expect(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

pub mod binary;
pub mod bundle;
pub mod ethtool;
pub mod packet;
pub mod pcap;
pub mod text;

/// How often a generated test is repeated: `gate` times, or `nightly` times where `TRAINGUARD_LONG` is set,
/// as `cargo xtask nightly` does. Each run takes another seed, so what a gate leaves out the next may find.
pub fn repetitions<T>(gate: T, nightly: T) -> T {
    if std::env::var_os("TRAINGUARD_LONG").is_some() { nightly } else { gate }
}
