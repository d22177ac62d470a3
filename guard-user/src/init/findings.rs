//! What there is to say about a host list: problems, all of them, and notes.

use std::{fmt, rc::Rc};

use crate::policy::syntax::diagnostic::MAX_SHOWN_PER_FILE;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// The file or option.
    pub(super) source: Rc<str>,
    /// Line, counted from 1; none for an option.
    pub(super) line: Option<usize>,
}

impl Location {
    /// An option of the command line.
    pub(super) fn option(name: &str) -> Self {
        Self { source: name.into(), line: None }
    }

    /// The line as people say it, or the option.
    pub(super) fn short(&self) -> String {
        match self.line {
            Some(line) => format!("line {line}"),
            None => self.source.to_string(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => self.source.fmt(f),
        }
    }
}

/// Why no manifest can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, with its place.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first problems.
    pub problems: Vec<Problem>,
    /// Problems that are only counted.
    pub more: usize,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

impl Findings {
    /// Adds a problem at a place.
    pub(super) fn problem(&mut self, place: &Location, message: impl fmt::Display) {
        self.push(format!("{place}: {message}"), None);
    }

    /// Adds a problem, with what to do.
    pub(super) fn push(&mut self, message: String, hint: Option<String>) {
        if self.problems.len() < MAX_SHOWN_PER_FILE {
            self.problems.push(Problem { message, hint });
        } else {
            self.more += 1;
        }
    }

    /// Adds a note.
    pub(super) fn note(&mut self, message: impl Into<String>) {
        self.notes.push(message.into());
    }

    /// Whether something is wrong.
    pub fn is_bad(&self) -> bool {
        !self.problems.is_empty()
    }
}
