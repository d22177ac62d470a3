//! Running this crate's binary.

use std::{
    path::Path,
    process::{Command, Output},
};

use guard_test_support::binary;

/// Where it is.
pub(crate) const PATH: &str = env!("CARGO_BIN_EXE_trainguard");

/// A command line of `trainguard`.
pub(crate) fn command(args: &[&str]) -> Command {
    binary::command(PATH, args)
}

/// Runs `trainguard` in a directory, with this on its standard input, and waits until it ends.
pub(crate) fn trainguard(dir: &Path, args: &[&str], stdin: impl AsRef<[u8]>) -> Output {
    binary::run(PATH, dir, args, stdin)
}
