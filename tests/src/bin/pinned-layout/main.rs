//! Prints the layout of all pinned objects as lines of `name = value`, for `cargo xtask check`, which
//! compares it with `guard-common/layout.lock`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod pins;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    match pins::lines() {
        Ok(pins) => {
            for (name, value) in values::lines().into_iter().chain(pins) {
                println!("{name} = {value}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
