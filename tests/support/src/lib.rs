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

/// Returns how often a generated test is repeated: `gate` times, or `nightly` times where
/// `TRAINGUARD_LONG` is set, as by `cargo xtask nightly`. Each run takes another seed, so the next run
/// may find what this one does not.
pub fn repetitions<T>(gate: T, nightly: T) -> T {
    if std::env::var_os("TRAINGUARD_LONG").is_some() { nightly } else { gate }
}
