//! `trainguard daemon`

use crate::{cli::DaemonArgs, exit::Exit};

/// Runs the verb.
pub fn run(_args: &DaemonArgs) -> Exit {
    Exit::NoAnswer
}
