//! Runs the tests of this repository under another kernel: the same executables, libraries and data, in a
//! guest that contains nothing else.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    Tally,
    fetch::{Cache, Kernel},
    initramfs::{Initramfs, Start},
    run::{Card, Ended, Machine, Outcome},
};
use crate::{
    budget::FIGURES,
    build, sh,
    test::{self, Count},
};

/// The tests to run, and the known skips of each kernel.
pub(super) const PLAN: &str = "tests/vm/plan.toml";
/// Data that tests read, relative to the root of the repository. The guest has it at the same absolute
/// path, which is compiled into the executables.
const DATA: [&str; 4] = ["tests/corpus", "tests/worlds", "tests/captures", "policies"];
/// Memory of a guest. It also holds the executables, which are in the initramfs.
const MEMORY_MIB: u32 = 2048;
/// Time limit from power-on to the first test.
const BOOT: Duration = Duration::from_secs(90);
/// MTU of training clusters.
const JUMBO: u16 = 9000;

/// The content of the plan file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    test: Vec<Test>,
    #[serde(default)]
    skip: Vec<Known>,
    #[serde(default)]
    leave_out: Vec<Known>,
}

/// A module of the tests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    module: String,
    form: Form,
    /// Its time limit, under emulation on a busy machine.
    seconds: u64,
}

/// The form of the run in which a module is tested. Each form includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// Also run under each variant of a kernel: the program itself, and named frames compared with the
    /// oracle.
    Core,
    Short,
    Long,
}

/// A test that skips itself, or that is left out, on some kernels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    test: String,
    /// Prefixes of kernel releases. Empty: all kernels.
    #[serde(default)]
    kernels: Vec<String>,
    #[expect(dead_code, reason = "explains the entry to readers of the file")]
    reason: String,
}

impl Known {
    fn is(&self, test: &str, release: &str) -> bool {
        self.test == test && self.on(release)
    }

    fn on(&self, release: &str) -> bool {
        let begins = |version: &String| {
            let rest = release.strip_prefix(version.as_str());
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        self.kernels.is_empty() || self.kernels.iter().any(begins)
    }
}

impl Plan {
    pub(super) fn read() -> Result<Self> {
        let path = sh::root().join(PLAN);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Returns the modules of a form, or the modules named in `only` if there are any.
    fn tests<'p>(&'p self, form: Form, only: &'p [String]) -> impl Iterator<Item = &'p Test> {
        let is_selected = move |test: &&Test| {
            if only.is_empty() { test.form <= form } else { only.contains(&test.module) }
        };
        self.test.iter().filter(is_selected)
    }
}

/// The programs that guests run.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) trainguard: PathBuf,
    tests: PathBuf,
    figures: PathBuf,
    /// Contains stripped copies, which are a fifth of the size.
    _stripped: tempfile::TempDir,
}

impl Programs {
    /// Builds binaries and tests.
    pub(super) fn build(cache: &Cache) -> Result<Self> {
        let (built, _) = build::for_tests()?;
        let executables = test::executables(Some(&built))?;
        Self::of(cache, test::integration(&executables)?)
    }

    /// Uses binaries that are built already, and this test executable.
    pub(super) fn of(cache: &Cache, tests: &Path) -> Result<Self> {
        let stripped = cache.scratch()?;
        let strip = |from: &Path, name: &str| sh::strip(from, &stripped.path().join(name));
        Ok(Self {
            trainguard: strip(&build::development_binary("trainguard"), "trainguard")?,
            tests: strip(tests, "tests")?,
            figures: strip(&build::development_binary(FIGURES), FIGURES)?,
            _stripped: stripped,
        })
    }
}

/// One run of the tests in a guest.
#[derive(Debug)]
pub(super) struct Run<'r> {
    pub(super) name: &'r str,
    pub(super) cache: &'r Cache,
    pub(super) kernel: &'r Kernel,
    pub(super) programs: &'r Programs,
    pub(super) form: Form,
    /// Only these modules, unless empty.
    pub(super) only: &'r [String],
    /// Kernel settings, as arguments of `sysctl -w`.
    pub(super) settings: &'r [&'r str],
}

impl Run<'_> {
    /// Runs the tests in a guest.
    pub(super) fn run(&self) -> Result<Tally> {
        let plan = Plan::read()?;
        let scratch = self.cache.scratch()?;
        let initramfs = scratch.path().join("initramfs");
        self.initramfs(&plan)?.write(&initramfs)?;
        let tests = plan.tests(self.form, self.only);
        let limit = tests.map(|test| Duration::from_secs(test.seconds)).sum::<Duration>();
        ensure!(!limit.is_zero(), "{PLAN} lists none of these modules: {:?}", self.only);
        let machine = Machine {
            cache: self.cache,
            kernel: self.kernel,
            initramfs,
            memory_mib: MEMORY_MIB,
            disks: Vec::new(),
            cards: vec![Card::Loop { mtu: JUMBO }],
            limit: limit + BOOT,
        };
        let mut reader = Reader::new(self.name, &self.kernel.release, &plan);
        let outcome = machine.run(|line| reader.line(line))?;
        Ok(reader.finish(&outcome))
    }

    fn initramfs(&self, plan: &Plan) -> Result<Initramfs> {
        let mut initramfs = Initramfs::new(self.cache, self.kernel, Start::Job)?;
        initramfs.program(&self.programs.trainguard, "vm/trainguard")?;
        initramfs.program(&self.programs.figures, "vm/figures")?;
        initramfs.program(&self.programs.tests, "vm/tests")?;
        for data in DATA {
            let path = sh::root().join(data);
            initramfs.copy(&path, &path)?;
        }
        initramfs.script("vm/job", &self.job(plan));
        Ok(initramfs)
    }

    /// Returns the script that the guest runs.
    fn job(&self, plan: &Plan) -> String {
        let mut job = "#!/bin/sh\n\
                       export TRAINGUARD_BIN=/vm/trainguard TRAINGUARD_SKIP_LOG=/tmp/skips\n\
                       : > $TRAINGUARD_SKIP_LOG\n"
            .to_owned();
        for setting in self.settings {
            let _ = writeln!(job, "sysctl -w {setting} || exit 1");
        }
        job += "/vm/figures --without-stack --json /tmp/figures && echo \"@@figures $(cat /tmp/figures)\"\n";
        let left_out = plan.leave_out.iter().filter(|known| known.on(&self.kernel.release));
        let mut options = "--test-threads=1".to_owned();
        for known in left_out {
            let _ = write!(options, " --skip {}", known.test);
        }
        for Test { module, seconds, .. } in plan.tests(self.form, self.only) {
            // Standard error goes to a file, so that logs of daemons do not mix with the lines of the
            // harness. The harness prints the output of a failed test itself.
            let _ = writeln!(
                job,
                "echo '@@test {module}'\n\
                 timeout {seconds} /vm/tests {module}:: {options} 2> /tmp/said\n\
                 code=$?; [ $code = 0 ] || tail -n 50 /tmp/said\n\
                 echo \"@@done $code\""
            );
        }
        job += "sed 's/^/@@skip /' $TRAINGUARD_SKIP_LOG\n";
        job
    }
}

/// Parses the guest's output while the guest runs.
struct Reader<'r> {
    name: &'r str,
    release: &'r str,
    plan: &'r Plan,
    tally: Tally,
    /// The module that is being tested, its start, its counts and its output.
    current: Option<(String, Instant, Count, Vec<String>)>,
}

impl<'r> Reader<'r> {
    fn new(name: &'r str, release: &'r str, plan: &'r Plan) -> Self {
        Self { name, release, plan, tally: Tally::default(), current: None }
    }

    fn line(&mut self, line: &str) {
        if let Some(program) = line.strip_prefix("@@test ") {
            self.current = Some((program.to_owned(), Instant::now(), Count::default(), Vec::new()));
        } else if let Some(code) = line.strip_prefix("@@done ") {
            self.done(code);
        } else if let Some(skip) = line.strip_prefix("@@skip ") {
            self.skip(skip);
        } else if let Some(figures) = line.strip_prefix("@@figures ") {
            println!("{}: {}", self.name, figures_line(figures));
        } else if let Some(seconds) = line.strip_prefix("@@up ") {
            println!("{}: Linux {}, up after {seconds} s", self.name, self.release);
        } else if let Some((_, _, count, said)) = &mut self.current {
            count.add(line);
            said.push(line.to_owned());
        } else if !line.is_empty() {
            println!("{}: {line}", self.name);
        }
    }

    fn done(&mut self, code: &str) {
        let Some((program, since, mut count, said)) = self.current.take() else { return };
        if code != "0" && count.failed == 0 {
            // The executable died, or its time limit was exceeded.
            count.failed = 1;
            let why = if code == "143" {
                "out of time".to_owned()
            } else {
                format!("exit status {code}")
            };
            println!("{}: {program}: {why}", self.name);
        }
        if code == "0" && count.passed + count.ignored == 0 {
            println!("{}: {program}: no test ran", self.name);
            count.failed += 1;
        }
        if count.failed > 0 {
            for line in &said {
                println!("  {line}");
            }
        }
        let seconds = since.elapsed().as_secs_f32();
        println!(
            "{}: {program}: {} passed, {} failed ({seconds:.1} s)",
            self.name, count.passed, count.failed
        );
        self.tally.count.passed += count.passed;
        self.tally.count.failed += count.failed;
        self.tally.count.ignored += count.ignored;
    }

    fn skip(&mut self, skip: &str) {
        let name = skip.split(':').next().unwrap_or(skip);
        let expected = self.plan.skip.iter().any(|known| known.is(name, self.release));
        // A skipped test has returned normally, so the harness has counted it as passed.
        self.tally.count.passed = self.tally.count.passed.saturating_sub(1);
        if expected {
            self.tally.skip_as_planned(format!("{}: {skip}", self.name));
        } else {
            println!("{}: {skip}: a skip that {PLAN} does not list", self.name);
            self.tally.count.failed += 1;
        }
    }

    fn finish(mut self, outcome: &Outcome) -> Tally {
        if self.current.is_some() {
            self.done("unknown: the machine powered off");
        }
        self.tally.count_outcome(self.name, outcome);
        self.tally
    }
}

/// Formats the number of instructions that the verifier processed, by policy.
fn figures_line(json: &str) -> String {
    let figures: BTreeMap<String, BTreeMap<String, u64>> =
        serde_json::from_str(json).unwrap_or_default();
    let each = figures.iter().filter_map(|(policy, figures)| {
        Some(format!("{policy} {}", figures.get("verified-instructions")?))
    });
    format!("instructions verified: {}", each.collect::<Vec<_>>().join(", "))
}

/// Counts the failures of a machine itself, as opposed to those of its tests.
impl Tally {
    /// Counts each fault that the kernel reported on its console as a failure.
    pub(super) fn count_console(&mut self, name: &str, outcome: &Outcome) {
        let faults = outcome.kernel_faults();
        for line in &faults {
            println!("{name}: fault reported by the kernel: {line}");
        }
        self.count.failed += faults.len() as u64;
    }

    pub(super) fn count_outcome(&mut self, name: &str, outcome: &Outcome) {
        self.count_console(name, outcome);
        match outcome.ended {
            Ended::Code(0) => return,
            Ended::Code(code) => println!("{name}: the job ended with exit status {code}"),
            Ended::TimedOut => println!("{name}: out of time after {} s", outcome.took.as_secs()),
            Ended::Silent => {
                println!("{name}: the machine powered off before the job reported its exit status");
            }
            Ended::Cut => println!("{name}: the power was cut"),
        }
        self.count.failed += 1;
        let console: Vec<&str> = outcome.console.lines().collect();
        for line in console.iter().rev().take(30).rev() {
            println!("  console: {line}");
        }
        for line in outcome.emulator.lines() {
            println!("  emulator: {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_can_be_read_and_names_each_module_once() {
        let plan = Plan::read().unwrap();
        let mut names: Vec<&str> = plan.test.iter().map(|test| test.module.as_str()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_known_skip_applies_to_its_kernels_only() {
        let known =
            Known { test: "a".to_owned(), kernels: vec!["6.1".to_owned()], reason: String::new() };
        assert!(known.is("a", "6.1.0-56-cloud-amd64"));
        assert!(!known.is("a", "6.12.117+deb12-cloud-amd64"));
        assert!(!known.is("b", "6.1.0-56-cloud-amd64"));
    }
}
