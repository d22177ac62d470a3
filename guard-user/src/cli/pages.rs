//! `trainguard man` and `trainguard completions`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `trainguard man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The subcommand [default: the page of trainguard itself]
    #[arg(value_name = "SUBCOMMAND")]
    pub subcommand: Option<String>,
    /// Write all pages into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "subcommand")]
    pub output: Option<PathBuf>,
}

/// `trainguard completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// A shell with completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash, with the package bash-completion
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}
