//! `cargo xtask vm`: tests the guard under other kernels, and as a service of a whole system, in virtual
//! machines.

mod boot;
mod fetch;
mod initramfs;
mod matrix;
mod rootfs;
mod run;
mod wire;

use std::{
    env,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::Args;

use self::{
    fetch::{Cache, Wanted},
    matrix::{Form, Programs},
};
use crate::{sh, test::Count};

/// Arguments of `cargo xtask vm`.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    /// Run every kernel and every scenario; without this, only the short ones, which take minutes
    #[arg(long)]
    long: bool,
    /// Run only scenarios on this kernel: 6.1, 6.12, 6.12-rt; may be given several times
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<String>,
    /// Run only this scenario; may be given several times
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Run only this module of the repository's tests; may be given several times
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Use this test executable, and the binaries that are built already, instead of building
    #[arg(long, hide = true, value_name = "FILE")]
    tests: Option<PathBuf>,
    /// Only list the scenarios
    #[arg(long)]
    list: bool,
    /// Keep packages, kernels and images in this directory
    #[arg(long, env = "VM_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// A kernel, and what to run on it.
#[derive(Debug)]
struct Scenario {
    name: &'static str,
    kernel: Wanted,
    /// Whether the scenario runs without `--long`.
    short: bool,
    what: What,
    about: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// The tests of this repository, with kernel settings.
    Tests(Form, &'static [&'static str]),
    /// The script that tests package and unit, in a system with systemd.
    Service,
    /// The script that upgrades from an earlier version's packages, in a system with systemd.
    Upgrade,
    /// Boots while an unlisted host sends SYN segments: number of boots in the short and in the long
    /// form.
    Boots(u32, u32),
    /// Power cuts during reloads, each followed by a boot: number of cuts.
    PowerCuts(u32),
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "tests-6.1",
        kernel: Wanted::cloud("6.1"),
        short: true,
        what: What::Tests(Form::Short, &[]),
        about: "load, attach, named frames, life cycle on the oldest kernel",
    },
    Scenario {
        name: "tests-6.12",
        kernel: Wanted::cloud("6.12"),
        short: false,
        what: What::Tests(Form::Short, &[]),
        about: "the same on Debian 13's kernel",
    },
    Scenario {
        name: "interpreter",
        kernel: Wanted::cloud("6.1"),
        short: false,
        what: What::Tests(Form::Core, &["net.core.bpf_jit_enable=0"]),
        about: "without the JIT: program and named frames",
    },
    Scenario {
        name: "hardened",
        kernel: Wanted::cloud("6.12"),
        short: false,
        what: What::Tests(Form::Core, &["net.core.bpf_jit_harden=2"]),
        about: "with constants blinded by the JIT: program and named frames",
    },
    Scenario {
        name: "tests-6.12-rt",
        kernel: Wanted::real_time("6.12"),
        short: false,
        what: What::Tests(Form::Long, &[]),
        about: "load, attach, named frames, life cycle under PREEMPT_RT",
    },
    Scenario {
        name: "service",
        kernel: Wanted::cloud("6.12"),
        short: true,
        what: What::Service,
        about: "package and unit under systemd: install, crash, upgrade, removal",
    },
    Scenario {
        name: "upgrade",
        kernel: Wanted::cloud("6.12"),
        short: false,
        what: What::Upgrade,
        about: "the packages of an earlier version upgraded to today's, and back",
    },
    Scenario {
        name: "service-6.1",
        kernel: Wanted::cloud("6.1"),
        short: false,
        what: What::Service,
        about: "the same on the oldest kernel",
    },
    Scenario {
        name: "boot",
        kernel: Wanted::cloud("6.1"),
        short: true,
        what: What::Boots(1, 20),
        about: "an attacker on the wire from power-on to power-off",
    },
    Scenario {
        name: "boot-6.12",
        kernel: Wanted::cloud("6.12"),
        short: false,
        what: What::Boots(1, 20),
        about: "the same on Debian 13's kernel",
    },
    Scenario {
        name: "power-cut",
        kernel: Wanted::cloud("6.12"),
        short: false,
        what: What::PowerCuts(5),
        about: "power cuts in the middle of reloads, with an attacker on the wire",
    },
];

/// The results of the scenarios.
#[derive(Debug, Default)]
struct Tally {
    count: Count,
    /// Skips that the plan names.
    expected: Vec<String>,
    /// Other skips: what this machine does not support, and what a script leaves out.
    skips: Vec<String>,
}

impl Tally {
    fn skip(&mut self, what: String) {
        self.skips.push(what);
    }

    fn skip_as_planned(&mut self, what: String) {
        self.expected.push(what);
    }

    fn add(&mut self, other: Self) {
        self.count.passed += other.count.passed;
        self.count.failed += other.count.failed;
        self.count.ignored += other.count.ignored;
        self.expected.extend(other.expected);
        self.skips.extend(other.skips);
    }

    /// Prints skips and counts. Returns whether nothing failed. With `strict`, an unexpected skip is a
    /// failure.
    fn report(&self, strict: bool) -> bool {
        for skip in self.expected.iter().chain(&self.skips) {
            println!("skipped: {skip}");
        }
        let Count { passed, mut failed, ignored } = self.count;
        let unexpected = self.skips.len() as u64;
        if strict && unexpected > 0 {
            println!("{unexpected} skips that {} does not list", matrix::PLAN);
            failed += unexpected;
        }
        let skipped = ignored + self.expected.len() as u64 + unexpected;
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        failed == 0
    }
}

/// Runs scenarios. Returns whether all of them passed.
pub(crate) fn run(args: &VmArgs) -> Result<bool> {
    let chosen: Vec<&Scenario> =
        SCENARIOS.iter().filter(|scenario| args.selects(scenario)).collect();
    if args.list {
        for scenario in SCENARIOS {
            let form = if scenario.short { "short" } else { "long" };
            println!(
                "{:<16} {:<8} {form:<6} {}",
                scenario.name,
                scenario.kernel.to_string(),
                scenario.about
            );
        }
        return Ok(true);
    }
    if chosen.is_empty() {
        anyhow::bail!("no such scenario or kernel; `cargo xtask vm --list` lists them");
    }
    let strict = env::var_os("CI").is_some();
    let mut tally = Tally::default();
    let cache = match tools(args) {
        Ok(cache) => cache,
        Err(error) => {
            tally.skip(format!("vm: this machine cannot run virtual machines: {error:#}"));
            return Ok(tally.report(strict));
        }
    };
    let systems = chosen.iter().any(|scenario| !matches!(scenario.what, What::Tests(..)));
    let package = systems.then(|| boot::package(&cache)).transpose()?;
    let package = package.as_ref().map(|(_directory, file)| file.as_path());
    let tests = chosen.iter().any(|scenario| matches!(scenario.what, What::Tests(..)));
    let programs = match &args.tests {
        _ if !tests => None,
        Some(tests) => Some(Programs::of(&cache, tests)?),
        None => Some(Programs::build(&cache)?),
    };
    let mut times = Vec::new();
    for scenario in chosen {
        println!("\n== {}: {} ==", scenario.name, scenario.about);
        let started = Instant::now();
        let counted = scenario.run(&cache, programs.as_ref(), package, args)?;
        times.push(format!("{} {:.0} s", scenario.name, started.elapsed().as_secs_f32()));
        tally.add(counted);
    }
    println!("\n{}", times.join(", "));
    Ok(tally.report(strict))
}

/// Opens the cache and fetches the tools.
fn tools(args: &VmArgs) -> Result<Cache> {
    let directory = args.cache.clone().unwrap_or_else(|| sh::root().join("target/vm"));
    let cache = Cache::open(&directory)?;
    cache.ensure_tools()?;
    Ok(cache)
}

impl VmArgs {
    fn selects(&self, scenario: &Scenario) -> bool {
        let named = self.scenario.iter().any(|name| name == scenario.name);
        let kernel = self.kernel.is_empty() || self.kernel.contains(&scenario.kernel.to_string());
        if self.scenario.is_empty() {
            kernel && (scenario.short || self.long)
        } else {
            named && kernel
        }
    }
}

impl Scenario {
    /// Returns the form in which the scenario runs the tests of this repository, or `None` if it boots a
    /// system.
    fn form(&self, long: bool) -> Option<Form> {
        match self.what {
            What::Tests(Form::Short, _) if long => Some(Form::Long),
            What::Tests(form, _) => Some(form),
            _ => None,
        }
    }

    /// Runs the scenario. It is skipped, with a reason, if the kernel cannot be fetched.
    fn run(
        &self,
        cache: &Cache,
        programs: Option<&Programs>,
        package: Option<&Path>,
        args: &VmArgs,
    ) -> Result<Tally> {
        let long = args.long;
        let skipped = |error: &anyhow::Error| {
            let mut tally = Tally::default();
            tally.skip(format!("{}: {error:#}", self.name));
            tally
        };
        let kernel = match cache.ensure_kernel(self.kernel) {
            Ok(kernel) => &kernel.clone(),
            Err(error) => return Ok(skipped(&error)),
        };
        let name = self.name;
        let system = || -> Result<boot::System<'_>> {
            let package = package.context("no package was built for this scenario")?;
            Ok(boot::System { name, cache, kernel, package })
        };
        match self.what {
            What::Tests(_, settings) => {
                let form = self.form(long).context("this scenario runs no tests")?;
                let programs = programs.context("no test programs were built for this scenario")?;
                let only = &args.module;
                matrix::Run { name, cache, kernel, programs, form, only, settings }.run()
            }
            What::Service => system()?.service(),
            What::Upgrade => system()?.upgrade(),
            What::Boots(short, full) => system()?.boots(if long { full } else { short }),
            What::PowerCuts(rounds) => system()?.power_cuts(rounds),
        }
    }
}
