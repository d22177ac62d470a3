//! What the benchmarks share. They are run by `cargo xtask bench`, which builds both kernel objects
//! and merges what the benchmarks write.
//!
//! What makes a figure worth something on a machine where other work runs: it is CPU time of the
//! measuring thread, never time on the wall; what is compared is measured in turns in one run,
//! in changing order; and ratios are medians over the ratios of each round, not ratios of medians.

pub mod hold;
pub mod object;
pub mod report;
pub mod run;
pub mod stats;

use std::path::PathBuf;

use clap::Parser;

/// What every benchmark is told.
#[derive(Debug, Clone, Parser)]
#[command(max_term_width = 100)]
pub struct BenchArgs {
    /// Few rounds: 15 to 20 seconds, good for a look
    #[arg(long)]
    pub quick: bool,
    /// Write the figures here as JSON
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Where the kernel object `bench` lies
    #[arg(long, value_name = "DIR")]
    pub objects: PathBuf,
    /// `cargo bench` says it to everyone
    #[arg(long, hide = true)]
    bench: bool,
}

impl BenchArgs {
    /// The kernel object with the yardsticks.
    pub fn object(&self) -> PathBuf {
        self.objects.join("bench")
    }

    /// Rounds of a measurement: `quick` of them, or enough for a median that stays.
    pub fn rounds(&self, quick: usize, full: usize) -> usize {
        if self.quick { quick } else { full }
    }
}
