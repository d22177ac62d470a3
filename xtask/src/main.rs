//! `cargo xtask`: set-up, build, demo, tests and checks of trainguard.
//!
//! Each subcommand finds the tools that it needs, or says what it is going to install and installs it.
//! Results go to standard output, progress and errors to standard error.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod bench;
mod budget;
mod build;
mod check;
mod ci;
mod demo;
mod dist;
mod files;
mod fuzz;
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
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install the tools that build the kernel object
    Setup(SetupArgs),
    /// Build the kernel object, then `target/release/trainguard`, which embeds it
    Build(build::BuildArgs),
    /// Guard a small cluster in network namespaces, attack it, and show what happened
    Demo(demo::DemoArgs),
    /// Run every test; the last line of output counts them
    Test(test::TestArgs),
    /// Kill, starve and reload daemons a thousand times under traffic; print figures
    Chaos(test::ChaosArgs),
    /// Send odd frames to bare and guarded nodes for an hour; what they deliver must agree
    Oracle(test::OracleArgs),
    /// Check format, lints, dependency licences, documentation and repository rules
    Check(check::CheckArgs),
    /// Write the reference pages in `docs/reference` anew; a test compares them with the code
    Docs,
    /// Run everything that must pass before a change lands: tests, checks, budget, one guest
    Ci,
    /// Run what takes too long for each change: a thousand rounds of chaos, an hour of odd frames, boots, packages
    Nightly(ci::NightlyArgs),
    /// Build a version with an older layout, upgrade from it and go back to it, under traffic
    Upgrade,
    /// Measure the cost of a packet, compared with an empty program, the parser alone and xdp-filter
    Bench(bench::BenchArgs),
    /// Run the fuzz targets, each for a minute
    Fuzz(fuzz::FuzzArgs),
    /// Compare size, stack and verified instructions of the kernel program with the committed table
    Budget(budget::BudgetArgs),
    /// Test under other kernels and as a service, in virtual machines
    Vm(vm::VmArgs),
    /// Make packages of a static binary in `target/dist`: deb, rpm, tar.gz
    Dist(dist::DistArgs),
    /// Play a role in the demo (the demo starts these itself)
    #[command(hide = true)]
    Play {
        #[command(subcommand)]
        role: demo::traffic::Role,
    },
}

#[derive(Debug, Args)]
struct SetupArgs {
    /// Only list what is present and what would be installed; exit with 1 if something is missing
    #[arg(long)]
    dry_run: bool,
    /// Use sudo for what needs root, without asking first
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

/// Runs the subcommand. Returns whether it passed; if not, the exit code is 1.
fn run(cli: &Cli) -> Result<bool> {
    match &cli.command {
        Command::Setup(args) if args.dry_run => Ok(toolchain::survey()?.report()),
        Command::Setup(args) => {
            let tools = toolchain::ensure(args.yes)?;
            toolchain::ensure_tmux(args.yes)?;
            toolchain::ensure_test_tools(args.yes);
            println!("set up: {tools}");
            Ok(true)
        }
        Command::Build(args) => {
            let built = build::build(&toolchain::ensure(false)?, args)?;
            println!("built {} (kernel object: {} bytes)", built.binary.display(), built.size);
            Ok(true)
        }
        Command::Demo(args) => demo::run(args),
        Command::Test(args) => test::run(args),
        Command::Chaos(args) => Ok(counted(test::chaos(args)?)),
        Command::Oracle(args) => Ok(counted(test::oracle(args)?)),
        Command::Upgrade => Ok(counted(upgrade::run()?)),
        Command::Docs => Ok(counted(test::write_reference()?)),
        Command::Ci => ci::run(),
        Command::Nightly(args) => ci::nightly(args),
        Command::Check(args) => check::run(args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Budget(args) => budget::run(args),
        Command::Vm(args) => vm::run(args),
        Command::Dist(args) => dist::run(args),
        Command::Play { role } => {
            println!("{}", serde_json::to_string(&demo::traffic::play(role)?)?);
            Ok(true)
        }
    }
}

/// Prints the line that counts tests. Returns whether no test failed.
fn counted(count: test::Count) -> bool {
    println!("\n{count}");
    count.failed == 0
}
