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
