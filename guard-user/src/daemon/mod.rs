//! Keeps the kernel in step with the files.
//!
//! One thread, one loop: files, devices, events and requests are looked at one after the other, so
//! the guard needs no locks and no state is seen half changed.

mod answers;
mod attach;
mod audit;
mod caller;
mod check;
pub mod client;
pub mod connections;
pub mod cuts;
mod deadline;
mod digest;
mod doors;
pub(crate) mod drift;
mod exposition;
pub mod facts;
mod failure;
mod guard;
pub(crate) mod interfaces;
mod journal;
mod links;
mod metrics;
pub mod mode;
mod readers;
pub mod server;
mod service;
pub mod signature;
mod state;
mod status;
mod strangers;
pub mod stray;
mod surroundings;
mod takeover;
mod tallies;
pub mod timing;
mod top;
pub mod trial;
mod trusted;
mod versioned;
pub mod view;
mod watch;

use std::{
    fs,
    future::poll_fn,
    io,
    os::unix::{self, fs::MetadataExt as _},
    path::Path,
    sync::Arc,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use self::{
    attach::AttachMode,
    doors::Doors,
    failure::Failure,
    guard::{Claim, Guard, Wanted, Woken},
    timing::Timing,
};
use crate::{
    cli::{DaemonArgs, ModeArg},
    exit::Exit,
    kernel::{
        error::KernelError,
        mode::Mode,
        pins::{self, Newer},
    },
    logs::Log,
    policy::{compiled::Tunnels, syntax::text::shell_word},
};

/// Requests that wait for the loop.
const REQUESTS: usize = 64;

/// Runs until a signal ends it. The guard outlives it.
pub fn run(args: &DaemonArgs, tunnels: Tunnels, log: &Log) -> Exit {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
    explained(log, guard_until_signal(args, wanted(args, tunnels, log)))
}

/// Takes over from a guard of a newer layout, once; the guard outlives it.
pub fn downgrade(args: &DaemonArgs, tunnels: Tunnels, log: &Log) -> Exit {
    explained(log, async {
        let wanted = wanted(args, tunnels, log);
        let claim = Claim::take(&args.directories.bpf_dir, &Newer::TakeOver)?;
        let doors = Arc::new(Doors::new(&wanted.timing));
        let mut guard = Guard::start(wanted, claim, doors, &args.state_dir).await?;
        guard.keep_tallies();
        for directory in [&args.directories.bpf_dir, &args.state_dir] {
            hand_over(directory).map_err(|error| {
                let what = format!("giving `{}` to the daemon's user", directory.display());
                Failure::System(KernelError::of(what, error))
            })?;
        }
        Ok(())
    })
}

/// Gives what is in a directory to the directory's owner: the user of a service, for whom root ran the
/// command, and who is to go on with it.
fn hand_over(directory: &Path) -> io::Result<()> {
    let owner = fs::metadata(directory)?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if (metadata.uid(), metadata.gid()) != (owner.uid(), owner.gid()) {
            unix::fs::lchown(&path, Some(owner.uid()), Some(owner.gid()))?;
        }
        if metadata.is_dir() {
            hand_over(&path)?;
        }
    }
    Ok(())
}

fn wanted(args: &DaemonArgs, tunnels: Tunnels, log: &Log) -> Wanted {
    let mode = match args.mode {
        ModeArg::Native => AttachMode::Only(Mode::Native),
        ModeArg::Generic => AttachMode::Only(Mode::Generic),
        ModeArg::Auto => AttachMode::Auto,
        ModeArg::Tcx => AttachMode::Only(Mode::Tcx),
    };
    let timing = args.timing.unwrap_or_default();
    Wanted {
        manifest: args.manifest.clone(),
        node: args.node.clone(),
        interfaces: args.interfaces.clone(),
        mode,
        tunnels,
        wait: args.wait,
        policy_key: args.policy_key.clone(),
        timing,
        log: log.clone(),
    }
}

/// Runs something, and explains what became of it.
fn explained(log: &Log, work: impl Future<Output = Result<(), Failure>>) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(Failure::System(KernelError::of("starting the daemon", error))),
    };
    let exit = match result {
        Ok(()) => Exit::Yes,
        Err(failure) => {
            failure.explain();
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

async fn guard_until_signal(args: &DaemonArgs, wanted: Wanted) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let bpf_dir = &args.directories.bpf_dir;
    let claim = Claim::take(bpf_dir, &Newer::Refuse { instead: downgrade_command(bpf_dir) })?;
    let (asks, mut asked) = mpsc::channel(REQUESTS);
    let doors = Arc::new(Doors::new(&wanted.timing));
    let run_dir = &args.directories.run_dir;
    // Before anything is attached: a guard that nobody can ask is not to come into force.
    let _sockets = server::serve(run_dir, &asks, &doors).map_err(|error| {
        let what = format!("opening the sockets in `{}`", run_dir.display());
        Failure::System(KernelError::of(what, error).hint("choose another with --run-dir"))
    })?;
    if let Some(address) = args.metrics_listen {
        server::serve_metrics(address, &asks, &doors).await.map_err(|error| {
            let what = format!("listening on {address} for --metrics-listen");
            Failure::System(KernelError::of(what, error))
        })?;
    }
    let Timing { files, look, events, summary, manager, settle, .. } = wanted.timing;
    let mut guard = Guard::start(wanted, claim, doors, &args.state_dir).await?;
    let [mut files, mut look, mut events, mut summary, mut manager] =
        [files, look, events, summary, manager].map(|period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
    loop {
        tokio::select! {
            _ = files.tick() => {
                guard.check_trial();
                guard.check_mode();
                guard.check_files();
            }
            _ = look.tick() => guard.look().await,
            _ = events.tick() => {
                guard.drain_events();
                guard.keep_tallies();
            }
            _ = summary.tick() => guard.tell().await,
            _ = manager.tick() => guard.tell_service().await,
            woken = guard.woken() => match woken {
                Woken::Devices => {
                    // At once, so that what has just appeared is not open; the rest of a burst
                    // together.
                    guard.look().await;
                    guard.tell_service().await;
                    tokio::time::sleep(settle).await;
                }
                Woken::Events => guard.drain_events(),
                Woken::Readers => guard.answer_readers().await,
            },
            Some(ask) = asked.recv() => guard.answer(ask).await,
            signal = signals.next() => match signal {
                Wish::Reload => guard.hang_up(),
                Wish::End => break,
            },
        }
    }
    guard.service.stopping();
    guard.keep_tallies();
    tracing::info!("ending; the guard stays in force, `trainguard detach` takes it off");
    Ok(())
}

/// What a signal asks for.
enum Wish {
    Reload,
    End,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::System(KernelError::of("listening to signals", error)))
        };
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Wish {
        poll_fn(|context| {
            if self.terminate.poll_recv(context).is_ready()
                || self.interrupt.poll_recv(context).is_ready()
            {
                return std::task::Poll::Ready(Wish::End);
            }
            self.hangup.poll_recv(context).map(|_| Wish::Reload)
        })
        .await
    }
}
