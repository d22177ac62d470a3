//! One line for each finding: `file:line:column: severity[TGnnn] message`.

use std::fmt::Write as _;

use super::file_of;
use crate::{policy::syntax::diagnostic::Report, text::shown_text};

/// Formats the findings, one per line.
pub fn render(findings: &Report) -> String {
    let mut out = String::new();
    for finding in &findings.diagnostics {
        let at = findings.sources.position(finding.place);
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            out,
            "{}:{}:{}: {}[{}] {}",
            file_of(findings, finding.place),
            at.line,
            at.column,
            finding.severity.name(),
            finding.code,
            shown_text(&finding.on_one_line())
        );
    }
    out
}
