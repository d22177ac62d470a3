//! Findings as SARIF 2.1.0, for code scanning and editors.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{json_text, title_of};
use crate::policy::{
    compile::hash::hexadecimal,
    syntax::{
        diagnostic::{Diagnostic, FileId, Location, Report, Severity, Sources},
        rules::Code,
    },
};

/// The JSON Schema of the document.
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json";
/// Repository of the tool.
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Formats the findings as SARIF. Paths below `root` are relative to it.
pub fn render(findings: &Report, root: &Path) -> String {
    let codes: BTreeSet<Code> = findings.diagnostics.iter().map(|f| f.code).collect();
    let indices: BTreeMap<Code, usize> =
        codes.iter().enumerate().map(|(index, code)| (*code, index)).collect();
    let mut seen = BTreeMap::new();
    let results: Vec<Value> = findings
        .diagnostics
        .iter()
        .map(|finding| {
            let fingerprint = fingerprint(&findings.sources, finding, &mut seen);
            let related = finding.related.iter().enumerate().map(|(id, (place, label))| {
                let mut location = location(&findings.sources, *place, root);
                if let Value::Object(location) = &mut location {
                    location.insert("id".to_owned(), id.into());
                    location.insert("message".to_owned(), json!({ "text": label }));
                }
                location
            });
            let mut text = finding.message.clone();
            if let Some(help) = &finding.help {
                text.push_str("\nhelp: ");
                text.push_str(help);
            }
            json!({
                "ruleId": finding.code.to_string(),
                "ruleIndex": indices.get(&finding.code),
                "level": level(finding.severity),
                "message": { "text": text },
                "locations": [location(&findings.sources, finding.place, root)],
                "relatedLocations": related.collect::<Vec<_>>(),
                "partialFingerprints": { "primaryLocationLineHash": fingerprint },
            })
        })
        .collect();
    let mut notifications = Vec::new();
    let hidden = findings.hidden();
    if hidden > 0 {
        let text = format!("and {hidden} more, not shown");
        notifications.push(json!({ "level": "note", "message": { "text": text } }));
    }
    json_text(&json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "trainguard",
                "version": VERSION,
                "semanticVersion": VERSION,
                "informationUri": REPOSITORY,
                "rules": codes.iter().map(|code| rule(*code)).collect::<Vec<_>>(),
            }},
            "invocations": [{
                "executionSuccessful": !findings.unreadable,
                "toolExecutionNotifications": notifications,
            }],
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    }))
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

fn rule(code: Code) -> Value {
    let title = title_of(code);
    let family = match code.0 / 100 {
        0 => "the YAML dialect: values that YAML parsers read differently",
        1 => "the structure of a document: its fields and the format of their values",
        2 => "the meaning of a document",
        3 => "lock-out: hosts that could no longer reach a node",
        4 => "the cluster as a whole",
        5 => "capacity: the limits of the tables in the kernel",
        _ => "hygiene: the state of the files",
    };
    json!({
        "id": code.to_string(),
        "shortDescription": { "text": title },
        "fullDescription": { "text": format!("{title}. A rule of {family}.") },
        "helpUri": REPOSITORY,
    })
}

fn location(sources: &Sources, place: Location, root: &Path) -> Value {
    let at = sources.position(place);
    let uri = sources.get(place.file).map(|source| uri(&source.path, root));
    json!({
        "physicalLocation": {
            "artifactLocation": { "uri": uri.unwrap_or_default() },
            "region": {
                "startLine": at.line,
                "startColumn": at.column,
                "endLine": at.end_line,
                "endColumn": at.end_column,
            },
        },
    })
}

/// Formats a path as a URI reference: relative below `root`, otherwise absolute.
fn uri(path: &Path, root: &Path) -> String {
    // Everything except unreserved characters (RFC 3986, 2.3).
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let path = path.strip_prefix(root).unwrap_or(path);
    let mut uri = String::new();
    for part in path.components() {
        match part {
            Component::RootDir => uri.push_str("file:///"),
            Component::CurDir => {}
            part => {
                if !uri.is_empty() && !uri.ends_with('/') {
                    uri.push('/');
                }
                let bytes = part.as_os_str().as_encoded_bytes();
                uri.extend(percent_encode(bytes, ESCAPED));
            }
        }
    }
    uri
}

/// Returns a fingerprint that is stable when the finding moves to another line: a hash of the rule,
/// the text of the line, and a counter for equal findings in the file.
fn fingerprint<'r>(
    sources: &'r Sources,
    finding: &Diagnostic,
    seen: &mut BTreeMap<(FileId, Code, &'r str), u64>,
) -> String {
    let line = sources.get(finding.place.file).map_or("", |source| {
        let text = &*source.text;
        let start = (finding.place.span.start as usize).min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let first = before.rfind('\n').map_or(0, |at| at + 1);
        text.get(first..).and_then(|rest| rest.lines().next()).unwrap_or_default().trim()
    });

    let number = seen.entry((finding.place.file, finding.code, line)).or_default();
    *number += 1;
    hexadecimal(&Sha256::digest(format!("{}\n{line}\n{number}", finding.code)))
}
