//! The exit codes of all subcommands.

use std::process::ExitCode;

/// Result of a subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Success, or a positive answer.
    Yes = 0,
    /// A negative answer, such as findings, failed tests or a node that does not enforce.
    No = 1,
    /// No answer, because of an error such as a bad flag, an unreadable file or missing input.
    NoAnswer = 2,
    /// The daemon cannot be reached.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
