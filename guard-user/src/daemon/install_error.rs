//! The reasons why a policy did not come into force.

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
    /// The files have errors.
    Files(Box<LoadError>),
    /// The files are valid, but not usable on this node: a message and a hint.
    Unfit(String, Option<&'static str>),
    /// The operating system refused a request.
    System(SystemError),
}

impl From<SystemError> for InstallError {
    fn from(error: SystemError) -> Self {
        Self::System(error)
    }
}

impl InstallError {
    /// Returns an error for files that are valid but not usable on this node, without a hint.
    pub(crate) fn unfit(why: impl Display) -> Self {
        Self::Unfit(why.to_string(), None)
    }

    /// Logs the error, with its hint and, for errors in files, the source lines.
    pub(crate) fn explain(&self) {
        match self {
            Self::Files(error) => log_findings(&error.report),
            Self::Unfit(why, hint) => tracing::error!(hint = *hint, "{why}"),
            Self::System(error) => {
                // A message of the kernel's verifier has many lines.
                tracing::error!(target: PAGE, hint = error.hint_text(), "{error}");
            }
        }
    }

    /// Returns the message, one line per finding.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Files(error) => error.report.to_string().lines().map(str::to_owned).collect(),
            Self::Unfit(why, _) => vec![why.clone()],
            Self::System(error) => vec![error.to_string()],
        }
    }

    /// Returns the message as one text.
    pub(crate) fn text(&self) -> String {
        self.lines().join("\n")
    }
}

/// Logs findings with their source lines, at the level of the most severe finding.
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
