//! The daemon: keeps the guard in the kernel consistent with the policy files.
//!
//! One thread runs one loop (`main_loop.rs`). The loop handles files, devices, events and requests one
//! after the other, so the daemon needs no locks and never sees half-changed state.
//!
//! The state has four owners. No owner holds another one: `main_loop.rs` and `switch.rs` pass the
//! results of one owner to the others.
//!
//! | owner | owns |
//! | --- | --- |
//! | `policy::Lifecycle` | the policy in force, where it came from, and what may replace it |
//! | `interfaces::Interfaces` | the devices, the attached programs, the pinned links and maps |
//! | `telemetry::Telemetry` | the events, the daemon's own counters, the refused sources |
//! | `serve::Serving` | the connections, the waiting requests, the audit log, the service manager |
//!
//! Policies reach the kernel by one path: `Lifecycle` compiles a candidate and calls
//! `policy::Dataplane`. `switch.rs` implements this trait on top of the other three owners.
//! `requests.rs` answers clients, and `status.rs` assembles the status from all four owners.

mod deadline;
mod install_error;
pub(crate) mod interfaces;
mod main_loop;
pub mod node_state;
pub mod offline_status;
mod options;
mod policy;
mod requests;
mod serve;
mod signals;
mod status;
mod switch;
mod telemetry;
pub mod timing;
mod trusted_files;

use std::{io, path::Path, sync::Arc};

use self::{
    install_error::InstallError, interfaces::Claim, main_loop::Daemon,
    serve::connection_limits::ConnectionLimits,
};
pub use self::{
    interfaces::attach::AttachMode, options::Options, serve::metrics::declared as metrics,
    telemetry::counters::read as read_counters,
};
use crate::{
    bpf::pins::{self, NewerGuard},
    exit::Exit,
    file_permissions,
    logs::Log,
    policy::syntax::text::shell_word,
    system_error::SystemError,
};

/// Hint of the error of [`downgrade`] if a guard of a newer layout still guards an interface.
const RUN_AGAIN_HINT: &str =
    "the newer version still guards the interface; correct the problem, then run the command again";

/// Runs the daemon until a signal ends it. The guard stays attached after the daemon has ended.
pub fn run(options: Options) -> Exit {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
    let log = options.log.clone();
    let newer = NewerGuard::Refuse { command: downgrade_command(&options.bpf_dir) };
    run_logged(&log, main_loop::run_until_signal(options, newer))
}

/// Takes over once from a guard of a newer layout, then ends; the guard stays attached. Fails if a
/// guard of another layout still guards an interface.
pub fn downgrade(options: Options) -> Exit {
    let log = options.log.clone();
    run_logged(&log, async {
        let (bpf_dir, state_dir) = (options.bpf_dir.clone(), options.state_dir.clone());
        let claim = Claim::take(&options.bpf_dir, &NewerGuard::TakeOver)?;
        let limits = Arc::new(ConnectionLimits::new(&options.timing));
        let mut daemon = Daemon::start(options, claim, limits).await?;
        daemon.save_counters();
        for directory in [bpf_dir, state_dir] {
            // A directory that could not be created was reported at the start.
            match file_permissions::hand_over(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let what = format!("giving `{}` to the daemon's user", directory.display());
                    return Err(InstallError::System(SystemError::of(what, error)));
                }
                _ => {}
            }
        }
        match daemon.interfaces.not_taken_over()? {
            Some(why) => Err(InstallError::Unfit(why, Some(RUN_AGAIN_HINT))),
            None => Ok(()),
        }
    })
}

/// Runs a future to its end, logs its error, and returns the exit code.
fn run_logged(log: &Log, work: impl Future<Output = Result<(), InstallError>>) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(InstallError::System(SystemError::of("starting the daemon", error))),
    };
    let exit = match result {
        Ok(()) => Exit::Yes,
        Err(error) => {
            error.explain();
            Exit::NoAnswer
        }
    };
    log.write_summary();
    exit
}

/// Returns the shell command that takes over from a guard of a newer layout, with this daemon's
/// options.
fn downgrade_command(bpf_dir: &Path) -> String {
    let given = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let mut words: Vec<String> = Vec::new();
    for word in given {
        match words.last().map(String::as_str) {
            // Appended at the end instead: a systemd unit may have the pins mounted at a path that only
            // the unit sees.
            Some("--bpf-dir") => drop(words.pop()),
            _ if word.starts_with("--bpf-dir=") => {}
            _ if words.len() == 1 => words.push("downgrade".to_owned()),
            _ => words.push(word),
        }
    }
    words.push("--bpf-dir".to_owned());
    words.push(pins::host_path(bpf_dir).display().to_string());
    words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
}
