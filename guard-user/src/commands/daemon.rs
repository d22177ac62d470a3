//! `trainguard daemon` and `trainguard downgrade`

use tracing_subscriber::EnvFilter;

use crate::{cli::DaemonArgs, daemon, exit::Exit, logs::Log, policy::compiled::Tunnels, report};

/// A kernel may know more attributes of a device than the library, which need not be said.
const QUIETER: &str = "info,netlink_packet_route=error";

/// Runs `daemon`.
pub fn run(args: &DaemonArgs) -> Exit {
    with_log(|log| daemon::run(args, Tunnels::all(&args.tunnels), log))
}

/// Runs `downgrade`.
pub fn downgrade(args: &DaemonArgs) -> Exit {
    with_log(|log| daemon::downgrade(args, Tunnels::all(&args.tunnels), log))
}

fn with_log(run: impl FnOnce(&Log) -> Exit) -> Exit {
    let wanted = std::env::var("TRAINGUARD_LOG").ok();
    let filter = match wanted.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            report::error(format_args!("TRAINGUARD_LOG: {error}"));
            report::hint("write a level, as in TRAINGUARD_LOG=debug");
            return Exit::NoAnswer;
        }
        None => EnvFilter::new(QUIETER),
    };
    run(&Log::start(filter))
}
