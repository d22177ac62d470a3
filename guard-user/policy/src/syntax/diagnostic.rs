//! Findings as data: a code, a severity, a message, and the places that it is about. Nothing here
//! prints; `guard_user::report` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::rules::Code;

pub use super::source_map::{FileId, Location, Position, Source, Sources, Span};

/// Findings of one file that are kept; further ones are only counted.
pub const MAX_SHOWN_PER_FILE: usize = 100;

/// How bad a finding is, mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Probably not what is meant; the policy loads.
    Warning,
    /// The policy does not load.
    Error,
}

impl Severity {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Location,
}

impl<T> At<T> {
    /// A value at a place.
    pub fn new(value: T, place: Location) -> Self {
        Self { value, place }
    }
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Which rule.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// What was found, and what was expected.
    pub message: String,
    /// Where.
    pub place: Location,
    /// Further places, each with what it has to do with it.
    pub related: Vec<(Location, String)>,
    /// What to do.
    pub help: Option<String>,
    /// What can be done without asking: the documents mean the same afterwards, or what they were
    /// sure to mean.
    pub fix: Vec<Edit>,
}

/// A change of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced.
    pub place: Location,
    /// What takes its place.
    pub text: String,
}

impl Diagnostic {
    /// A finding without further places and help.
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

    /// An error.
    pub fn error(code: Code, place: Location, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, place, message)
    }

    /// A warning.
    pub fn warning(code: Code, place: Location, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, place, message)
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds what can be done without asking: this text in place of those bytes.
    #[must_use]
    pub fn fix(mut self, place: Location, text: impl Into<String>) -> Self {
        self.fix.push(Edit { place, text: text.into() });
        self
    }

    /// What was found and what to do, on one line.
    pub fn on_one_line(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {}", self.message, help.replace('\n', " ")),
            None => self.message.clone(),
        }
    }

    /// Adds a further place.
    #[must_use]
    pub fn related(mut self, place: Location, label: impl Into<String>) -> Self {
        self.related.push((place, label.into()));
        self
    }
}

/// All that is not to be told.
#[derive(Debug, Clone, Default)]
pub struct Ignores {
    pub(crate) files: BTreeMap<FileId, Vec<Ignore>>,
    /// Rules that the caller allows wherever they are broken.
    allowed: BTreeSet<Code>,
    covered: usize,
}

/// A rule that a comment silences.
#[derive(Debug, Clone)]
pub(crate) struct Ignore {
    pub(crate) code: Code,
    /// The comment, or the code in it.
    pub(crate) place: Location,
    /// Bytes on which a finding must begin.
    pub(crate) within: Span,
    pub(crate) used: bool,
    /// What goes when nothing is left to silence: the comment with the blanks before it.
    pub(crate) removal: Option<Span>,
}

impl Ignores {
    /// Silences rules everywhere: the caller has said so.
    pub(crate) fn allow(&mut self, codes: impl IntoIterator<Item = Code>) {
        self.allowed.extend(codes);
    }

    /// How many findings were silenced.
    pub(crate) fn covered(&self) -> usize {
        self.covered
    }

    /// Whether a finding is silenced; counts it if so.
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

/// Findings, and the texts that they point into.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The findings, by file and place once [`Report::finish`] has run.
    pub diagnostics: Vec<Diagnostic>,
    /// The texts.
    pub sources: Sources,
    /// Whether a file could not be read.
    pub unreadable: bool,
    /// Findings of each severity, the ones that are not kept included.
    totals: [usize; 3],
    /// Findings kept, by file.
    kept: BTreeMap<FileId, usize>,
    /// Files with errors.
    broken: BTreeSet<FileId>,
    /// What is not to be told.
    pub(crate) ignores: Ignores,
}

impl Report {
    /// Adds a finding, unless it is ignored; only counts it if its file has enough of them.
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

    /// Whether a further finding of a file is only counted.
    pub(crate) fn is_full(&self, file: FileId) -> bool {
        self.kept.get(&file).is_some_and(|kept| *kept >= MAX_SHOWN_PER_FILE)
    }

    /// Adds the findings of another report about the same texts.
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

    /// Findings of a severity, the ones that are not kept included.
    pub fn count(&self, severity: Severity) -> usize {
        self.totals.get(severity as usize).copied().unwrap_or(0)
    }

    /// Findings that a comment or a flag silences.
    pub fn ignored(&self) -> usize {
        self.ignores.covered()
    }

    /// Findings that [`crate::lint::fix`] can mend.
    pub fn fixable(&self) -> usize {
        self.diagnostics.iter().filter(|finding| !finding.fix.is_empty()).count()
    }

    /// Findings that are only counted.
    pub fn hidden(&self) -> usize {
        let all: usize = self.totals.iter().sum();
        all.saturating_sub(self.diagnostics.len())
    }

    /// Whether there is an error in a file.
    pub(crate) fn is_broken(&self, file: FileId) -> bool {
        self.broken.contains(&file)
    }

    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Sorts the findings by place and removes repeated ones.
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

/// One line for each finding: `file:line:column: error[TGnnn] message`, without line break at
/// the end. For logs and error chains.
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
