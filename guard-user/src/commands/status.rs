//! `trainguard status`

use crate::{cli::StatusArgs, exit::Exit};

/// Runs the verb.
pub fn run(_args: &StatusArgs) -> Exit {
    Exit::NoAnswer
}
