//! Annotations and step summaries for GitHub Actions. The runner reads commands from the output of
//! a step, and shows at most ten annotations of each severity per step.

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

/// Maximum number of annotations of each severity that the runner shows per step.
const MAX_SHOWN: usize = 10;
/// Maximum number of findings in a step summary, whose size is limited to 1 MiB.
const MAX_ROWS: usize = 200;

/// Reports whether this process runs in a workflow.
pub(super) fn is_runner() -> bool {
    env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// Formats all findings as annotations.
pub fn render(findings: &Report) -> String {
    let mut out: String =
        findings.diagnostics.iter().map(|f| command(&findings.sources, f)).collect();
    let hidden = findings.hidden();
    if hidden > 0 {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "::notice title=trainguard::and {hidden} more, not shown");
    }
    out
}

/// Formats as many annotations of each severity as the runner shows, and counts the rest.
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

/// Escapes the message of a command. Line breaks are kept; other control characters are escaped.
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

/// Escapes a property of a command.
fn property(value: &str) -> String {
    data(value).replace(':', "%3A").replace(',', "%2C")
}

/// Wraps a text so that the runner does not interpret it. Without this, a policy in a pull request
/// could inject workflow commands.
pub(super) fn inert(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    // The hasher is seeded randomly, so a file cannot contain the word that ends the block.
    let word = RandomState::new().build_hasher().finish();
    let end = format!("::trainguard-{word:016x}::\n");
    format!("::stop-commands::trainguard-{word:016x}\n{text}{end}")
}

/// Appends the findings to the step summary, if there is one.
///
/// # Errors
/// The summary file cannot be opened or written.
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

/// Formats the findings as a Markdown table.
pub fn markdown(findings: &Report, files: usize) -> String {
    let mut out = format!("### trainguard lint\n\n{}\n", summary(findings, files));
    if findings.diagnostics.is_empty() {
        return out;
    }
    out.push_str("\n| severity | rule | place | finding |\n| --- | --- | --- | --- |\n");
    for finding in findings.diagnostics.iter().take(MAX_ROWS) {
        let place = findings.sources.describe(finding.place);
        // Writing to a `String` cannot fail.
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

/// Escapes a text for a table cell, so that nothing in it is markup.
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
