//! `trainguard replay`

use crate::{cli::ReplayArgs, exit::Exit};

/// Runs the verb.
pub fn run(_args: &ReplayArgs) -> Exit {
    Exit::NoAnswer
}
