//! Texts, and locations in them.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Bytes of a source, from `start` up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// Makes a span from byte offsets. Sources are far shorter than 4 GiB.
    pub fn new(start: usize, end: usize) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { start: narrow(start), end: narrow(end.max(start)) }
    }
}

/// Index of a source in its [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// A location in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The source.
    pub file: FileId,
    /// The bytes of the source.
    pub span: Span,
}

/// A location as lines and columns, counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line of the first character.
    pub line: usize,
    /// Column of the first character.
    pub column: usize,
    /// Line of the end of the location.
    pub end_line: usize,
    /// Column one past the last character.
    pub end_column: usize,
}

/// A text that findings refer to.
#[derive(Debug, Clone)]
pub struct Source {
    /// The path as given, or another name for display.
    pub path: PathBuf,
    /// The text. Bytes that are not UTF-8 are replaced.
    pub text: Arc<str>,
    lines: OnceLock<Vec<usize>>,
}

impl Source {
    fn line_starts(&self) -> &[usize] {
        self.lines.get_or_init(|| {
            let breaks = self.text.bytes().enumerate();
            std::iter::once(0)
                .chain(breaks.filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1))
                .collect()
        })
    }

    fn line_and_column(&self, at: u32) -> (usize, usize) {
        let at = (at as usize).min(self.text.len());
        let starts = self.line_starts();
        let line = starts.partition_point(|start| *start <= at).max(1);
        let start = starts.get(line - 1).copied().unwrap_or(0);
        let bytes = self.text.as_bytes().get(start..at).unwrap_or_default();
        // UTF-8 continuation bytes do not begin a character.
        let column = bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
        (line, column)
    }
}

/// The texts that findings refer to, numbered in the order in which they are added.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a text and returns its number.
    pub fn add(&mut self, path: &Path, text: Arc<str>) -> FileId {
        let id = FileId(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.push(Source { path: path.to_owned(), text, lines: OnceLock::new() });
        id
    }

    /// Returns a text by its number.
    pub fn get(&self, file: FileId) -> Option<&Source> {
        self.0.get(file.0 as usize)
    }

    /// Iterates over all texts with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &Source)> {
        (0..).map(FileId).zip(&self.0)
    }

    /// Returns the lines and columns of a location, for display. An unknown source gives line 1, column
    /// 1.
    pub fn position(&self, place: Location) -> Position {
        let Some(source) = self.get(place.file) else {
            return Position { line: 1, column: 1, end_line: 1, end_column: 1 };
        };
        let (line, column) = source.line_and_column(place.span.start);
        let (end_line, end_column) = source.line_and_column(place.span.end);
        Position { line, column, end_line, end_column }
    }

    /// Formats a location as `file:line:column`.
    pub fn describe(&self, place: Location) -> String {
        let position = self.position(place);
        let path = self.get(place.file).map(|s| s.path.display().to_string());
        format!("{}:{}:{}", path.unwrap_or_default(), position.line, position.column)
    }
}
