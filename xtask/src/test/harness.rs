//! Running the tests by the standard harness: the tests of each executable beside each other, then
//! those that need the machine for themselves one by one.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use super::{Count, EXCLUSIVE, Environment, Executable, Selection};

/// Tests that run at a time. They wait more than they compute.
const THREADS: &str = "--test-threads=8";
const ONE_THREAD: &str = "--test-threads=1";

/// Runs the selected tests of all executables; what was counted.
pub(super) fn run(
    executables: &[Executable],
    selection: &Selection,
    environment: &Environment,
) -> Result<Count> {
    let mut count = Count::default();
    let mut exclusive = Vec::new();
    for executable in executables {
        let tests = executable.tests()?;
        let chosen = tests.iter().map(String::as_str).filter(|name| selection.has(name));
        let (alone, beside): (Vec<_>, Vec<_>) =
            chosen.partition(|name| name.starts_with(EXCLUSIVE));
        if !beside.is_empty() {
            count.join(run_tests(executable, &beside, &[THREADS], environment, None)?);
        }
        let alone = alone.into_iter().map(str::to_owned).collect::<Vec<_>>();
        if !alone.is_empty() {
            exclusive.push((executable, alone));
        }
    }
    for (executable, alone) in exclusive {
        let alone: Vec<_> = alone.iter().map(String::as_str).collect();
        count.join(run_tests(executable, &alone, &[ONE_THREAD], environment, None)?);
    }
    Ok(count)
}

/// Runs the selected tests one by one for `rounds` rounds each, and shows the figures that they print.
pub(super) fn figures(
    executables: &[Executable],
    selection: &Selection,
    environment: &Environment,
    rounds: u64,
) -> Result<Count> {
    let mut count = Count::default();
    for executable in executables {
        let tests = executable.tests()?;
        let chosen: Vec<_> =
            tests.iter().map(String::as_str).filter(|name| selection.has(name)).collect();
        if !chosen.is_empty() {
            let options = [ONE_THREAD, "--nocapture"];
            count.join(run_tests(executable, &chosen, &options, environment, Some(rounds))?);
        }
    }
    Ok(count)
}

fn run_tests(
    executable: &Executable,
    tests: &[&str],
    options: &[&str],
    environment: &Environment,
    rounds: Option<u64>,
) -> Result<Count> {
    let mut command = executable.command();
    command.args(options).arg("--exact").args(tests).stdout(Stdio::piped());
    command.envs(environment.variables.iter().map(|(name, path)| (name, path)));
    if let Some(rounds) = rounds {
        command.env("TRAINGUARD_ROUNDS", rounds.to_string());
    }
    println!("\n== {} ==", executable.target);
    let mut child = command.spawn().with_context(|| format!("running {command:?}"))?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            count.add(&line);
            println!("{line}");
        }
    }
    if !child.wait()?.success() && count.failed == 0 {
        // It died: that is a failure, too.
        count.failed = 1;
    }
    Ok(count)
}
