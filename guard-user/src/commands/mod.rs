//! The subcommands: each module runs one, from its parsed arguments to an exit code.

#[cfg(feature = "daemon")]
pub mod apply;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod detach;
pub mod diff;
#[cfg(feature = "daemon")]
pub mod doctor;
#[cfg(feature = "daemon")]
pub mod events;
pub mod explain;
pub mod generate;
pub mod init;
pub mod learn;
pub mod lint;
pub mod replay;
mod shared;
#[cfg(feature = "daemon")]
pub mod stats;
#[cfg(feature = "daemon")]
pub mod status;
pub mod test;
pub mod trace;

use crate::{
    cli::{Cli, Command},
    exit::Exit,
    output,
};

/// Runs a subcommand, and returns its exit code.
pub fn run(cli: &Cli) -> Exit {
    let exit = match &cli.command {
        #[cfg(feature = "daemon")]
        Command::Daemon(args) => daemon::run(args),
        #[cfg(feature = "daemon")]
        Command::Downgrade(args) => daemon::downgrade(args),
        Command::Lint(args) => lint::run(args),
        Command::Schema(args) => generate::schema::run(args),
        Command::Man(args) => generate::man::run(args),
        Command::Completions(args) => generate::completions::run(args),
        Command::Test(args) => test::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Trace(args) => trace::run(args),
        Command::Learn(args) => learn::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Explain(args) => explain::run(args),
        #[cfg(feature = "daemon")]
        Command::Doctor(args) => doctor::run(args),
        #[cfg(feature = "daemon")]
        Command::Status(args) => status::run(args),
        #[cfg(feature = "daemon")]
        Command::Stats(args) => stats::run(args),
        #[cfg(feature = "daemon")]
        Command::Events(args) => events::run(args),
        #[cfg(feature = "daemon")]
        Command::Apply(args) => apply::run(args),
        #[cfg(feature = "daemon")]
        Command::Confirm(args) => apply::confirm(args),
        #[cfg(feature = "daemon")]
        Command::Rollback(args) => apply::roll_back(args),
        #[cfg(feature = "daemon")]
        Command::Mode(args) => apply::mode(args),
        #[cfg(feature = "daemon")]
        Command::Detach(args) => detach::run(args),
        Command::Init(args) => init::run(args),
    };
    if output::is_incomplete() { Exit::NoAnswer } else { exit }
}
