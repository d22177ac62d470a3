//! Every test, with skips named and counted.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{build, sh, toolchain};

/// What to test.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Leave out the tests that need the kernel
    #[arg(long)]
    quick: bool,
}

/// Tests that passed, failed, were skipped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

/// The packages whose tests are run. Built together: with others beside them, what they depend on
/// is compiled in another way.
pub(crate) const PACKAGES: [&str; 8] =
    ["-p", "guard-common", "-p", "guard-user", "-p", "xtask", "-p", "guard-tests"];

/// Runs the tests; whether all passed.
pub(crate) fn run(args: &TestArgs) -> Result<bool> {
    if !args.quick {
        toolchain::ensure_test_tools(false);
    }
    count(|cargo| {
        cargo.args(PACKAGES);
        if args.quick {
            cargo.env("TRAINGUARD_QUICK", "1");
        }
        if let Some(filter) = &args.filter {
            cargo.arg(filter);
        }
    })
}

/// How long the tests of the worst moments go on.
#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    /// Rounds of each test that goes on and on
    #[arg(long, default_value_t = 1000)]
    rounds: u64,
}

/// Kills, reloads and starves daemons for longer than a plain test run does, and prints the figures.
pub(crate) fn chaos(args: &ChaosArgs) -> Result<bool> {
    count(|cargo| {
        cargo
            .args(["-p", "guard-tests", "--test", "chaos", "--test", "faults"])
            .env("TRAINGUARD_ROUNDS", args.rounds.to_string())
            .args(["--", "--nocapture"]);
    })
}

/// Builds, runs tests that `choose` chooses, and counts; whether all passed.
fn count(choose: impl FnOnce(&mut Command)) -> Result<bool> {
    let tools = toolchain::ensure(false)?;
    let built = build::build(&tools, &build::BuildArgs::default())?;
    let flood = build::flood_object(&tools)?;
    if !sh::is_root() {
        eprintln!("not root: the tests that load programs and make namespaces are skipped");
        eprintln!("  hint: `sudo -E env PATH=$PATH cargo xtask test` runs them, too");
    }
    let log = tempfile::NamedTempFile::new().context("a file for the skips")?;
    let mut cargo = sh::cargo();
    cargo
        .args(["test", "--release", "--no-fail-fast"])
        .env("TRAINGUARD_OBJECT", &built.object)
        .env("TRAINGUARD_BIN", &built.binary)
        .env("TRAINGUARD_FLOOD", &flood)
        .env("TRAINGUARD_SKIP_LOG", log.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    choose(&mut cargo);
    let mut child = cargo.spawn().with_context(|| format!("running {cargo:?}"))?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            count.add(&line);
            println!("{line}");
        }
    }
    let succeeded = child.wait()?.success();
    if !succeeded && count.failed == 0 {
        // It did not compile, or a test binary died: that is a failure, too.
        count.failed = 1;
    }

    let skips = fs::read_to_string(log.path())?;
    let unexpected = report_skips(&skips)?;
    if env::var_os("CI").is_some() && unexpected > 0 {
        println!("{unexpected} skips that CI does not expect (tests/expected-skips.txt)");
        count.failed += unexpected;
    }
    let skipped = count.ignored + skips.lines().count() as u64;
    // A skipped test has returned, so the harness counts it as passed.
    let passed = count.passed.saturating_sub(skips.lines().count() as u64);
    println!("\n{passed} passed, {} failed, {skipped} skipped", count.failed);
    Ok(count.failed == 0)
}

/// Names the skips; how many of them are not expected.
fn report_skips(skips: &str) -> Result<u64> {
    let file = sh::root().join("tests/expected-skips.txt");
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

impl Count {
    /// Adds a line of the test harness: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
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
    }
}
