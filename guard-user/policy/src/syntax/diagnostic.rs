//! Findings as data: a code, a severity, a message, and the locations concerned. Nothing here prints;
//! `guard_user::report` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::rules::Code;

pub use super::source_map::{FileId, Location, Position, Source, Sources, Span};

/// Maximum number of findings kept for each file; further ones are only counted.
pub const MAX_SHOWN_PER_FILE: usize = 100;

/// Severity of a finding, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// A note; nothing needs to be done.
    Info,
    /// Probably a mistake; the policy loads.
    Warning,
    /// The policy does not load.
    Error,
}

impl Severity {
    /// Returns the severity in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A value and its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where the value is written.
    pub place: Location,
}

impl<T> At<T> {
    /// Attaches a location to a value.
    pub fn new(value: T, place: Location) -> Self {
        Self { value, place }
    }
}

/// A finding about a document: a rule that is broken, where, and what to do about it.
///
/// The message says what was found and what was expected. Locations refer to the [`Sources`] of the
/// [`Report`] that holds the finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The rule that is broken.
    pub code: Code,
    /// The severity, which is not fixed by the rule.
    pub severity: Severity,
    /// What was found and what was expected: one sentence, without the location.
    pub message: String,
    /// Where the rule is broken.
    pub place: Location,
    /// Further locations, each with its relation to the finding.
    pub related: Vec<(Location, String)>,
    /// What to do.
    pub help: Option<String>,
    /// Edits that are safe to apply without asking: afterwards the documents mean the same, or have
    /// the only meaning that they can have had. All edits of a fix are applied together, or none.
    pub fix: Vec<Edit>,
}

/// A replacement in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The bytes to replace.
    pub place: Location,
    /// The replacement.
    pub text: String,
}

impl Diagnostic {
    /// Makes a finding without help, fix and further locations.
    pub fn new(
        severity: Severity,
        code: Code,
        place: Location,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            severity,
            message: message.into(),
            place,
            related: Vec::new(),
            help: None,
            fix: Vec::new(),
        }
    }

    /// Makes a finding that prevents the policy from loading.
    pub fn error(code: Code, place: Location, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, place, message)
    }

    /// Makes a finding about a probable mistake.
    pub fn warning(code: Code, place: Location, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, place, message)
    }

    /// Sets what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds an edit that is safe to apply without asking: replaces the bytes at `place` with `text`.
    #[must_use]
    pub fn fix(mut self, place: Location, text: impl Into<String>) -> Self {
        self.fix.push(Edit { place, text: text.into() });
        self
    }

    /// Returns the message and the help on one line.
    pub fn on_one_line(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {}", self.message, help.replace('\n', " ")),
            None => self.message.clone(),
        }
    }

    /// Adds a further location.
    #[must_use]
    pub fn related(mut self, place: Location, label: impl Into<String>) -> Self {
        self.related.push((place, label.into()));
        self
    }
}

/// The rules that are silenced, by comments and by the caller.
#[derive(Debug, Clone, Default)]
pub struct Ignores {
    pub(crate) files: BTreeMap<FileId, Vec<Ignore>>,
    /// Rules that the caller silences everywhere.
    allowed: BTreeSet<Code>,
    covered: usize,
}

/// A rule silenced by a comment.
#[derive(Debug, Clone)]
pub(crate) struct Ignore {
    pub(crate) code: Code,
    /// Location of the comment.
    pub(crate) place: Location,
    /// A finding is silenced if it begins within these bytes.
    pub(crate) within: Span,
    pub(crate) used: bool,
    /// What to remove if the comment silences nothing: the comment with the blanks before it. None if
    /// the comment names several rules.
    pub(crate) removal: Option<Span>,
}

impl Ignores {
    /// Silences rules everywhere, at the caller's request.
    pub(crate) fn allow(&mut self, codes: impl IntoIterator<Item = Code>) {
        self.allowed.extend(codes);
    }

    /// Returns the number of findings silenced.
    pub(crate) fn covered(&self) -> usize {
        self.covered
    }

    /// Reports whether a finding is silenced, and counts it if so.
    pub(crate) fn cover(&mut self, finding: &Diagnostic) -> bool {
        if finding.severity == Severity::Error {
            return false;
        }
        let mut covered = self.allowed.contains(&finding.code);
        if finding.code.is_ignorable() {
            let at = finding.place.span.start;
            for ignore in self.files.get_mut(&finding.place.file).into_iter().flatten() {
                let here = ignore.within.start <= at && at < ignore.within.end;
                if here && ignore.code == finding.code {
                    ignore.used = true;
                    covered = true;
                }
            }
        }
        self.covered += usize::from(covered);
        covered
    }
}

/// The findings of a load or a lint run, and the texts that they refer to.
///
/// Silenced findings are dropped, and at most [`MAX_SHOWN_PER_FILE`] are kept for each file;
/// [`Report::count`] includes the rest. [`Report::finish`] must be called before the findings are
/// shown.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The findings that are kept; sorted by file and location by [`Report::finish`].
    pub diagnostics: Vec<Diagnostic>,
    /// The texts that the findings refer to.
    pub sources: Sources,
    /// Whether a file could not be read.
    pub unreadable: bool,
    /// Number of findings of each severity, including those that are not kept.
    totals: [usize; 3],
    /// Number of findings kept for each file.
    kept: BTreeMap<FileId, usize>,
    /// Files with errors.
    broken: BTreeSet<FileId>,
    /// Rules that are silenced.
    pub(crate) ignores: Ignores,
}

impl Report {
    /// Adds a finding, unless it is silenced. A finding beyond [`MAX_SHOWN_PER_FILE`] of its file is
    /// only counted.
    pub fn push(&mut self, finding: Diagnostic) {
        if self.ignores.cover(&finding) {
            return;
        }
        if let Some(total) = self.totals.get_mut(finding.severity as usize) {
            *total += 1;
        }
        if finding.severity == Severity::Error {
            self.broken.insert(finding.place.file);
        }
        let kept = self.kept.entry(finding.place.file).or_default();
        if *kept < MAX_SHOWN_PER_FILE {
            *kept += 1;
            self.diagnostics.push(finding);
        }
    }

    /// Reports whether further findings of a file are only counted.
    pub(crate) fn is_full(&self, file: FileId) -> bool {
        self.kept.get(&file).is_some_and(|kept| *kept >= MAX_SHOWN_PER_FILE)
    }

    /// Adds the findings of another report. Both reports must number the texts in the same way.
    pub fn absorb(&mut self, other: Self) {
        let mut rest = other.totals;
        for finding in other.diagnostics {
            if let Some(rest) = rest.get_mut(finding.severity as usize) {
                *rest = rest.saturating_sub(1);
            }
            self.push(finding);
        }
        for (total, hidden) in self.totals.iter_mut().zip(rest) {
            *total += hidden;
        }
        self.unreadable |= other.unreadable;
    }

    /// Returns the number of findings of a severity, including those that are not kept.
    pub fn count(&self, severity: Severity) -> usize {
        self.totals.get(severity as usize).copied().unwrap_or(0)
    }

    /// Returns the number of findings silenced by comments and by the caller.
    pub fn ignored(&self) -> usize {
        self.ignores.covered()
    }

    /// Returns the number of findings that [`crate::lint::fix`] can fix.
    pub fn fixable(&self) -> usize {
        self.diagnostics.iter().filter(|finding| !finding.fix.is_empty()).count()
    }

    /// Returns the number of findings that are only counted.
    pub fn hidden(&self) -> usize {
        let all: usize = self.totals.iter().sum();
        all.saturating_sub(self.diagnostics.len())
    }

    /// Reports whether a file has an error.
    pub(crate) fn is_broken(&self, file: FileId) -> bool {
        self.broken.contains(&file)
    }

    /// Reports whether any file has an error.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Sorts the findings by location and removes duplicates.
    pub fn finish(&mut self) {
        self.diagnostics
            .sort_by(|a, b| (a.place, a.code, &a.message).cmp(&(b.place, b.code, &b.message)));
        let totals = &mut self.totals;
        self.diagnostics.dedup_by(|a, b| {
            let same = a == b;
            if same && let Some(total) = totals.get_mut(a.severity as usize) {
                *total = total.saturating_sub(1);
            }
            same
        });
    }
}

/// One line for each finding, for logs and error chains: `file:line:column: error[TGnnn] message`. No
/// line break at the end.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, finding) in self.diagnostics.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "{}: {}[{}] {}",
                self.sources.describe(finding.place),
                finding.severity.name(),
                finding.code,
                finding.on_one_line()
            )?;
        }
        let hidden = self.hidden();
        if hidden > 0 {
            write!(f, "\nand {hidden} more")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
