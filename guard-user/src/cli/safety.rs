//! Subcommands that change the policy in force.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::ClientArgs;
use crate::{api::control, output::Format};

/// Consent to dropping open connections.
#[derive(Debug, Clone, Args)]
pub struct CutArgs {
    /// Proceed even if open connections are dropped (they are listed)
    #[arg(long)]
    pub cut_connections: bool,
    /// Proceed even if your own ssh session appears to be dropped: use this only with console access
    /// or another way in
    #[arg(long)]
    pub cut_own_session: bool,
}

/// `trainguard apply`
#[derive(Debug, Args)]
#[command(after_help = "\
Before the switch, every open TCP connection between this node and another host is evaluated \
against the new policy. If the policy would drop packets of a connection that passes now, nothing \
is changed and the connections are listed (exit code 1). Connections that would continue but could \
not be opened again are listed as well.

Exit codes: 0 done, 1 refused, 2 error, 3 daemon not reachable")]
pub struct ApplyArgs {
    /// The cluster manifest; the daemon stores it with all files it names, and does not follow them
    #[arg(value_name = "MANIFEST", required_unless_present = "reload")]
    pub manifest: Option<PathBuf>,
    /// Let the daemon reload the files that it follows, instead of a MANIFEST; exit with 1 if it
    /// refuses them and keeps the policy in force
    #[arg(long, conflicts_with_all = ["manifest", "confirm_within", "dry_run", "cut_connections", "cut_own_session"])]
    pub reload: bool,
    /// Roll back after this time, such as 2m, unless `trainguard confirm` is called; the daemon does
    /// so even if this terminal is gone
    #[arg(long, value_name = "TIME", value_parser = trial_time)]
    pub confirm_within: Option<Duration>,
    /// Show what would change and which connections would be dropped, without applying it; exit
    /// with 1 if connections would be dropped
    #[arg(long, conflicts_with_all = ["confirm_within", "cut_connections", "cut_own_session"])]
    pub dry_run: bool,
    /// Consent to dropping open connections.
    #[command(flatten)]
    pub cut: CutArgs,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Options of the request to the daemon.
    #[command(flatten)]
    pub daemon: ClientArgs,
}

/// `trainguard confirm` and `trainguard rollback`
#[derive(Debug, Args)]
pub struct TrialArgs {
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Options of the request to the daemon.
    #[command(flatten)]
    pub daemon: ClientArgs,
}

/// The mode of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceModeArg {
    /// Count the packets that enforce would drop, and drop nothing: this opens the node
    Observe,
    /// Drop, even if the policy says observe
    Enforce,
    /// The mode in the policy: ends an override
    Policy,
}

/// `trainguard mode`
#[derive(Debug, Args)]
#[command(after_help = "\
The policy is not changed; `status` and the metric trainguard_mode_override show the override. The \
deadline survives a restart of the daemon. A reboot ends an override that has a deadline.

Exit codes: 0 done, 1 refused, 2 error, 3 daemon not reachable")]
pub struct ModeArgs {
    /// The mode
    #[arg(value_enum, value_name = "MODE")]
    pub mode: ServiceModeArg,
    /// Duration of the override, such as 30m; then the policy's modes apply again
    #[arg(long = "for", value_name = "TIME", value_parser = mode_time)]
    pub time: Option<Duration>,
    /// Keep the override until it is changed. `observe` needs this or --for; for `enforce` it is the
    /// default
    #[arg(long, conflicts_with = "time")]
    pub until_changed: bool,
    /// Only this service; may be repeated [default: all services of this node]
    #[arg(long = "service", value_name = "NAME")]
    pub services: Vec<String>,
    /// Consent to dropping open connections.
    #[command(flatten)]
    pub cut: CutArgs,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Options of the request to the daemon.
    #[command(flatten)]
    pub daemon: ClientArgs,
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
