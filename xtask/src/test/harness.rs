//! Runs the tests with the standard harness: first the tests of each executable in parallel, then the
//! exclusive ones one by one.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use super::{Count, EXCLUSIVE, Environment, Executable, Selection};

/// Number of tests that run at a time. They wait more than they compute.
const THREADS: &str = "--test-threads=8";
const ONE_THREAD: &str = "--test-threads=1";

/// Runs the selected tests of all executables. Returns the counts.
pub(super) fn run(
    executables: &[Executable],
    selection: &Selection,
    environment: &Environment,
) -> Result<Count> {
    let listed = list(executables, selection)?;
    let mut count = Count::default();
    for (exclusive, threads) in [(false, THREADS), (true, ONE_THREAD)] {
        for (executable, tests) in &listed {
            let mut tests = tests.clone();
            tests.retain(|name| name.starts_with(EXCLUSIVE) == exclusive);
            count.join(run_tests(executable, &tests, &[threads], environment)?);
        }
    }
    Ok(count)
}

/// Runs the selected tests one by one and shows the figures that they print. Returns the counts.
///
/// # Errors
/// A name of the selection has no test: it was renamed, and would be left out without notice.
pub(super) fn figures(
    executables: &[Executable],
    selection: &Selection,
    environment: &Environment,
) -> Result<Count> {
    let listed = list(executables, selection)?;
    let names: Vec<&str> = listed.iter().flat_map(|(_, tests)| tests).map(String::as_str).collect();
    if let Some(missing) = selection.without_test(&names) {
        bail!("no test matches `{missing}`");
    }
    let mut count = Count::default();
    for (executable, tests) in listed {
        let options = [ONE_THREAD, "--nocapture"];
        count.join(run_tests(executable, &tests, &options, environment)?);
    }
    Ok(count)
}

/// Returns the selected tests of each executable.
fn list<'e>(
    executables: &'e [Executable],
    selection: &Selection,
) -> Result<Vec<(&'e Executable, Vec<String>)>> {
    let mut listed = Vec::new();
    for executable in executables {
        let mut tests = executable.tests()?;
        tests.retain(|name| selection.has(name));
        listed.push((executable, tests));
    }
    Ok(listed)
}

fn run_tests(
    executable: &Executable,
    tests: &[String],
    options: &[&str],
    environment: &Environment,
) -> Result<Count> {
    let mut count = Count::default();
    if tests.is_empty() {
        return Ok(count);
    }
    let mut command = executable.command();
    command.args(options).arg("--exact").args(tests).stdout(Stdio::piped());
    command.envs(environment.variables());
    println!("\n== {} ==", executable.target);
    let mut child = command.spawn().with_context(|| format!("running {command:?}"))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            count.add(&line);
            println!("{line}");
        }
    }
    if !child.wait()?.success() && count.failed == 0 {
        // The executable died before it reported a failure.
        count.failed = 1;
    }
    Ok(count)
}
