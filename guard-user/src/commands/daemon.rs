//! `trainguard daemon` and `trainguard downgrade`.

use tracing_subscriber::EnvFilter;

use crate::{
    attach_mode::Mode,
    cli::{AttachModeArg, DaemonArgs},
    daemon::{self, AttachMode, Options},
    exit::Exit,
    logs::Log,
    output,
    policy::compiled::Tunnels,
};

/// Hides the library's warnings about link attributes that it does not know; newer kernels send
/// some.
const DEFAULT_LOG_FILTER: &str = "info,netlink_packet_route=error";

/// Runs `trainguard daemon`.
pub fn run(args: &DaemonArgs) -> Exit {
    with_log(|log| daemon::run(options(args, log)))
}

/// Runs `trainguard downgrade`.
pub fn downgrade(args: &DaemonArgs) -> Exit {
    with_log(|log| daemon::downgrade(options(args, log)))
}

fn options(args: &DaemonArgs, log: Log) -> Options {
    Options {
        manifest: args.manifest.clone(),
        node: args.node.clone(),
        interfaces: args.interfaces.clone(),
        mode: match args.mode {
            AttachModeArg::Native => AttachMode::Only(Mode::Native),
            AttachModeArg::Generic => AttachMode::Only(Mode::Generic),
            AttachModeArg::Auto => AttachMode::Auto,
            AttachModeArg::Tcx => AttachMode::Only(Mode::Tcx),
        },
        tunnels: Tunnels::all(&args.tunnels),
        wait: args.wait,
        policy_key: args.policy_key.clone(),
        metrics_listen: args.metrics_listen,
        state_dir: args.state_dir.clone(),
        run_dir: args.directories.run_dir.clone(),
        bpf_dir: args.directories.bpf_dir.clone(),
        timing: args.timing.unwrap_or_default(),
        log,
    }
}

fn with_log(run: impl FnOnce(Log) -> Exit) -> Exit {
    let wanted = std::env::var("TRAINGUARD_LOG").ok();
    let filter = match wanted.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            output::error(format_args!("TRAINGUARD_LOG: {error}"));
            output::hint("set a level, such as TRAINGUARD_LOG=debug");
            return Exit::NoAnswer;
        }
        None => EnvFilter::new(DEFAULT_LOG_FILTER),
    };
    run(Log::start(filter))
}
