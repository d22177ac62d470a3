//! Annotations of GitHub Actions, and the summary of a step. The runner reads commands from what a
//! step prints, and shows ten annotations of each severity for a step.

use std::{
    env,
    fmt::Write as _,
    fs::File,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, Write as _},
};

use super::summary;
use crate::{
    policy::syntax::{
        diagnostic::{Diagnostic, Report, Severity, Sources},
        text,
    },
    text::{shown_path, shown_text},
};

/// Annotations of each severity that the runner shows for a step.
const MAX_SHOWN: usize = 10;
/// Findings in the summary of a step, which may have 1 MiB.
const MAX_ROWS: usize = 200;

/// Whether this runs in a workflow.
pub(super) fn is_runner() -> bool {
    env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// All findings as annotations.
pub fn render(findings: &Report) -> String {
    let mut out: String =
        findings.diagnostics.iter().map(|f| command(&findings.sources, f)).collect();
    let hidden = findings.hidden();
    if hidden > 0 {
        // Writing to a string does not fail.
        let _ = writeln!(out, "::notice title=trainguard::and {hidden} more, not shown");
    }
    out
}

/// As many annotations of each severity as are shown; the rest is counted.
pub fn annotations(findings: &Report) -> String {
    let mut out = String::new();
    for severity in [Severity::Error, Severity::Warning, Severity::Info] {
        let of_severity = findings.diagnostics.iter().filter(|f| f.severity == severity);
        out.extend(of_severity.take(MAX_SHOWN).map(|f| command(&findings.sources, f)));
        let rest = findings.count(severity).saturating_sub(MAX_SHOWN);
        if rest > 0 {
            let name = severity.name();
            let _ = writeln!(out, "{rest} more of severity {name} without annotation");
        }
    }
    out
}

fn command(sources: &Sources, finding: &Diagnostic) -> String {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "notice",
    };
    let at = sources.position(finding.place);
    let path = sources.get(finding.place.file).map(|source| shown_path(&source.path));
    let mut message = finding.message.clone();
    if let Some(help) = &finding.help {
        message.push_str("\nhelp: ");
        message.push_str(help);
    }
    format!(
        "::{level} file={},line={},col={},endLine={},endColumn={},title={}::{}\n",
        property(&path.unwrap_or_default()),
        at.line,
        at.column,
        at.end_line,
        at.end_column,
        property(&finding.code.to_string()),
        data(&message),
    )
}

/// A message of a command. Line breaks stay line breaks, other controls are shown as escapes.
fn data(message: &str) -> String {
    let mut escaped = String::with_capacity(message.len());
    for character in message.chars() {
        match character {
            '%' => escaped.push_str("%25"),
            '\r' => escaped.push_str("%0D"),
            '\n' => escaped.push_str("%0A"),
            c if c.is_control() || text::is_forbidden(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A property of a command.
fn property(value: &str) -> String {
    data(value).replace(':', "%3A").replace(',', "%2C")
}

/// A text that shows parts of files, so that the runner takes nothing in it for a command: a
/// policy of a stranger's pull request must not be able to give any.
pub(super) fn inert(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    // Seeded by the system: a file cannot hold the word that ends this.
    let word = RandomState::new().build_hasher().finish();
    let end = format!("::trainguard-{word:016x}::\n");
    format!("::stop-commands::trainguard-{word:016x}\n{text}{end}")
}

/// Adds the findings to the summary of the step, if there is one.
///
/// # Errors
/// The file of the summary cannot be written.
pub fn append_summary(findings: &Report, files: usize) -> io::Result<()> {
    let path = env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty());
    match path {
        Some(path) if is_runner() => {
            let mut file = File::options().append(true).create(true).open(path)?;
            file.write_all(markdown(findings, files).as_bytes())
        }
        _ => Ok(()),
    }
}

/// The findings as a table in Markdown.
pub fn markdown(findings: &Report, files: usize) -> String {
    let mut out = format!("### trainguard lint\n\n{}\n", summary(findings, files));
    if findings.diagnostics.is_empty() {
        return out;
    }
    out.push_str("\n| severity | rule | place | finding |\n| --- | --- | --- | --- |\n");
    for finding in findings.diagnostics.iter().take(MAX_ROWS) {
        let place = findings.sources.describe(finding.place);
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            finding.severity.name(),
            finding.code,
            cell(&place),
            cell(&finding.on_one_line())
        );
    }
    let all: usize = [Severity::Error, Severity::Warning, Severity::Info]
        .map(|severity| findings.count(severity))
        .iter()
        .sum();
    let rest = all.saturating_sub(findings.diagnostics.len().min(MAX_ROWS));
    if rest > 0 {
        let _ = writeln!(out, "\nand {rest} more, not shown");
    }
    out
}

/// A text in a table: nothing in it is markup.
fn cell(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in shown_text(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c if c.is_ascii_punctuation() => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}
