//! `trainguard lint`

use crate::{cli::LintArgs, exit::Exit};

/// Runs the verb.
pub fn run(_args: &LintArgs) -> Exit {
    Exit::NoAnswer
}
