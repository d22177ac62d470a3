//! Findings as test results (`JUnit` XML): a suite for each file, a case for each finding, and one
//! passing case for each file without findings.

use std::{fmt::Write as _, path::PathBuf};

use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};

use crate::{
    policy::syntax::diagnostic::{Diagnostic, Report, Severity},
    text::{shown_path, shown_text},
};

/// Name of the document, and of the suite for findings that concern no single file.
const NAME: &str = "trainguard lint";

/// Formats the findings as `JUnit` XML. Findings below the threshold are skipped cases, which are
/// visible but do not fail.
pub fn render(findings: &Report, foreign: &[PathBuf], threshold: Option<Severity>) -> String {
    let fails = |severity: Severity| threshold.is_some_and(|threshold| severity >= threshold);
    let mut document = Document::new(NAME);
    for (file, source) in findings.sources.iter() {
        if foreign.contains(&source.path) {
            continue;
        }
        let path = clean(&shown_path(&source.path));
        let mut suite = TestSuite::new(&path);
        let of_file = findings.diagnostics.iter().filter(|f| f.place.file == file);
        suite.add_test_cases(of_file.map(|finding| case(findings, finding, &path, &fails)));
        if suite.test_cases.is_empty() {
            let mut passed = TestCase::new("no findings", TestCaseStatus::success());
            passed.set_classname(&path);
            suite.add_test_case(passed);
        }
        document.add_test_suite(suite);
    }
    let hidden = findings.hidden();
    if hidden > 0 {
        let mut status = if threshold.is_some() {
            TestCaseStatus::non_success(NonSuccessKind::Failure)
        } else {
            TestCaseStatus::skipped()
        };
        status.set_message(format!("and {hidden} more, not shown"));
        let mut suite = TestSuite::new(NAME);
        suite.add_test_case(TestCase::new("further findings", status));
        document.add_test_suite(suite);
    }
    // Writing to a `String` cannot fail, and all text is UTF-8.
    document.to_string().unwrap_or_default()
}

fn case(
    findings: &Report,
    finding: &Diagnostic,
    path: &str,
    fails: &impl Fn(Severity) -> bool,
) -> TestCase {
    let at = findings.sources.position(finding.place);
    let mut status = if fails(finding.severity) {
        TestCaseStatus::non_success(NonSuccessKind::Failure)
    } else {
        TestCaseStatus::skipped()
    };
    status.set_type(finding.severity.name());
    status.set_message(clean(&finding.message));
    let mut description = format!("{path}:{}:{}: {}", at.line, at.column, clean(&finding.message));
    for (place, label) in &finding.related {
        let place = clean(&findings.sources.describe(*place));
        // Writing to a `String` cannot fail.
        let _ = write!(description, "\n{place}: {}", clean(label));
    }
    if let Some(help) = &finding.help {
        let _ = write!(description, "\nhelp: {}", clean(help));
    }
    status.set_description(description);
    let name = format!("{} at {}:{}", finding.code, at.line, at.column);
    let mut case = TestCase::new(name, status);
    case.set_classname(path);
    case.extra.insert("file".into(), path.into());
    case.extra.insert("line".into(), at.line.to_string().into());
    case
}

/// Escapes a text so that it is valid in XML 1.0.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in shown_text(text).chars() {
        // The two noncharacters that XML 1.0 excludes, and that are not control characters.
        if matches!(character, '\u{fffe}' | '\u{ffff}') {
            clean.extend(character.escape_unicode());
        } else {
            clean.push(character);
        }
    }
    clean
}
