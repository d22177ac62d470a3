//! `trainguard trace`

use crate::{cli::TraceArgs, exit::Exit};

/// Runs the verb.
pub fn run(_args: &TraceArgs) -> Exit {
    Exit::NoAnswer
}
