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

/// Aborts the process on a panic, as the release build with `panic = "abort"` does. Tests are built
/// with unwinding panics, and must behave the same.
#[cfg(panic = "unwind")]
fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        process::abort();
    }));
}
