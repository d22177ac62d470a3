//! `trainguard detach`

use crate::{cli::DetachArgs, exit::Exit};

/// Runs the verb.
pub fn run(_args: &DetachArgs) -> Exit {
    Exit::NoAnswer
}
