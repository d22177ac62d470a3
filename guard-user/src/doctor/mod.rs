//! `trainguard doctor`: what would keep this node from being guarded, or its guard from being worth
//! what it seems, and what to do about each.
//!
//! [`gather`] asks the machine and changes nothing; [`checks`] are pure functions over what it
//! found ([`facts`]), so that every machine can be made up in a test. [`redact`] makes a report that
//! may leave the house.

mod attempts;
pub mod checks;
pub mod facts;
mod files;
pub mod gather;
mod listeners;
pub mod redact;
mod sysfs;
mod system;

use serde::Serialize;

/// `schema` of [`Diagnosis`].
pub const SCHEMA: &str = "trainguard/doctor/v1";

/// How a check came out, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// Less than it could be: slower, or with a way around.
    Warning,
    /// It could not be seen: with these rights, or on this kernel.
    Unknown,
    /// The guard cannot work like this, or does not guard.
    Failed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Note, Self::Warning, Self::Unknown, Self::Failed];

    /// Its name, the same in all outputs.
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

/// A check with what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, which stays the same: scripts may rely on it.
    pub id: &'static str,
    /// What it is about where there may be several, such as an interface; null otherwise.
    pub subject: Option<String>,
    /// How it came out.
    pub state: State,
    /// What was found. May hold text of others: it is not escaped.
    pub found: String,
    /// Why that matters; null if nothing is wrong.
    pub why: Option<String>,
    /// What to do: a command, or a setting; null if nothing is to be done.
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

/// The answer of `doctor`.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of this program.
    pub version: &'static str,
    /// Name of the node in the manifest; null if there is no manifest, or the node is not in it.
    pub node: Option<String>,
    /// How many checks came out how.
    pub summary: Summary,
    /// The checks, in an order that does not depend on how they came out.
    pub checks: Vec<Check>,
}

/// How many checks came out how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// [`State::Ok`].
    pub ok: usize,
    /// [`State::Note`].
    pub note: usize,
    /// [`State::Warning`].
    pub warning: usize,
    /// [`State::Failed`].
    pub failed: usize,
    /// [`State::Unknown`].
    pub unknown: usize,
}

impl Diagnosis {
    /// Judges what was found.
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
