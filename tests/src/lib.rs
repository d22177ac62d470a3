//! Code shared by the tests of trainguard: frames to send, policies to send them to, and two back ends
//! that decide about them, the host and the kernel.
#![expect(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

pub use guard_test_support::{packet, text};

pub mod backend;
pub mod bench;
pub mod generate;
pub mod nft;
pub mod node;
pub mod oracle;
pub mod pane;
pub mod pcap;
pub mod prometheus;
pub mod random;
pub mod raw;
pub mod scenario;
pub mod skip;
pub mod split;
pub mod system;
pub mod traffic;
pub mod wire;
pub mod world;
