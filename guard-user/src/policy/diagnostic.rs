//! Findings as data: a code, a severity, a message, and the places that it is about. Nothing here
//! prints; [`crate::report`] does.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

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

/// Stable number of a rule, written `TGnnn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TG{:03}", self.0)
    }
}

/// The rules. `TG0xx` is the dialect, `TG1xx` the shape, `TG2xx` the meaning of a document,
/// `TG4xx` the cluster as a whole, `TG5xx` capacity.
pub mod code {
    use super::Code;

    /// Not YAML.
    pub const SYNTAX: Code = Code(1);
    /// A key twice in one mapping.
    pub const DUPLICATE_KEY: Code = Code(2);
    /// An anchor, an alias or a merge key.
    pub const ANCHOR: Code = Code(3);
    /// An explicit tag.
    pub const TAG: Code = Code(4);
    /// A character that hides or reorders text, or bytes that are no UTF-8.
    pub const CHARACTER: Code = Code(5);
    /// A scalar that YAML readers understand differently.
    pub const AMBIGUOUS: Code = Code(6);
    /// An empty document, or null.
    pub const NULL: Code = Code(7);
    /// More than one document, or a directive.
    pub const DOCUMENTS: Code = Code(8);
    /// Too big or nested too deep.
    pub const BUDGET: Code = Code(9);
    /// A file that cannot be read.
    pub const UNREADABLE: Code = Code(10);

    /// A field that does not exist.
    pub const UNKNOWN_FIELD: Code = Code(101);
    /// A field that must be written.
    pub const MISSING_FIELD: Code = Code(102);
    /// A prefix whose address has bits beyond its length.
    pub const HOST_BITS: Code = Code(103);
    /// Not an address or prefix.
    pub const ADDRESS: Code = Code(104);
    /// Not a port or range of ports.
    pub const PORT: Code = Code(105);
    /// Not an interface pattern.
    pub const INTERFACE: Code = Code(106);
    /// An `apiVersion` or `kind` that is not understood.
    pub const API_VERSION: Code = Code(107);
    /// A list where a mapping belongs, and the like.
    pub const TYPE: Code = Code(109);
    /// Not a name.
    pub const NAME: Code = Code(110);
    /// Not a rate or an amount, or out of range.
    pub const AMOUNT: Code = Code(111);
    /// Not one of the words that are possible.
    pub const CHOICE: Code = Code(112);
    /// Not a host list.
    pub const HOST_LIST: Code = Code(113);
    /// Not a path of a file.
    pub const PATH: Code = Code(114);

    /// A prefix that is everything.
    pub const EVERYTHING: Code = Code(201);
    /// Two fields that contradict each other.
    pub const CONTRADICTION: Code = Code(203);
    /// Something that never has an effect.
    pub const NEVER: Code = Code(204);
    /// A name twice.
    pub const DUPLICATE_NAME: Code = Code(205);
    /// An `allow` that allows nobody.
    pub const NOBODY: Code = Code(206);
    /// Two services that claim a port equally.
    pub const OVERLAP: Code = Code(207);
    /// A role or network that nothing uses.
    pub const UNUSED: Code = Code(208);
    /// All packets to ephemeral ports.
    pub const EPHEMERAL: Code = Code(209);
    /// A limit that stalls training.
    pub const PACKET_LIMIT: Code = Code(210);
    /// A limit too tight to be useful.
    pub const TIGHT_LIMIT: Code = Code(211);

    /// A node name twice.
    pub const DUPLICATE_NODE: Code = Code(401);
    /// An address that no node can have.
    pub const MARTIAN: Code = Code(402);
    /// An address twice.
    pub const DUPLICATE_ADDRESS: Code = Code(403);
    /// A file that the manifest names and that is not there.
    pub const MISSING_FILE: Code = Code(405);
    /// A role that no node has.
    pub const UNKNOWN_ROLE: Code = Code(407);
    /// A network that the manifest does not name.
    pub const UNKNOWN_NETWORK: Code = Code(408);
    /// A policy file that is named twice.
    pub const DUPLICATE_FILE: Code = Code(409);
    /// Host lists of different lengths.
    pub const COUNTS: Code = Code(410);
    /// A node without addresses.
    pub const NO_ADDRESS: Code = Code(411);
    /// A node that guards nothing.
    pub const UNGUARDED_NODE: Code = Code(412);

    /// More prefixes than fit.
    pub const PREFIXES: Code = Code(501);
    /// A host list that expands too far.
    pub const EXPANSION: Code = Code(502);
    /// More services than a node can run.
    pub const SERVICES: Code = Code(503);
    /// More limiter states than fit.
    pub const MEMBER_BUCKETS: Code = Code(504);
}

/// Bytes of a source, from `start` up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// A span of byte offsets. Sources are far shorter than 4 GiB.
    pub fn new(start: usize, end: usize) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            start: narrow(start),
            end: narrow(end.max(start)),
        }
    }
}

/// Number of a source in its [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// A place in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Which source.
    pub file: FileId,
    /// Which bytes of it.
    pub span: Span,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> At<T> {
    /// A value at a place.
    pub fn new(value: T, place: Place) -> Self {
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
    pub place: Place,
    /// Further places, each with what it has to do with it.
    pub related: Vec<(Place, String)>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A finding without further places and help.
    pub fn new(severity: Severity, code: Code, place: Place, message: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            message: message.into(),
            place,
            related: Vec::new(),
            help: None,
        }
    }

    /// An error.
    pub fn error(code: Code, place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, place, message)
    }

    /// A warning.
    pub fn warning(code: Code, place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, place, message)
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a further place.
    #[must_use]
    pub fn related(mut self, place: Place, label: impl Into<String>) -> Self {
        self.related.push((place, label.into()));
        self
    }
}

/// Position of a place, counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line of the first character.
    pub line: usize,
    /// Column of the first character.
    pub column: usize,
    /// Line of the end.
    pub end_line: usize,
    /// Column one past the last character.
    pub end_column: usize,
}

/// A text that findings point into.
#[derive(Debug, Clone)]
pub struct Source {
    /// What it is called: its path, as it was given.
    pub path: PathBuf,
    /// Its text; bytes that are no UTF-8 are replaced.
    pub text: Arc<str>,
    lines: OnceLock<Vec<usize>>,
}

impl Source {
    fn line_starts(&self) -> &[usize] {
        self.lines.get_or_init(|| {
            let breaks = self.text.bytes().enumerate();
            std::iter::once(0)
                .chain(
                    breaks
                        .filter(|(_, byte)| *byte == b'\n')
                        .map(|(at, _)| at + 1),
                )
                .collect()
        })
    }

    fn line_and_column(&self, at: u32) -> (usize, usize) {
        let at = (at as usize).min(self.text.len());
        let starts = self.line_starts();
        let line = starts.partition_point(|start| *start <= at).max(1);
        let start = starts.get(line - 1).copied().unwrap_or(0);
        let bytes = self.text.as_bytes().get(start..at).unwrap_or_default();
        // Characters are the bytes that do not continue one.
        let column = bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
        (line, column)
    }
}

/// The texts that findings point into.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a text.
    pub fn add(&mut self, path: &Path, text: Arc<str>) -> FileId {
        let id = FileId(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.push(Source {
            path: path.to_owned(),
            text,
            lines: OnceLock::new(),
        });
        id
    }

    /// A text.
    pub fn get(&self, file: FileId) -> Option<&Source> {
        self.0.get(file.0 as usize)
    }

    /// All texts.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &Source)> {
        (0..).map(FileId).zip(&self.0)
    }

    /// Where a place is, for people.
    pub fn position(&self, place: Place) -> Position {
        let Some(source) = self.get(place.file) else {
            return Position {
                line: 1,
                column: 1,
                end_line: 1,
                end_column: 1,
            };
        };
        let (line, column) = source.line_and_column(place.span.start);
        let (end_line, end_column) = source.line_and_column(place.span.end);
        Position {
            line,
            column,
            end_line,
            end_column,
        }
    }

    /// `file:line:column` of a place.
    pub fn describe(&self, place: Place) -> String {
        let position = self.position(place);
        let path = self.get(place.file).map(|s| s.path.display().to_string());
        format!(
            "{}:{}:{}",
            path.unwrap_or_default(),
            position.line,
            position.column
        )
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
}

impl Report {
    /// Adds a finding, or only counts it if its file has enough of them.
    pub fn push(&mut self, finding: Diagnostic) {
        if let Some(total) = self.totals.get_mut(finding.severity as usize) {
            *total += 1;
        }
        let kept = self.kept.entry(finding.place.file).or_default();
        if *kept < MAX_SHOWN_PER_FILE {
            *kept += 1;
            self.diagnostics.push(finding);
        }
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

    /// Findings that are only counted.
    pub fn hidden(&self) -> usize {
        let all: usize = self.totals.iter().sum();
        all.saturating_sub(self.diagnostics.len())
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
                finding.message
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
