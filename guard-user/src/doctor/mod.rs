//! `trainguard doctor`: finds what would prevent this node from being guarded or weaken its guard,
//! with a fix for each finding.
//!
//! [`gather`] collects the facts and changes nothing; [`checks`] are pure functions of the
//! [`facts`], so that a test can construct any machine. [`redact`] makes a report that can be
//! shared.
//!
//! Decision: `docs/decisions/0049-doctor-tries.md`.

mod attempts;
pub mod checks;
pub mod facts;
mod files;
pub mod gather;
mod listeners;
pub mod redact;
mod sysfs;
mod system;
pub mod traffic;

use serde::Serialize;

/// Value of the field `schema` of [`Diagnosis`].
pub const SCHEMA: &str = "trainguard/doctor/v1";

/// Result of a check, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No problem.
    Ok,
    /// Information; nothing has to be done.
    Note,
    /// Works, but slower than possible or with a way to bypass the guard.
    Warning,
    /// Could not be determined, with these rights or on this kernel.
    Unknown,
    /// The guard cannot work in this state, or does not guard.
    Failed,
}

impl State {
    /// All states, from best to worst.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Note, Self::Warning, Self::Unknown, Self::Failed];

    /// Returns the name, the same in all outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }
}

/// A check with its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name, on which scripts may rely.
    pub id: &'static str,
    /// The subject, such as an interface, for checks that run once per subject; null otherwise.
    pub subject: Option<String>,
    /// Result of the check.
    pub state: State,
    /// What was found. Not escaped, although it may contain text of other programs.
    pub found: String,
    /// Why the finding matters; null if nothing is wrong.
    pub why: Option<String>,
    /// The fix: a command, or a setting; null if nothing has to be done.
    pub fix: Option<String>,
}

impl Check {
    fn new(id: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { id, subject: None, state, found: found.into(), why: None, fix: None }
    }

    fn ok(id: &'static str, found: impl Into<String>) -> Self {
        Self::new(id, State::Ok, found)
    }

    fn about(mut self, subject: &str) -> Self {
        self.subject = Some(subject.to_owned());
        self
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// The output of `doctor`.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of this program.
    pub version: &'static str,
    /// Name of the node in the manifest; null if there is no manifest, or the node is not in it.
    pub node: Option<String>,
    /// Number of checks by state.
    pub summary: Summary,
    /// The checks, in an order that does not depend on their results.
    pub checks: Vec<Check>,
}

/// Number of checks by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Checks in [`State::Ok`].
    pub ok: usize,
    /// Checks in [`State::Note`].
    pub note: usize,
    /// Checks in [`State::Warning`].
    pub warning: usize,
    /// Checks in [`State::Failed`].
    pub failed: usize,
    /// Checks in [`State::Unknown`].
    pub unknown: usize,
}

impl Diagnosis {
    /// Runs all checks on the facts.
    pub fn of(facts: &facts::MachineFacts) -> Self {
        let checks = checks::all(facts);
        let count = |state| checks.iter().filter(|check| check.state == state).count();
        let summary = Summary {
            ok: count(State::Ok),
            note: count(State::Note),
            warning: count(State::Warning),
            failed: count(State::Failed),
            unknown: count(State::Unknown),
        };
        let node = facts.policy.as_ref().and_then(|policy| policy.node.clone());
        Self { schema: SCHEMA, version: env!("CARGO_PKG_VERSION"), node, summary, checks }
    }
}
