//! Lint findings: with their source, one line each, or as JSON.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::json;

use crate::{
    cli::LintFormat,
    policy::{
        diagnostic::{Diagnostic, Place, Report, Severity, Source, Sources},
        text,
    },
    report,
};

/// Lines longer than this many bytes are not shown.
const MAX_LINE: usize = 2000;
/// Places of one file this many bytes apart are shown in one piece.
const MAX_PIECE: usize = 20_000;

/// A path as it may be shown on a terminal.
pub fn shown_path(path: &Path) -> String {
    let escape = |c: char| {
        if c.is_control() || text::is_forbidden(c) {
            c.escape_unicode().to_string()
        } else {
            c.to_string()
        }
    };
    path.to_string_lossy().chars().map(escape).collect()
}

/// Prints the findings on standard output and a summary on standard error.
pub fn print(findings: &Report, files: usize, format: LintFormat) {
    match format {
        LintFormat::Json => {
            report::answer(json(findings, files));
        }
        LintFormat::Concise => {
            for finding in &findings.diagnostics {
                if !report::answer(concise(&findings.sources, finding)) {
                    return;
                }
            }
        }
        LintFormat::Full => {
            let colour = io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
            for finding in &findings.diagnostics {
                let piece = full(&renderer, &findings.sources, finding);
                if !report::answer(format_args!("{piece}\n")) {
                    return;
                }
            }
        }
    }
    let hidden = findings.hidden();
    if hidden > 0 {
        report::talk(format_args!("and {hidden} more, not shown"));
    }
    report::talk(summary(findings, files));
}

/// Shows the findings with their source on standard error, for verbs that have another answer.
pub fn explain(findings: &Report) {
    let renderer = Renderer::plain();
    for finding in &findings.diagnostics {
        report::talk(format_args!("{}\n", full(&renderer, &findings.sources, finding)));
    }
    let hidden = findings.hidden();
    if hidden > 0 {
        report::talk(format_args!("and {hidden} more, not shown"));
    }
}

fn summary(findings: &Report, files: usize) -> String {
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "checked {}: {}, {}, {} info",
        counted(files, "file"),
        counted(findings.count(Severity::Error), "error"),
        counted(findings.count(Severity::Warning), "warning"),
        findings.count(Severity::Info),
    )
}

fn concise(sources: &Sources, finding: &Diagnostic) -> String {
    let at = sources.position(finding.place);
    let path = sources.get(finding.place.file).map(|s| shown_path(&s.path));
    format!(
        "{}:{}:{}: {}[{}] {}",
        path.unwrap_or_default(),
        at.line,
        at.column,
        finding.severity.name(),
        finding.code,
        finding.on_one_line()
    )
}

fn json(findings: &Report, files: usize) -> String {
    let all: Vec<serde_json::Value> = findings
        .diagnostics
        .iter()
        .map(|finding| {
            let sources = &findings.sources;
            let at = sources.position(finding.place);
            let file = sources.get(finding.place.file);
            json!({
                "code": finding.code.to_string(),
                "severity": finding.severity.name(),
                "message": finding.message,
                "file": file.map(|source| source.path.to_string_lossy()),
                "line": at.line,
                "column": at.column,
                "end_line": at.end_line,
                "end_column": at.end_column,
                "help": finding.help,
            })
        })
        .collect();
    let document = json!({
        "schema": "trainguard.lint/v1",
        "findings": all,
        "summary": {
            "errors": findings.count(Severity::Error),
            "warnings": findings.count(Severity::Warning),
            "infos": findings.count(Severity::Info),
            "files": files,
        },
    });
    format!("{document:#}")
}

/// A part of a source, without characters that a terminal would act on.
struct Piece {
    text: String,
    first_line: usize,
    /// Where the spans are in `text`.
    spans: Vec<(usize, usize)>,
}

impl Piece {
    /// The lines that hold the spans. None if one of them is too long to show.
    fn cut(source: &Source, spans: &[(usize, usize)]) -> Option<Self> {
        let text = &*source.text;
        let start = spans.iter().map(|(start, _)| *start).min()?;
        let end = spans.iter().map(|(_, end)| *end).max()?;
        let first = text.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
        let last = text.get(end..)?.find('\n').map_or(text.len(), |at| end + at);
        let cut = text.get(first..last)?;
        if cut.lines().any(|line| line.len() > MAX_LINE) {
            return None;
        }
        let mut clean = String::with_capacity(cut.len());
        let mut moved: Vec<(usize, usize)> = vec![(0, 0); spans.len()];
        let mut note = |at: usize, now: usize| {
            for (old, new) in spans.iter().zip(&mut moved) {
                if old.0 == at {
                    new.0 = now;
                }
                if old.1 == at {
                    new.1 = now;
                }
            }
        };
        for (at, character) in cut.char_indices() {
            note(first + at, clean.len());
            let harmful = text::is_forbidden(character) && character != '\n';
            clean.push(if harmful { char::REPLACEMENT_CHARACTER } else { character });
        }
        note(last, clean.len());
        let before = text.get(..first)?;
        Some(Self {
            text: clean,
            first_line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            spans: moved,
        })
    }
}

/// The bytes of a place, of its first line only.
fn on_one_line(source: &Source, place: Place) -> (usize, usize) {
    let text = &*source.text;
    let start = (place.span.start as usize).min(text.len());
    let end = (place.span.end as usize).clamp(start, text.len());
    let within = text.get(start..end).unwrap_or_default();
    let line = within.find(['\n', '\r']).map_or(end, |at| start + at);
    (start, line)
}

fn full(renderer: &Renderer, sources: &Sources, finding: &Diagnostic) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Info => Level::INFO,
    };
    let title = level.primary_title(finding.message.clone()).id(finding.code.to_string());
    let mut group = Group::with_title(title);
    // What can be shown with the primary place in one piece.
    let (near, far): (Vec<_>, Vec<_>) = finding.related.iter().partition(|(place, _)| {
        let distance = place.span.start.abs_diff(finding.place.span.start) as usize;
        place.file == finding.place.file && distance <= MAX_PIECE
    });
    group = show(group, sources, finding.place, None, &near);
    for (place, label) in far {
        group = show(group, sources, *place, Some(label), &[]);
    }
    let mut groups = vec![group];
    if let Some(help) = &finding.help {
        groups.push(Group::with_title(Level::HELP.secondary_title(help.clone())));
    }
    renderer.render(&groups)
}

/// Adds a place, with further ones of the same file near it.
fn show<'a>(
    group: Group<'a>,
    sources: &Sources,
    place: Place,
    label: Option<&String>,
    near: &[&(Place, String)],
) -> Group<'a> {
    let Some(source) = sources.get(place.file) else {
        return group;
    };
    let path = shown_path(&source.path);
    let places = std::iter::once(place).chain(near.iter().map(|(place, _)| *place));
    let spans: Vec<(usize, usize)> = places.map(|place| on_one_line(source, place)).collect();
    let Some(piece) = Piece::cut(source, &spans).filter(|_| !source.text.is_empty()) else {
        let at = sources.position(place);
        return group.element(Origin::path(path).line(at.line).char_column(at.column));
    };
    let labels = std::iter::once(label).chain(near.iter().map(|(_, label)| Some(label)));
    let mut snippet =
        Snippet::source(piece.text).line_start(piece.first_line).path(path).fold(true);
    for (number, ((start, end), label)) in piece.spans.iter().zip(labels).enumerate() {
        let primary = number == 0 && label.is_none();
        let kind = if primary { AnnotationKind::Primary } else { AnnotationKind::Context };
        let annotation = kind.span(*start..*end);
        snippet = snippet.annotation(match label {
            Some(label) => annotation.label(label.clone()),
            None => annotation,
        });
    }
    group.element(snippet)
}
