//! `trainguard stats`: shows passed and dropped packets, and refused sources.

use std::time::Duration;

use crate::{
    api::{client::ClientError, stats::Stats},
    bpf::pins::Pins,
    cli::{ClientArgs, StatsArgs, StatsFormat},
    daemon,
    exit::Exit,
    output,
    report::{
        self,
        stats::{
            model::Reading,
            screen::{TerminalFeatures, live::Live},
            stream::{self, OutputFormat, Plan},
        },
    },
    system_error::SystemError,
};

/// Default time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs `trainguard stats`.
pub fn run(args: &StatsArgs) -> Exit {
    let interval = args.interval.unwrap_or(INTERVAL);
    let form = match args.format {
        Some(StatsFormat::Json) if args.interval.is_some() && args.count.is_none() => {
            output::error("--format json writes one document, so it needs a number of samples");
            output::hint("give a COUNT, or use --format ndjson");
            return Exit::NoAnswer;
        }
        Some(StatsFormat::Json) => OutputFormat::Document,
        Some(StatsFormat::Ndjson) => OutputFormat::Lines,
        Some(StatsFormat::Text) | None => OutputFormat::Rows,
    };
    let first = match first(&args.daemon) {
        Ok(first) => first,
        Err(exit) => return exit,
    };
    if args.once && form == OutputFormat::Rows {
        first.stats().into_iter().for_each(report::stats::print);
        return Exit::Yes;
    }
    let daemon = args.daemon.clone();
    let read = move || later(&daemon);
    let endless = !args.once && args.count.is_none();
    let first = match args.format {
        None if endless && report::stats::suits_a_screen() => {
            match live(first, interval, args, read.clone()) {
                Ok(exit) => return exit,
                Err(first) => *first,
            }
        }
        _ => first,
    };
    // A JSON document must end, so without a count it has one sample.
    let once = args.once || (form == OutputFormat::Document && args.count.is_none());
    let count = if once { Some(1) } else { args.count };
    stream::run(first, Plan { form, interval, count }, read)
}

/// Shows the live screen; returns the reading if this terminal does not support one.
fn live(
    first: Reading,
    interval: Duration,
    args: &StatsArgs,
    read: impl FnMut() -> Reading + Send + 'static,
) -> Result<Exit, Box<Reading>> {
    // Used only in the commands that the screen proposes.
    let manifest = args.daemon.client().status().ok().map(|status| status.manifest);
    let live = match Live::open(&first, manifest, TerminalFeatures::of_terminal(args.color)) {
        Ok(live) => live,
        Err(error) => {
            output::message(format_args!(
                "note: this terminal cannot show the live screen ({error}); writing rows instead"
            ));
            return Err(Box::new(first));
        }
    };
    match live.run(interval, read) {
        Ok(()) => Ok(Exit::Yes),
        Err(error) => {
            output::error(format_args!("cannot use the terminal: {error}"));
            Ok(Exit::NoAnswer)
        }
    }
}

/// Takes the first reading. If there is none, prints the error and returns the exit code for it.
fn first(daemon: &ClientArgs) -> Result<Reading, Exit> {
    let error = match daemon.client().stats() {
        Ok(stats) => return Ok(Reading::Answered(Box::new(stats))),
        Err(error @ ClientError::Refused(_)) => {
            output::error(&error);
            return Err(error.exit());
        }
        Err(error) => error,
    };
    match pinned(&Pins::at(&daemon.directories.bpf_dir)) {
        Some(Ok(stats)) => {
            output::message(format_args!("note: {error}"));
            output::message("note: counters read from the pinned maps, without top sources");
            Ok(Reading::Pinned(Box::new(stats), error.to_string()))
        }
        Some(Err(also)) => {
            output::error(&error);
            output::error(&also);
            Err(error.exit())
        }
        None => {
            output::error(&error);
            output::hint("check that the daemon runs with the same --run-dir");
            Err(error.exit())
        }
    }
}

/// Takes a later reading. A failure is not final, because the next reading may succeed.
fn later(daemon: &ClientArgs) -> Reading {
    let why = match daemon.client().stats() {
        Ok(stats) => return Reading::Answered(Box::new(stats)),
        Err(error @ ClientError::Refused(_)) => return Reading::Nothing(error.to_string()),
        Err(error) => error.to_string(),
    };
    match pinned(&Pins::at(&daemon.directories.bpf_dir)) {
        Some(Ok(stats)) => Reading::Pinned(Box::new(stats), why),
        Some(Err(also)) => Reading::Nothing(format!("{why}; {also}")),
        None => Reading::Nothing(why),
    }
}

/// Reads the pinned counters, without a daemon; none if nothing is pinned.
fn pinned(pins: &Pins) -> Option<Result<Stats, SystemError>> {
    match pins.shared() {
        Ok(shared) => shared.map(|shared| daemon::read_counters(&shared)),
        Err(error) => Some(Err(error)),
    }
}
