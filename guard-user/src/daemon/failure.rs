//! Why a policy did not come into force.

use std::fmt::Display;

use crate::{kernel::error::KernelError, policy::LoadError, report};

/// Why a policy did not come into force.
#[derive(Debug)]
pub(super) enum Failure {
    /// The files are wrong.
    Files(Box<LoadError>),
    /// The files are right, but not for this machine: a message, and what to do.
    Unfit(String, Option<&'static str>),
    /// The system refuses.
    System(KernelError),
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::System(error)
    }
}

impl Failure {
    /// Files that are not for this machine.
    pub(super) fn unfit(why: impl Display) -> Self {
        Self::Unfit(why.to_string(), None)
    }

    /// Tells people, on standard error.
    pub(super) fn explain(&self) {
        match self {
            Self::Files(error) => report::lint::explain(&error.report),
            Self::Unfit(why, hint) => {
                report::error(why);
                if let Some(hint) = hint {
                    report::hint(hint);
                }
            }
            Self::System(error) => report::refusal(error),
        }
    }

    /// What is wrong, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Files(error) => error.report.to_string().lines().map(str::to_owned).collect(),
            Self::Unfit(why, _) => vec![why.clone()],
            Self::System(error) => vec![error.to_string()],
        }
    }
}
