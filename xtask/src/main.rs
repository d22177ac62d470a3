//! `cargo xtask`: set-up, build, demo, tests and checks of trainguard.
//!
//! What each verb needs it finds or installs first, after saying so. Data goes to standard output,
//! talk to standard error.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod bench;
mod budget;
mod build;
mod check;
mod ci;
mod demo;
mod dist;
mod layers;
mod layout;
mod one_build;
mod sh;
mod test;
mod tidy;
mod toolchain;
mod units;
mod upgrade;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Set-up, build, demo, tests and checks of trainguard.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find or install what building the kernel object takes
    Setup(SetupArgs),
    /// Build the kernel object, then `target/release/trainguard` with it inside
    Build(build::BuildArgs),
    /// Guard a small cluster in network namespaces, attack it, and show what happened
    Demo(demo::DemoArgs),
    /// Run every test; ends with a line that counts them
    Test(test::TestArgs),
    /// Kill, starve and reload daemons a thousand times under traffic; prints figures
    Chaos(test::ChaosArgs),
    /// Format, lints, dependency licences, documentation, repository rules
    Check(check::CheckArgs),
    /// Write the reference pages in `docs/reference` anew; a test holds them
    Docs,
    /// Everything that must hold before a change lands: tests, checks, budget, a guest
    Ci,
    /// What takes too long for each change: a thousand rounds of chaos, boots, packages, benchmarks
    Nightly(ci::NightlyArgs),
    /// Upgrade from a version of an older layout, which this builds, and go back to it, under traffic
    Upgrade,
    /// Measure what a packet costs, beside an empty program, the parser alone and xdp-filter
    Bench(bench::BenchArgs),
    /// Hold size, stack and verified instructions of the program against the committed table
    Budget(budget::BudgetArgs),
    /// Test under other kernels and as a service, in virtual machines
    Vm(vm::VmArgs),
    /// Make packages of a static binary in `target/dist`: deb, rpm, tar.gz
    Dist(dist::DistArgs),
    /// Play a part in the demo (the demo starts these itself)
    #[command(hide = true)]
    Play {
        #[command(subcommand)]
        role: demo::traffic::Role,
    },
}

#[derive(Debug, Args)]
struct SetupArgs {
    /// Only say what is there and what would be installed; exit with 1 if something is missing
    #[arg(long)]
    dry_run: bool,
    /// Use sudo for what needs root, without asking here
    #[arg(long)]
    yes: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs a verb; whether the answer is yes.
fn run(cli: &Cli) -> Result<bool> {
    match &cli.verb {
        Verb::Setup(args) if args.dry_run => Ok(toolchain::survey()?.report()),
        Verb::Setup(args) => {
            let tools = toolchain::ensure(args.yes)?;
            toolchain::ensure_tmux(args.yes)?;
            toolchain::ensure_test_tools(args.yes);
            println!("set up: {tools}");
            Ok(true)
        }
        Verb::Build(args) => {
            let built = build::build(&toolchain::ensure(false)?, args)?;
            println!("built {} (kernel object: {} bytes)", built.binary.display(), built.size);
            Ok(true)
        }
        Verb::Demo(args) => demo::run(args),
        Verb::Test(args) => test::run(args),
        Verb::Chaos(args) => Ok(counted(test::chaos(args)?)),
        Verb::Upgrade => Ok(counted(upgrade::run()?)),
        Verb::Docs => Ok(counted(test::write_reference()?)),
        Verb::Ci => ci::run(),
        Verb::Nightly(args) => ci::nightly(args),
        Verb::Check(args) => check::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Budget(args) => budget::run(args),
        Verb::Vm(args) => vm::run(args),
        Verb::Dist(args) => dist::run(args),
        Verb::Play { role } => {
            println!("{}", serde_json::to_string(&demo::traffic::play(role)?)?);
            Ok(true)
        }
    }
}

/// Ends with the line that counts; whether nothing failed.
fn counted(count: test::Count) -> bool {
    println!("\n{count}");
    count.failed == 0
}
