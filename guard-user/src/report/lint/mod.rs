//! Lint findings in every output format. Each format is a function from findings to text; only
//! [`print()`], [`explain()`] and [`refuse()`] print.

pub mod concise;
pub mod fixes;
pub mod github;
pub mod json;
pub mod junit;
pub mod sarif;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use clap::ValueEnum;

use crate::{
    explain,
    findings::{self, explained},
    output,
    policy::syntax::{
        diagnostic::{Report, Severity},
        rules::Code,
        text,
    },
    text::{counted, shown_path},
};

/// Format of lint findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(clippy::doc_markdown, reason = "clap shows these comments as they are")]
pub enum LintFormat {
    /// With the source, carets and help
    Full,
    /// One line per finding
    Concise,
    /// One JSON document
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// Annotations of GitHub Actions
    Github,
    /// JUnit XML, a test case for each finding
    Junit,
}

/// The findings of one run of `lint`.
#[derive(Debug)]
pub struct Findings<'r> {
    /// The findings.
    pub report: &'r Report,
    /// Number of checked files.
    pub files: usize,
    /// Files that were examined, but are not trainguard documents.
    pub foreign: &'r [PathBuf],
    /// Lowest severity that counts as a failure; none if findings never fail.
    pub threshold: Option<Severity>,
    /// The directory that paths in machine-readable forms are relative to.
    pub root: &'r Path,
}

impl Findings<'_> {
    /// Formats the findings, with a line break at the end; empty if there is nothing to report.
    pub fn render(&self, format: LintFormat, colour: bool) -> String {
        match format {
            LintFormat::Full => findings::render(self.report, colour),
            LintFormat::Concise => concise::render(self.report),
            LintFormat::Json => json::render(self.report, self.files),
            LintFormat::Sarif => sarif::render(self.report, self.root),
            LintFormat::Github => github::render(self.report),
            LintFormat::Junit => junit::render(self.report, self.foreign, self.threshold),
        }
    }

    /// Reports whether there are findings at or above the threshold.
    pub fn fail(&self) -> bool {
        [Severity::Info, Severity::Warning, Severity::Error]
            .into_iter()
            .any(|severity| self.is_failure(severity) && self.report.count(severity) > 0)
    }

    fn is_failure(&self, severity: Severity) -> bool {
        self.threshold.is_some_and(|threshold| severity >= threshold)
    }
}

/// Returns the title of a rule, as in `explain`.
pub fn title_of(code: Code) -> String {
    let name = code.to_string();
    explain::title(&name).map_or_else(|| format!("rule {name}"), str::to_owned)
}

/// Returns the escaped file name of a position.
fn file_of(findings: &Report, place: crate::policy::syntax::diagnostic::Location) -> String {
    findings.sources.get(place.file).map(|source| shown_path(&source.path)).unwrap_or_default()
}

/// Formats a JSON document without characters that move a cursor or reorder text. The document
/// keeps its meaning: JSON is ASCII outside strings, and any character in a string may be escaped.
fn json_text(document: &serde_json::Value) -> String {
    let text = format!("{document:#}\n");
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character != '\n' && (character.is_control() || text::is_forbidden(character)) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a `String` cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Prints the findings on standard output and a summary on standard error.
pub fn print(findings: &Findings<'_>, format: LintFormat) {
    let colour = io::stdout().is_terminal() && output::allows_colour();
    let text = findings.render(format, colour);
    let annotated = format == LintFormat::Full && github::is_runner();
    let answer = if annotated { github::inert(&text) } else { text };
    // `answer` adds the last line break.
    if answer.strip_suffix('\n').is_some_and(|answer| !output::answer(answer)) {
        return;
    }
    if annotated {
        let annotations = github::annotations(findings.report);
        if !annotations.is_empty() {
            output::answer(annotations.trim_end_matches('\n'));
        }
    }
    let hidden = findings.report.hidden();
    if hidden > 0 {
        output::message(format_args!("and {hidden} more, not shown"));
    }
    output::message(summary(findings.report, findings.files));
    if let Some(first) = findings.report.diagnostics.first()
        && matches!(format, LintFormat::Full | LintFormat::Concise)
    {
        output::hint(format_args!(
            "run `trainguard explain {}` for details; every rule has such a page",
            first.code
        ));
    }
}

/// Prints the findings with their source on standard error, for subcommands with another output.
pub fn explain(findings: &Report) {
    output::message(explained(findings));
}

/// Prints the findings, and an error that the file cannot be used, for subcommands with another
/// output.
pub fn refuse(findings: &Report, path: &Path) {
    explain(findings);
    output::error(format_args!("`{}` cannot be used", shown_path(path)));
}

/// Summarizes the number of checked files and of findings.
pub fn summary(findings: &Report, files: usize) -> String {
    let mut text = format!(
        "checked {}: {}, {}, {} info",
        counted(files, "file"),
        counted(findings.count(Severity::Error), "error"),
        counted(findings.count(Severity::Warning), "warning"),
        findings.count(Severity::Info),
    );
    let ignored = findings.ignored();
    if ignored > 0 {
        let _ =
            write!(text, "; {} silenced (`--no-ignores` shows them)", counted(ignored, "finding"));
    }
    let fixable = findings.fixable();
    if fixable > 0 {
        let _ = write!(
            text,
            "; {} available (`--fix`)",
            if fixable == 1 { "1 fix".to_owned() } else { format!("{fixable} fixes") }
        );
    }
    text
}
