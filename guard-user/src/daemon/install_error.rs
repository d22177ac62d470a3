//! Why a policy did not come into force.

use std::fmt::Display;

use crate::{
    findings,
    logs::PAGE,
    policy::{
        LoadError,
        syntax::diagnostic::{Report, Severity},
    },
    system_error::SystemError,
};

/// Why a policy did not come into force.
#[derive(Debug)]
pub(crate) enum InstallError {
    /// The files are wrong.
    Files(Box<LoadError>),
    /// The files are right, but not for this machine: a message, and what to do.
    Unfit(String, Option<&'static str>),
    /// The system refuses.
    System(SystemError),
}

impl From<SystemError> for InstallError {
    fn from(error: SystemError) -> Self {
        Self::System(error)
    }
}

impl InstallError {
    /// Files that are not for this machine.
    pub(crate) fn unfit(why: impl Display) -> Self {
        Self::Unfit(why.to_string(), None)
    }

    /// Tells people, in the log.
    pub(crate) fn explain(&self) {
        match self {
            Self::Files(error) => log_findings(&error.report),
            Self::Unfit(why, hint) => tracing::error!(hint = *hint, "{why}"),
            Self::System(error) => {
                // What the verifier says has many lines.
                tracing::error!(target: PAGE, hint = error.hint_text(), "{error}");
            }
        }
    }

    /// What is wrong, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Files(error) => error.report.to_string().lines().map(str::to_owned).collect(),
            Self::Unfit(why, _) => vec![why.clone()],
            Self::System(error) => vec![error.to_string()],
        }
    }
    /// What is wrong, as one text.
    pub(crate) fn text(&self) -> String {
        self.lines().join("\n")
    }
}

/// Writes findings to the log, with their source.
pub(crate) fn log_findings(findings: &Report) {
    let text = findings::explained(findings);
    if findings.count(Severity::Error) > 0 {
        tracing::error!(target: PAGE, "{text}");
    } else if findings.count(Severity::Warning) > 0 {
        tracing::warn!(target: PAGE, "{text}");
    } else {
        tracing::info!(target: PAGE, "{text}");
    }
}
