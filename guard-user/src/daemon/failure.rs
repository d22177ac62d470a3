//! Why a policy did not come into force.

use crate::{kernel::error::KernelError, policy::LoadError, report};

/// Why a policy was not loaded.
#[derive(Debug)]
pub(super) enum Failure {
    /// The files are wrong.
    Files(Box<LoadError>),
    /// The files are right, but not for this machine; or the kernel refuses.
    Other(KernelError),
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    pub(super) fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(KernelError::new(error.to_string()))
    }

    /// Tells people, on standard error.
    pub(super) fn explain(&self) {
        match self {
            Self::Files(error) => report::lint::explain(&error.report),
            Self::Other(error) => {
                report::error(error);
                if let Some(hint) = error.hint_text() {
                    report::hint(hint);
                }
            }
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Files(error) => error.report.to_string().lines().map(str::to_owned).collect(),
            Self::Other(error) => vec![error.to_string()],
        }
    }
}
