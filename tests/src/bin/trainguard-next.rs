//! `trainguard` with the next layout version, for tests of upgrades and downgrades.

use std::process::ExitCode;

use clap::Parser as _;
use guard_common::layout::LAYOUT_VERSION;
use guard_user::{bpf::pins, cli::Cli, commands};

fn main() -> ExitCode {
    pins::set_layout_version(LAYOUT_VERSION + 1);
    commands::run(&Cli::parse()).into()
}
