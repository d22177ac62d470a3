//! `trainguard completions`: prints a completion script for a shell.

use std::sync::LazyLock;

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell as Generator, generate};

use crate::{
    cli::{Cli, CompletionsArgs, Shell},
    exit::Exit,
    output,
};

/// The complete command line, with all subcommands.
static COMMAND: LazyLock<Command> = LazyLock::new(Cli::command);

/// Runs `trainguard completions`.
pub fn run(args: &CompletionsArgs) -> Exit {
    output::answer(String::from_utf8_lossy(&script(args.shell)).trim_end());
    Exit::Yes
}

fn script(shell: Shell) -> Vec<u8> {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    generate(generator, &mut without_hidden(&COMMAND), "trainguard", &mut script);
    script
}

/// Returns a command without its hidden options, because the generators list hidden options too.
fn without_hidden(command: &'static Command) -> Command {
    let mut shown = Command::new(command.get_name())
        .propagate_version(command.is_propagate_version_set())
        .args(command.get_arguments().filter(|option| !option.is_hide_set()))
        .subcommands(command.get_subcommands().map(without_hidden));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hidden_option_is_completed() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).expect("UTF-8");
            for subcommand in COMMAND.get_subcommands() {
                let options = subcommand
                    .get_arguments()
                    .filter_map(|option| Some((option.get_long()?, option.is_hide_set())));
                for (option, hidden) in options {
                    assert_eq!(script.contains(option), !hidden, "{shell:?}: {option}");
                }
            }
        }
    }
}
