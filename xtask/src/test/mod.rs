//! `cargo xtask test`: runs every test; skipped tests are named and counted.
//!
//! cargo-nextest runs the tests if it is installed, otherwise the standard harness does ([`harness`]).
//! Both run the same executables and the same tests, and run no other test while a test of the module
//! `kernel::exclusive` runs (`tests/README.md`).

mod executables;
mod harness;
mod leftovers;
mod nextest;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use tempfile::NamedTempFile;

pub(crate) use executables::{Executable, executables, integration};

use crate::{
    build::{self, Built},
    sh, toolchain,
};

/// Prefix of the names of tests that need bpf(2), network namespaces or root.
const KERNEL: &str = "kernel::";
/// Prefix of those that must run alone.
const EXCLUSIVE: &str = "kernel::exclusive::";
/// Prefixes of those that need more than this machine and this build: network cards of a guest
/// (`cargo xtask vm`), or an earlier version (`cargo xtask upgrade`). They run only if their module is
/// selected.
const ELSEWHERE: [&str; 2] = ["kernel::guest::", EARLIER];
const EARLIER: &str = "kernel::earlier::";
/// Number of tests that `cargo xtask oracle` runs, one for each mode.
const ORACLE_TESTS: u64 = 3;
/// List of the skips that CI expects.
const EXPECTED_SKIPS: &str = "tests/expected-skips.txt";

/// Arguments of `cargo xtask test`.
#[derive(Debug, Default, Args)]
pub(crate) struct TestArgs {
    /// Run only tests whose name contains this: a module (`doctor`), or a test
    filter: Option<String>,
    /// Leave out the tests that need the kernel, and do not build the kernel object
    #[arg(long)]
    quick: bool,
    /// Use the standard harness, even if cargo-nextest is installed
    #[arg(long)]
    harness: bool,
}

/// Numbers of tests that passed, failed and were skipped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

/// Which tests to run.
#[derive(Debug, Default)]
struct Selection {
    /// A test's name must contain at least one of these texts. Empty: every test.
    names: Vec<String>,
    quick: bool,
}

/// Environment variables for the tests.
struct Environment {
    variables: Vec<(&'static str, OsString)>,
    /// The file to which tests write that they are skipped.
    skips: NamedTempFile,
}

/// Tests that are built and can be run.
pub(crate) struct Tests {
    executables: Vec<Executable>,
    runner: Runner,
    /// What [`build::for_tests`] built. `None`: only tests that need no kernel are run.
    built: Option<(Built, PathBuf)>,
}

enum Runner {
    Nextest(nextest::Listed),
    Harness,
}

/// Runs the tests. Returns whether all passed.
pub(crate) fn run(args: &TestArgs) -> Result<bool> {
    let count = Tests::build(args)?.run(args)?;
    println!("\n{count}");
    Ok(count.failed == 0)
}

impl Tests {
    /// Builds the tests, and installs what is missing for that.
    pub(crate) fn build(args: &TestArgs) -> Result<Self> {
        let built = if args.quick {
            None
        } else {
            let built = build::for_tests()?;
            toolchain::ensure_test_tools(false);
            Some(built)
        };
        let object = built.as_ref().map(|(built, _)| built);
        let executables = executables(object)?;
        let runner = match nextest::find().filter(|_| !args.harness) {
            Some(nextest) => Runner::Nextest(nextest.list(object)?),
            None => Runner::Harness,
        };
        Ok(Self { executables, runner, built })
    }

    /// Returns the executable with the tests of the kernel.
    pub(crate) fn integration(&self) -> Result<&Path> {
        integration(&self.executables)
    }

    /// Runs the tests and prints the skips. Returns the counts. Does not call cargo.
    pub(crate) fn run(&self, args: &TestArgs) -> Result<Count> {
        if self.built.is_some() && !sh::is_root() {
            eprintln!(
                "not root: tests that load BPF programs or create network namespaces are skipped"
            );
            eprintln!("  hint: `sudo -E env PATH=$PATH cargo xtask test` runs them");
        }
        let selection =
            Selection { names: args.filter.clone().into_iter().collect(), quick: args.quick };
        let environment = Environment::new(self.built.as_ref())?;
        let counted = match &self.runner {
            Runner::Nextest(nextest) => nextest.run(&selection, &environment),
            Runner::Harness => {
                if !args.harness {
                    println!("{}", nextest::MISSING);
                }
                harness::run(&self.executables, &selection, &environment)
            }
        };
        let (mut count, unexpected) = environment.settle(counted)?;
        if env::var_os("CI").is_some() && unexpected > 0 {
            println!("{unexpected} skips that {EXPECTED_SKIPS} does not list");
            count.failed += unexpected;
        }
        if args.quick {
            let left_out = left_out(&self.executables, &selection)?;
            println!("skipped: {left_out} tests that need the kernel, left out by --quick");
            count.ignored += left_out;
        }
        Ok(count)
    }
}

/// Arguments of `cargo xtask chaos`.
#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    /// Set the number of rounds of each repeating test
    #[arg(long, default_value_t = 1000)]
    pub(crate) rounds: u64,
}

/// Kills, reloads and starves daemons for longer than a plain test run does, and prints the figures.
/// Returns the counts.
pub(crate) fn chaos(args: &ChaosArgs) -> Result<Count> {
    let names = ["exclusive::chaos::", "daemon::faults::", "takeover::upgrades::"];
    let names = names.map(|name| format!("{KERNEL}{name}")).into();
    figures(names, ("TRAINGUARD_ROUNDS", args.rounds.to_string().into()))
}

/// Arguments of `cargo xtask oracle`.
#[derive(Debug, Args)]
pub(crate) struct OracleArgs {
    /// Set the time for all modes together, in minutes
    #[arg(long, default_value_t = 60)]
    pub(crate) minutes: u64,
}

/// Sends odd frames to guarded nodes for longer than a plain test run does, and prints the counts of
/// frames. Returns the counts of tests.
pub(crate) fn oracle(args: &OracleArgs) -> Result<Count> {
    let seconds = args.minutes * 60 / ORACLE_TESTS;
    let variable = ("TRAINGUARD_ORACLE_SECONDS", seconds.to_string().into());
    figures(vec![format!("{EXCLUSIVE}oracle::")], variable)
}

/// Upgrades from an earlier version and downgrades to it. Returns the counts.
pub(crate) fn upgrade(earlier: PathBuf) -> Result<Count> {
    figures(vec![EARLIER.to_owned()], ("TRAINGUARD_EARLIER", earlier.into()))
}

/// Writes the reference pages in `docs/reference`. Returns the counts.
pub(crate) fn write_reference() -> Result<Count> {
    let selection = Selection { names: vec!["reference::".to_owned()], quick: true };
    let mut environment = Environment::new(None)?;
    environment.variables.push(("TRAINGUARD_BLESS", "1".into()));
    let counted = harness::figures(&executables(None)?, &selection, &environment);
    environment.settle(counted).map(|(count, _unexpected)| count)
}

/// Builds and runs the tests of these modules one by one, and prints their figures.
fn figures(names: Vec<String>, variable: (&'static str, OsString)) -> Result<Count> {
    let built = build::for_tests()?;
    let executables = executables(Some(&built.0))?;
    let selection = Selection { names, quick: false };
    let mut environment = Environment::new(Some(&built))?;
    environment.variables.push(variable);
    let counted = harness::figures(&executables, &selection, &environment);
    // An unexpected skip is not a failure here: CI does not run these commands.
    environment.settle(counted).map(|(count, _unexpected)| count)
}

/// Lists the skips. Returns how many of them are not expected.
fn report_skips(skips: &str) -> Result<u64> {
    let file = sh::root().join(EXPECTED_SKIPS);
    let expected = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let mut unexpected = 0;
    for skip in skips.lines() {
        println!("skipped: {skip}");
        let name = skip.split(':').next().unwrap_or(skip);
        if !expected.lines().any(|line| line == name) {
            unexpected += 1;
        }
    }
    Ok(unexpected)
}

/// Returns the number of selected tests that `--quick` leaves out.
fn left_out(executables: &[Executable], selection: &Selection) -> Result<u64> {
    let all = Selection { names: selection.names.clone(), quick: false };
    let mut left_out = 0;
    for executable in executables {
        let tests = executable.tests()?;
        left_out +=
            tests.iter().filter(|name| all.has(name) && !selection.has(name)).count() as u64;
    }
    Ok(left_out)
}

impl Selection {
    /// Returns whether the test is selected.
    fn has(&self, name: &str) -> bool {
        let named = self.names.is_empty() || self.names.iter().any(|part| name.contains(part));
        let mut elsewhere = ELSEWHERE.iter().filter(|module| name.starts_with(**module));
        let selected = elsewhere.all(|module| self.selects_module(module));
        named && selected && !(self.quick && name.starts_with(KERNEL))
    }

    /// Returns the first name of the selection that none of the tests contains.
    fn without_test(&self, tests: &[&str]) -> Option<&str> {
        let is_missing = |name: &&String| !tests.iter().any(|test| test.contains(name.as_str()));
        self.names.iter().find(is_missing).map(String::as_str)
    }

    /// Returns whether a module of [`ELSEWHERE`] is selected by its name.
    fn selects_module(&self, module: &str) -> bool {
        self.names.iter().any(|name| name == module)
    }
}

impl Environment {
    /// `built`: the products of the build, and the kernel object of the flood sender.
    fn new(built: Option<&(Built, PathBuf)>) -> Result<Self> {
        let skips = NamedTempFile::new().context("creating a temporary file for the skips")?;
        let mut variables = vec![("TRAINGUARD_SKIP_LOG", skips.path().into())];
        if let Some((built, flood)) = built {
            variables.push(("TRAINGUARD_OBJECT", built.object.clone().into()));
            variables.push(("TRAINGUARD_BIN", built.binary.clone().into()));
            variables.push(("TRAINGUARD_FLOOD", flood.clone().into()));
        }
        Ok(Self { variables, skips })
    }

    fn variables(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_os_str()))
    }

    /// Cleans up after the tests, lists their skips, and counts those as skipped instead of passed. Also
    /// returns the number of skips that are not expected.
    fn settle(&self, counted: Result<Count>) -> Result<(Count, u64)> {
        leftovers::remove();
        let mut count = counted?;
        let skips = fs::read_to_string(self.skips.path())?;
        let unexpected = report_skips(&skips)?;
        let skipped = skips.lines().count() as u64;
        // A test that skips itself returns normally, so it has been counted as passed.
        count.passed = count.passed.saturating_sub(skipped);
        count.ignored += skipped;
        Ok((count, unexpected))
    }
}

impl Count {
    /// Adds the counts of a line of the test harness:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let number = |word: &str| -> u64 {
            rest.split(['.', ';'])
                .filter_map(|part| part.trim().strip_suffix(word))
                .find_map(|number| number.trim().parse().ok())
                .unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
        self.ignored += number("ignored");
    }

    /// Adds another count.
    pub(crate) fn join(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// The line that CI parses.
impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, ignored } = self;
        write!(f, "{passed} passed, {failed} failed, {ignored} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_harness_are_counted() {
        let mut count = Count::default();
        count.add("running 4 tests");
        count.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; x");
        count.add("test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured");
        assert_eq!(count, Count { passed: 13, failed: 2, ignored: 1 });
        assert_eq!(count.to_string(), "13 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_selection_excludes_tests_that_cannot_run() {
        let named = |names: &[&str], quick| Selection {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            quick,
        };
        assert!(named(&[], false).has("kernel::daemon::doctor::a"));
        assert!(!named(&[], true).has("kernel::daemon::doctor::a"));
        assert!(named(&[], true).has("host::tries::a"));
        assert!(!named(&["virtio"], false).has("kernel::guest::virtio::a"));
        assert!(!named(&[], false).has("kernel::earlier::a"));
        assert!(named(&[EARLIER], false).has("kernel::earlier::a"));
        let tests = ["kernel::daemon::faults::a"];
        assert_eq!(named(&["kernel::daemon::faults::"], false).without_test(&tests), None);
        let renamed = named(&["kernel::daemon::faults::", "kernel::gone::"], false);
        assert_eq!(renamed.without_test(&tests), Some("kernel::gone::"));
        assert!(named(&["doctor", "tries"], false).has("host::tries::a"));
        assert!(!named(&["doctor"], false).has("host::tries::a"));
    }
}
