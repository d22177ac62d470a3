//! Helpers that run this crate's binary.

use std::{
    path::Path,
    process::{Command, Output},
};

use guard_test_support::binary;

/// Path of the built `trainguard` binary.
pub(crate) const PATH: &str = env!("CARGO_BIN_EXE_trainguard");

/// Returns a command that runs `trainguard` with these arguments.
pub(crate) fn command(args: &[&str]) -> Command {
    binary::command(PATH, args)
}

/// Runs `trainguard` in a directory with the given standard input and waits until it exits.
pub(crate) fn trainguard(dir: &Path, args: &[&str], stdin: impl AsRef<[u8]>) -> Output {
    binary::run(PATH, dir, args, stdin)
}
