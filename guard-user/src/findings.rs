//! Findings as text: with their source, carets and help.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::{
    policy::syntax::{
        diagnostic::{Diagnostic, Location, Report, Severity, Source, Sources},
        text,
    },
    text::{shown_path, shown_text},
};

/// Maximum length of a line that is shown, in bytes.
const MAX_LINE: usize = 2000;
/// Maximum distance in bytes between places of one file that are shown in one excerpt.
const MAX_EXCERPT_BYTES: usize = 20_000;

/// Formats the findings, with an empty line after each.
pub fn render(findings: &Report, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for finding in &findings.diagnostics {
        let piece = one(&renderer, &findings.sources, finding);
        // Writing to a string does not fail.
        let _ = writeln!(out, "{piece}\n");
    }
    out
}

/// Formats the findings with their source and the number of hidden ones, without colour and without a
/// line break at the end.
pub fn explained(findings: &Report) -> String {
    let mut text = render(findings, false);
    let hidden = findings.hidden();
    if hidden > 0 {
        // Writing to a string does not fail.
        let _ = writeln!(text, "and {hidden} more, not shown");
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

/// An excerpt of a source, in which characters that a terminal would interpret are replaced.
struct Excerpt {
    text: String,
    first_line: usize,
    /// Byte offsets of the spans in `text`.
    spans: Vec<(usize, usize)>,
}

impl Excerpt {
    /// Cuts the lines that contain the spans. None if one of the lines is too long.
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

/// Returns the byte range of a place, up to the end of its first line.
fn on_one_line(source: &Source, place: Location) -> (usize, usize) {
    let text = &*source.text;
    let start = (place.span.start as usize).min(text.len());
    let end = (place.span.end as usize).clamp(start, text.len());
    let within = text.get(start..end).unwrap_or_default();
    let line = within.find(['\n', '\r']).map_or(end, |at| start + at);
    (start, line)
}

fn one(renderer: &Renderer, sources: &Sources, finding: &Diagnostic) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Info => Level::INFO,
    };
    let title = level.primary_title(shown_text(&finding.message)).id(finding.code.to_string());
    let mut group = Group::with_title(title);
    // Places that fit into one excerpt with the primary place.
    let (near, far): (Vec<_>, Vec<_>) = finding.related.iter().partition(|(place, _)| {
        let distance = place.span.start.abs_diff(finding.place.span.start) as usize;
        place.file == finding.place.file && distance <= MAX_EXCERPT_BYTES
    });
    group = show(group, sources, finding.place, None, &near);
    for (place, label) in far {
        group = show(group, sources, *place, Some(label), &[]);
    }
    let mut groups = vec![group];
    if let Some(help) = &finding.help {
        groups.push(Group::with_title(Level::HELP.secondary_title(shown_text(help))));
    }
    renderer.render(&groups)
}

/// Adds an excerpt with a place, and with further places near it in the same file.
fn show<'a>(
    group: Group<'a>,
    sources: &Sources,
    place: Location,
    label: Option<&String>,
    near: &[&(Location, String)],
) -> Group<'a> {
    let Some(source) = sources.get(place.file) else {
        return group;
    };
    let path = shown_path(&source.path);
    let places = std::iter::once(place).chain(near.iter().map(|(place, _)| *place));
    let spans: Vec<(usize, usize)> = places.map(|place| on_one_line(source, place)).collect();
    let Some(piece) = Excerpt::cut(source, &spans).filter(|_| !source.text.is_empty()) else {
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
            Some(label) => annotation.label(shown_text(label)),
            None => annotation,
        });
    }
    group.element(snippet)
}
