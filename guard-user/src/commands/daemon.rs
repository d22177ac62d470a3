//! `trainguard daemon`

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::{cli::DaemonArgs, daemon, exit::Exit, policy::compiled::Tunnels};

/// Runs the verb.
pub fn run(args: &DaemonArgs) -> Exit {
    let filter = EnvFilter::try_from_env("TRAINGUARD_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,netlink_packet_route=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    daemon::run(args, Tunnels::all(&args.tunnels))
}
