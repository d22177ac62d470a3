//! `trainguard stats`: what passed, what was dropped, and who was refused.

use crate::{
    cli::{Format, StatsArgs},
    daemon::{
        client::{self, ClientError},
        view::Stats,
    },
    exit::Exit,
    kernel::{error::KernelError, pins::Pins, shared::Shared},
    report,
};

/// Runs the verb.
pub fn run(args: &StatsArgs) -> Exit {
    let stats = match client::stats(&args.directories.run_dir) {
        Ok(stats) => stats,
        Err(error @ ClientError::Refused(_)) => {
            report::error(&error);
            return error.exit();
        }
        Err(error) => match pinned(&Pins::at(&args.directories.bpf_dir)) {
            Some(Ok(stats)) => {
                report::talk(format_args!("note: {error}"));
                report::talk("note: counters read from the pinned maps, without top sources");
                stats
            }
            Some(Err(also)) => {
                report::error(&error);
                report::error(&also);
                return error.exit();
            }
            None => {
                report::error(&error);
                report::hint("is it running? with the same --run-dir?");
                return error.exit();
            }
        },
    };
    match args.format {
        Format::Json => report::answer_json(&stats),
        Format::Text => report::stats::print(&stats),
    }
    Exit::Yes
}

/// The counters, without a daemon; none if nothing is pinned.
fn pinned(pins: &Pins) -> Option<Result<Stats, KernelError>> {
    pins.has_maps().then(|| {
        pins.check_layout()?;
        Stats::read(&Shared::open(&pins.directory())?)
    })
}
