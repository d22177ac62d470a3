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
    cli::{Cli, Verb},
    exit::Exit,
    output,
};

/// Runs a subcommand, and returns its exit code.
pub fn run(cli: &Cli) -> Exit {
    let exit = match &cli.verb {
        #[cfg(feature = "daemon")]
        Verb::Daemon(args) => daemon::run(args),
        #[cfg(feature = "daemon")]
        Verb::Downgrade(args) => daemon::downgrade(args),
        Verb::Lint(args) => lint::run(args),
        Verb::Schema(args) => generate::schema::run(args),
        Verb::Man(args) => generate::man::run(args),
        Verb::Completions(args) => generate::completions::run(args),
        Verb::Test(args) => test::run(args),
        Verb::Replay(args) => replay::run(args),
        Verb::Trace(args) => trace::run(args),
        Verb::Learn(args) => learn::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Explain(args) => explain::run(args),
        #[cfg(feature = "daemon")]
        Verb::Doctor(args) => doctor::run(args),
        #[cfg(feature = "daemon")]
        Verb::Status(args) => status::run(args),
        #[cfg(feature = "daemon")]
        Verb::Stats(args) => stats::run(args),
        #[cfg(feature = "daemon")]
        Verb::Events(args) => events::run(args),
        #[cfg(feature = "daemon")]
        Verb::Apply(args) => apply::run(args),
        #[cfg(feature = "daemon")]
        Verb::Confirm(args) => apply::confirm(args),
        #[cfg(feature = "daemon")]
        Verb::Rollback(args) => apply::roll_back(args),
        #[cfg(feature = "daemon")]
        Verb::Mode(args) => apply::mode(args),
        #[cfg(feature = "daemon")]
        Verb::Detach(args) => detach::run(args),
        Verb::Init(args) => init::run(args),
    };
    if output::is_incomplete() { Exit::NoAnswer } else { exit }
}
