//! `cargo xtask ci` runs everything that must pass before a change lands; `.ci/run` calls it.
//! `cargo xtask nightly` runs what takes too long for that.
//!
//! The tests wait about as much as they compute, so the checks and one guest run at the same time. Both
//! are further processes of this program, each with its own log.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    budget::{self, BudgetArgs},
    sh,
    test::{self, ChaosArgs, Count, OracleArgs, TestArgs, Tests},
};

/// What takes too long for each change, as arguments of this program.
const NIGHTLY: [&[&str]; 8] = [
    // With more repetitions of generated tests (see `TRAINGUARD_LONG` below).
    &["test"],
    &["upgrade"],
    &["vm", "--scenario", "service", "--scenario", "upgrade", "--scenario", "boot"],
    &["vm", "--scenario", "tests-6.12", "--scenario", "interpreter", "--scenario", "hardened"],
    &["check", "--own-features"],
    &["dist", "--try"],
    &["fuzz"],
    &["bench", "--quick", "--install"],
];

/// Arguments of `cargo xtask nightly`.
#[derive(Debug, Args)]
pub(crate) struct NightlyArgs {
    /// Set the number of rounds of each test of `cargo xtask chaos`
    #[arg(long, default_value_t = 1000)]
    rounds: u64,
    /// Set the time of `cargo xtask oracle`, in minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Also run every guest and every boot (`cargo xtask vm --long`); takes hours
    #[arg(long)]
    long: bool,
}

/// The result of one part of a run.
struct Part {
    name: String,
    passed: bool,
    count: Option<Count>,
    took: Duration,
}

/// Runs everything that must pass. Returns whether it does.
pub(crate) fn run() -> Result<bool> {
    let started = Instant::now();
    let mut parts = Vec::new();
    let args = TestArgs::default();
    let tests = Tests::build(&args)?;
    println!("built in {} s", started.elapsed().as_secs());

    // A guest with the oldest supported kernel, and the checks. Neither the tests nor the guest call
    // cargo, so they do not wait for the checks, which do. The guest is one long sequential chain, so it
    // has the highest priority; the checks, which use every free CPU, have the lowest.
    let integration = tests.integration()?.display().to_string();
    let logs = tempfile::tempdir().context("a directory for logs")?;
    let guest = ["vm", "--scenario", "tests-6.1", "--tests", &integration];
    let guest = Beside::start(&guest, -10, logs.path(), false)?;
    let check = Beside::start(&["check"], 10, logs.path(), false)?;
    let began = Instant::now();
    parts.push(Part::counted("test".to_owned(), tests.run(&args), began));
    // After the tests, because some of them count the BPF programs of the machine.
    let began = Instant::now();
    println!("\n== budget ==");
    let passed = budget::run(&BudgetArgs::built()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        false
    });
    parts.push(Part { name: "budget".to_owned(), passed, count: None, took: began.elapsed() });
    parts.push(check.end()?);
    parts.push(guest.end()?);
    Ok(report(&parts, started.elapsed()))
}

/// Runs what takes too long for each change, one part after the other. Returns whether all parts pass.
pub(crate) fn nightly(args: &NightlyArgs) -> Result<bool> {
    let started = Instant::now();
    let logs = tempfile::tempdir().context("a directory for logs")?;
    let mut parts = Vec::new();
    let began = Instant::now();
    let counted = test::chaos(&ChaosArgs { rounds: args.rounds });
    parts.push(Part::counted(format!("chaos --rounds {}", args.rounds), counted, began));
    let began = Instant::now();
    let counted = test::oracle(&OracleArgs { minutes: args.minutes });
    parts.push(Part::counted(format!("oracle --minutes {}", args.minutes), counted, began));
    let long: &[&[&str]] = if args.long { &[&["vm", "--long"]] } else { &[] };
    for part in NIGHTLY.iter().chain(long) {
        let part = Beside::start(part, 0, logs.path(), true)?.end()?;
        println!("{}", part.verdict());
        parts.push(part);
    }
    Ok(report(&parts, started.elapsed()))
}

/// Prints the verdicts, then the line that counts tests. Returns whether all parts passed.
fn report(parts: &[Part], took: Duration) -> bool {
    println!();
    for part in parts {
        println!("{}", part.verdict());
    }
    println!("{} s in all", took.as_secs());
    let mut all = Count::default();
    for count in parts.iter().filter_map(|part| part.count) {
        all.join(count);
    }
    println!("{all}");
    parts.iter().all(|part| part.passed)
}

impl Part {
    /// Returns the result of tests that started at `began`. An error counts as one failed test.
    fn counted(name: String, counted: Result<Count>, began: Instant) -> Self {
        let count = counted.unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Count { failed: 1, ..Count::default() }
        });
        Self { name, passed: count.failed == 0, count: Some(count), took: began.elapsed() }
    }

    fn verdict(&self) -> String {
        let Self { name, passed, count, took } = self;
        let passed = if *passed { "passed" } else { "FAILED" };
        let count = count.map_or_else(String::new, |count| format!(", {count}"));
        format!("cargo xtask {name}: {passed} ({} s{count})", took.as_secs())
    }
}

/// Another process of this program, which runs beside this one.
struct Beside {
    name: String,
    log: PathBuf,
    /// Waits for the process; returns its exit status and run time.
    waiter: JoinHandle<io::Result<(ExitStatus, Duration)>>,
}

impl Beside {
    /// Starts the process. `nice` is added to this process's nice value (nice(1)). `nightly` repeats
    /// generated tests more often than `cargo xtask ci` has time for.
    fn start(args: &[&str], nice: i8, directory: &Path, nightly: bool) -> Result<Self> {
        // The name leaves out the path of the test executable.
        let words = args.iter().filter(|word| !word.starts_with('/') && **word != "--tests");
        let name = words.copied().collect::<Vec<_>>().join(" ");
        let log = directory.join(name.replace(' ', "_"));
        let file = fs::File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new("nice");
        command.arg(format!("--adjustment={nice}")).arg(env::current_exe()?).args(args);
        command.current_dir(sh::root()).stdin(Stdio::null());
        if nightly {
            command.env("TRAINGUARD_LONG", "1");
        }
        command.stdout(file.try_clone()?).stderr(file);
        let mut child = command.spawn().with_context(|| format!("running {command:?}"))?;
        let began = Instant::now();
        let waiter = thread::spawn(move || child.wait().map(|status| (status, began.elapsed())));
        Ok(Self { name, log, waiter })
    }

    /// Waits for the process to end and prints its log.
    fn end(self) -> Result<Part> {
        let Ok(ended) = self.waiter.join() else { bail!("waiting for {} panicked", self.name) };
        let (status, took) = ended?;
        let said = fs::read(&self.log).with_context(|| self.log.display().to_string())?;
        let said = String::from_utf8_lossy(&said);
        println!("\n== {} ==\n{}", self.name, said.trim_end());
        if status.code().is_none() {
            bail!("cargo xtask {}: {status}", self.name);
        }
        let count = said.lines().rev().find_map(read_count);
        Ok(Part { name: self.name, passed: status.success(), count, took })
    }
}

/// Parses a line that counts tests: `3 passed, 0 failed, 1 skipped`.
fn read_count(line: &str) -> Option<Count> {
    let mut parts = line.split(", ").map(|part| part.split_once(' '));
    let mut next = |word: &str| -> Option<u64> {
        let (number, said) = parts.next()??;
        (said == word).then(|| number.parse().ok())?
    };
    let count =
        Count { passed: next("passed")?, failed: next("failed")?, ignored: next("skipped")? };
    (count.to_string() == line).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_they_are_written() {
        let count = Count { passed: 13, failed: 2, ignored: 1 };
        assert_eq!(read_count(&count.to_string()), Some(count));
        for line in ["", "13 passed", "13 passed, 2 failed, 1 skipped, more", "a passed, b failed"]
        {
            assert_eq!(read_count(line), None, "{line}");
        }
    }
}
