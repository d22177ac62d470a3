//! `trainguard stats`

use crate::{cli::StatsArgs, exit::Exit};

/// Runs the verb.
pub fn run(_args: &StatsArgs) -> Exit {
    Exit::NoAnswer
}
