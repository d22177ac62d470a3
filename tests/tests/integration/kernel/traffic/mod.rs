//! Whose packet it is: what a node forwards, what belongs to its own connections, and what its own
//! addresses are. Real packets, a real daemon, and all counters that moved.

mod addresses;
mod connections;
mod forwarded;

use std::process::Command;

use guard_tests::node::{Node, moved};
use serde_json::Value;

/// Runs something, and returns the counters that it moved, as [`moved`].
fn counted(node: &Node, work: impl FnOnce()) -> Vec<(String, u64)> {
    let before: Value = node.stats();
    work();
    moved(&before, &node.stats())
}

/// Returns a count as [`counted`] has it.
fn count(reason: &str, packets: u64) -> Vec<(String, u64)> {
    vec![(reason.to_owned(), packets)]
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
