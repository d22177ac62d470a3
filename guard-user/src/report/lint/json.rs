//! Findings as one JSON document, in trainguard's own schema.

use serde_json::{Value, json};

use super::json_text;
use crate::policy::syntax::diagnostic::{Location, Report, Severity};

/// Value of the field `schema` of the document.
pub const SCHEMA: &str = "trainguard/lint/v1";

/// Formats the findings as a JSON document; `files` is the number of checked files.
pub fn render(findings: &Report, files: usize) -> String {
    let file = |place: Location| {
        findings.sources.get(place.file).map(|source| source.path.to_string_lossy().into_owned())
    };
    let all: Vec<Value> = findings
        .diagnostics
        .iter()
        .map(|finding| {
            let at = findings.sources.position(finding.place);
            let related: Vec<Value> = finding
                .related
                .iter()
                .map(|(place, label)| {
                    let at = findings.sources.position(*place);
                    json!({
                        "file": file(*place),
                        "line": at.line,
                        "column": at.column,
                        "message": label,
                    })
                })
                .collect();
            json!({
                "code": finding.code.to_string(),
                "severity": finding.severity.name(),
                "message": finding.message,
                "file": file(finding.place),
                "line": at.line,
                "column": at.column,
                "end_line": at.end_line,
                "end_column": at.end_column,
                "help": finding.help,
                "related": related,
                "fixable": !finding.fix.is_empty(),
            })
        })
        .collect();
    json_text(&json!({
        "schema": SCHEMA,
        "findings": all,
        "summary": {
            "errors": findings.count(Severity::Error),
            "warnings": findings.count(Severity::Warning),
            "infos": findings.count(Severity::Info),
            "files": files,
            "silenced": findings.ignored(),
        },
    }))
}
