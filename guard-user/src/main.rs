//! The `trainguard` binary: parse, set up logging, run, exit.

use std::process::ExitCode;

use clap::Parser as _;
use guard_user::{cli::Cli, commands};

fn main() -> ExitCode {
    let cli = Cli::parse();
    commands::run(&cli).into()
}
