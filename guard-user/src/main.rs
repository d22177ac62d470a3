//! The `trainguard` binary: parse, set up logging, run, exit.

use std::process::ExitCode;
#[cfg(panic = "unwind")]
use std::{panic, process};

use clap::Parser as _;
use guard_user::{cli::Cli, commands};

fn main() -> ExitCode {
    #[cfg(panic = "unwind")]
    abort_on_panic();
    let cli = Cli::parse();
    commands::run(&cli).into()
}

/// Ends the process at a panic, as a build with `panic = "abort"` does: the shipped one. Tests are
/// built with panics that unwind, and must see the same.
#[cfg(panic = "unwind")]
fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        process::abort();
    }));
}
