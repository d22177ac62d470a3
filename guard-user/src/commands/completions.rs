//! `trainguard completions`: the script that makes a shell complete.

use clap::CommandFactory as _;
use clap_complete::{Shell as Generator, generate};

use crate::{
    cli::{Cli, CompletionsArgs, Shell},
    exit::Exit,
    report,
};

/// Runs the verb.
pub fn run(args: &CompletionsArgs) -> Exit {
    let generator = match args.shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    generate(generator, &mut Cli::command(), "trainguard", &mut script);
    report::answer(String::from_utf8_lossy(&script).trim_end());
    Exit::Yes
}
