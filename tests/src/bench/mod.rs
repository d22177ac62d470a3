//! What the benchmarks share. They are run by `cargo xtask bench`, which builds both kernel objects
//! and merges what the benchmarks write.
//!
//! What makes a figure worth something on a machine where other work runs: it is CPU time of the
//! measuring thread, never time on the wall; what is compared is measured in turns in one run,
//! in changing order; and ratios are medians over the ratios of each round, not ratios of medians.

pub mod guard;
pub mod hold;
pub mod object;
pub mod report;
pub mod run;
pub mod stats;
pub mod xdp_filter;

use std::path::PathBuf;

use clap::Parser;

/// What every benchmark is told.
#[derive(Debug, Clone, Parser)]
#[command(max_term_width = 100)]
pub struct Arguments {
    /// Fewer and shorter rounds: 15 to 20 seconds, good for a look
    #[arg(long)]
    pub quick: bool,
    /// Write the figures here as JSON
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Where the kernel objects `bench` and `flood` lie
    #[arg(long, value_name = "DIR")]
    pub objects: PathBuf,
    /// Only cases whose name contains this, and those that they are compared with
    pub filter: Option<String>,
    /// `cargo bench` says it to everyone
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// The kernel object with the programs to compare with.
    pub fn yardsticks(&self) -> PathBuf {
        self.objects.join("bench")
    }

    /// The kernel object with the sender of floods.
    pub fn sender(&self) -> PathBuf {
        self.objects.join("flood")
    }

    /// One of two values: the first for a quick run.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Whether a case is wanted.
    pub fn wants(&self, case: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| case.contains(filter))
    }
}
