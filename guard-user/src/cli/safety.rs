//! What can be typed to change a policy in force.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::AskArgs;
use crate::{api::control, output::Format};

/// What may be cut.
#[derive(Debug, Clone, Args)]
pub struct CutArgs {
    /// Go on although it cuts open connections. They are listed before
    #[arg(long)]
    pub cut_connections: bool,
    /// Go on although it seems to cut the ssh session that you work in: you sit at the console, or
    /// have another way in
    #[arg(long)]
    pub cut_own_session: bool,
}

/// `trainguard apply`
#[derive(Debug, Args)]
#[command(after_help = "\
Before anything is switched, each open TCP connection of this node with another host is put before \
the new policy. If it would drop packets of one that passes now, nothing is changed, and the \
connections are listed (exit code 1). What would go on but could not be opened again is told, too.

Exit codes: 0 done, 1 refused, 2 no answer possible, 3 no daemon")]
pub struct ApplyArgs {
    /// The cluster manifest; the daemon keeps what it names, and reads none of it later
    #[arg(value_name = "MANIFEST", required_unless_present = "reload")]
    pub manifest: Option<PathBuf>,
    /// Let the daemon read the files that it follows again now, instead of a MANIFEST; exit with 1
    /// if it refuses them: what was in force stays
    #[arg(long, conflicts_with_all = ["manifest", "confirm_within", "dry_run", "cut_connections", "cut_own_session"])]
    pub reload: bool,
    /// Undo it after this time, such as 2m, unless `trainguard confirm` keeps it: the daemon does
    /// it, whatever has become of this terminal
    #[arg(long, value_name = "TIME", value_parser = trial_time)]
    pub confirm_within: Option<Duration>,
    /// Tell what would change and which connections would be cut, and change nothing; exit with 1
    /// if there are any
    #[arg(long, conflicts_with_all = ["confirm_within", "cut_connections", "cut_own_session"])]
    pub dry_run: bool,
    /// What may be cut.
    #[command(flatten)]
    pub cut: CutArgs,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// How to ask the daemon.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `trainguard confirm` and `trainguard rollback`
#[derive(Debug, Args)]
pub struct SettleArgs {
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// How to ask the daemon.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// What services shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WishArg {
    /// Count what they would drop, and drop nothing: this opens the node
    Observe,
    /// Drop, also where the policy says observe
    Enforce,
    /// What the policy says: ends a mode that was set by hand
    Policy,
}

/// `trainguard mode`
#[derive(Debug, Args)]
#[command(after_help = "\
The policy stays what it is; `status` and the metric trainguard_mode_override tell of the override. \
The daemon keeps the time, also over its own restart. A restart of the machine ends what has a time.

Exit codes: 0 done, 1 refused, 2 no answer possible, 3 no daemon")]
pub struct ModeArgs {
    /// What services shall do
    #[arg(value_enum, value_name = "MODE")]
    pub mode: WishArg,
    /// For this long, such as 30m; then the policy's modes are back
    #[arg(long = "for", value_name = "TIME", value_parser = mode_time)]
    pub time: Option<Duration>,
    /// Until somebody changes it. `observe` needs this or --for; for `enforce` it is the default
    #[arg(long, conflicts_with = "time")]
    pub until_changed: bool,
    /// Only this service; may be repeated [default: all services of this node]
    #[arg(long = "service", value_name = "NAME")]
    pub services: Vec<String>,
    /// What may be cut.
    #[command(flatten)]
    pub cut: CutArgs,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// How to ask the daemon.
    #[command(flatten)]
    pub ask: AskArgs,
}

fn trial_time(text: &str) -> Result<Duration, String> {
    time_within(text, control::CONFIRM_WITHIN)
}

fn mode_time(text: &str) -> Result<Duration, String> {
    time_within(text, control::MODE_FOR)
}

fn time_within(text: &str, [shortest, longest]: [Duration; 2]) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (shortest..=longest).contains(&time) {
        return Ok(time);
    }
    let [shortest, longest] = [shortest, longest].map(humantime::format_duration);
    Err(format!("expected {shortest} to {longest}"))
}
