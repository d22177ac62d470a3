//! Findings about a host list: problems and notes.

use std::{fmt, rc::Rc};

use crate::policy::syntax::diagnostic::MAX_SHOWN_PER_FILE;

/// A position in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// The file or option.
    pub(super) source: Rc<str>,
    /// Line number, from 1; none for an option.
    pub(super) line: Option<usize>,
}

impl Location {
    /// The position of a command line option.
    pub(super) fn option(name: &str) -> Self {
        Self { source: name.into(), line: None }
    }

    /// Returns `line N`, or the name of the option.
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

/// A reason why no manifest can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The problem, with its position.
    pub message: String,
    /// How to solve it.
    pub hint: Option<String>,
}

/// Problems and notes.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first problems, at most `MAX_SHOWN_PER_FILE`.
    pub problems: Vec<Problem>,
    /// Number of further problems.
    pub more: usize,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl Findings {
    /// Adds a problem at a position.
    pub(super) fn problem(&mut self, place: &Location, message: impl fmt::Display) {
        self.push(format!("{place}: {message}"), None);
    }

    /// Adds a problem, with a hint.
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

    /// Reports whether there are problems.
    pub fn is_bad(&self) -> bool {
        !self.problems.is_empty()
    }
}
