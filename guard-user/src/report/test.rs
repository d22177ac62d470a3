//! The results of unit tests.

use std::{collections::BTreeMap, path::PathBuf};

use clap::ValueEnum;
use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use crate::{
    output,
    text::{shown_path, shown_text},
};

/// Format of test results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(clippy::doc_markdown, reason = "clap shows these comments as they are")]
pub enum TestFormat {
    /// Text: the failed tests, and a count
    Text,
    /// One JSON document
    Json,
    /// JUnit XML
    Junit,
}

/// `schema` of the JSON form.
const SCHEMA: &str = "trainguard/test/v1";

/// The result of a test.
#[derive(Debug)]
pub struct Outcome {
    /// The file of the test.
    pub file: PathBuf,
    /// The line of its name.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Expectations that are not met; empty if the test passed.
    pub failures: Vec<String>,
}

/// The results of all tests.
#[derive(Debug, Default)]
pub struct Results(Vec<Outcome>);

#[derive(Serialize)]
struct Document<'r> {
    schema: &'static str,
    tests: Vec<TestJson<'r>>,
    passed: usize,
    failed: usize,
}

#[derive(Serialize)]
struct TestJson<'r> {
    file: String,
    line: usize,
    name: &'r str,
    passed: bool,
    failures: &'r [String],
}

impl Results {
    /// Adds the result of a test.
    pub fn add(&mut self, outcome: Outcome) {
        self.0.push(outcome);
    }

    /// Reports whether there are no results.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of failed tests.
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|outcome| !outcome.failures.is_empty()).count()
    }

    /// Prints the results.
    pub fn print(&self, format: TestFormat) {
        let (failed, all) = (self.failed(), self.0.len());
        match format {
            TestFormat::Text => {
                for outcome in self.0.iter().filter(|outcome| !outcome.failures.is_empty()) {
                    let Outcome { file, line, name, failures } = outcome;
                    let mut lines =
                        vec![format!("FAILED {}:{line}: {}", shown_path(file), shown_text(name))];
                    lines.extend(failures.iter().map(|f| format!("       {}", shown_text(f))));
                    if !output::answer(lines.join("\n")) {
                        return;
                    }
                }
                output::answer(format_args!("{} passed, {failed} failed", all - failed));
            }
            TestFormat::Json => output::answer_json(&Document {
                schema: SCHEMA,
                tests: self
                    .0
                    .iter()
                    .map(|outcome| TestJson {
                        file: shown_path(&outcome.file),
                        line: outcome.line,
                        name: &outcome.name,
                        passed: outcome.failures.is_empty(),
                        failures: &outcome.failures,
                    })
                    .collect(),
                passed: all - failed,
                failed,
            }),
            TestFormat::Junit => {
                output::answer(self.junit().trim_end());
            }
        }
    }

    /// Formats the results as `JUnit` XML, with a suite for each file.
    pub fn junit(&self) -> String {
        let mut suites: BTreeMap<&PathBuf, TestSuite> = BTreeMap::new();
        for outcome in &self.0 {
            let path = shown_path(&outcome.file);
            let suite = suites.entry(&outcome.file).or_insert_with(|| TestSuite::new(&path));
            let status = if outcome.failures.is_empty() {
                TestCaseStatus::success()
            } else {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(shown_text(&outcome.failures.join("; ")));
                status.set_type("verdict");
                status
            };
            let mut case = TestCase::new(shown_text(&outcome.name), status);
            case.set_classname(format!("{path}:{}", outcome.line));
            suite.add_test_case(case);
        }
        let mut document = Junit::new("trainguard test");
        document.add_test_suites(suites.into_values());
        // Writing to a `String` cannot fail, and all text is UTF-8.
        document.to_string().unwrap_or_default()
    }
}
