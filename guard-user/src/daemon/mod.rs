//! The daemon: keeps the kernel in step with the files.
//!
//! One thread, one loop: files, devices, events and requests are looked at one after the other, so
//! the guard needs no locks and no state is seen half changed.
//!
//! The state has four owners, which do not know each other. `main_loop` and `switch` hand what one of
//! them changes to the others.
//!
//! | owner | owns |
//! | --- | --- |
//! | `policy::Lifecycle` | which policy is in force, where it comes from, what may replace it |
//! | `interfaces::Interfaces` | devices, what is attached to them, what is pinned |
//! | `telemetry::Telemetry` | events, counters of the daemon, refused sources |
//! | `serve::Serving` | connections, requests that wait, the audit log, the service manager |

mod deadline;
mod install_error;
pub(crate) mod interfaces;
mod main_loop;
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
    bpf::pins::{self, Newer},
    exit::Exit,
    file_permissions,
    logs::Log,
    policy::syntax::text::shell_word,
    system_error::SystemError,
};

/// What to do about an interface that a guard of a newer layout still has.
const RUN_AGAIN_HINT: &str =
    "it stays guarded, by the newer one; run the command again once that is mended";

/// Runs until a signal ends it. The guard outlives it.
pub fn run(options: Options) -> Exit {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
    let log = options.log.clone();
    let newer = Newer::Refuse { instead: downgrade_command(&options.bpf_dir) };
    explained(&log, main_loop::run_until_signal(options, newer))
}

/// Takes over from a guard of a newer layout, once; the guard outlives it. Fails if an interface is left to
/// that guard.
pub fn downgrade(options: Options) -> Exit {
    let log = options.log.clone();
    explained(&log, async {
        let (bpf_dir, state_dir) = (options.bpf_dir.clone(), options.state_dir.clone());
        let claim = Claim::take(&options.bpf_dir, &Newer::TakeOver)?;
        let limits = Arc::new(ConnectionLimits::new(&options.timing));
        let mut daemon = Daemon::start(options, claim, limits).await?;
        daemon.save_counters();
        for directory in [bpf_dir, state_dir] {
            // One that could not be made was reported at the start.
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

/// Runs something, and explains what became of it.
fn explained(log: &Log, work: impl Future<Output = Result<(), InstallError>>) -> Exit {
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
    log.tell();
    exit
}

/// The shell command that takes over from a guard of a newer layout, with the options of this daemon.
fn downgrade_command(bpf_dir: &Path) -> String {
    let given = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let mut words: Vec<String> = Vec::new();
    for word in given {
        match words.last().map(String::as_str) {
            // Named at the end: a unit may have the pins mounted where nobody else sees them.
            Some("--bpf-dir") => drop(words.pop()),
            _ if word.starts_with("--bpf-dir=") => {}
            _ if words.len() == 1 => words.push("downgrade".to_owned()),
            _ => words.push(word),
        }
    }
    words.push("--bpf-dir".to_owned());
    words.push(pins::seen_by_others(bpf_dir).display().to_string());
    words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
}
