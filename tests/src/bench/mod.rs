//! Code shared by the benchmarks. `cargo xtask bench` runs them: it builds both kernel objects and
//! merges the benchmarks' output.
//!
//! Figures stay comparable on a machine where other work runs because they are CPU time of the measuring
//! thread, not wall-clock time; because the programs to compare are measured alternately in one run, in
//! changing order; and because ratios are medians over the ratios of each round, not ratios of medians.

pub mod guard;
pub mod hold;
pub mod object;
pub mod report;
pub mod run;
pub mod stats;
pub mod xdp_filter;

use std::path::PathBuf;

use clap::Parser;

/// Command-line arguments of every benchmark.
#[derive(Debug, Clone, Parser)]
#[command(max_term_width = 100)]
pub struct Arguments {
    /// Fewer and shorter rounds: 15 to 20 seconds, enough for a first look
    #[arg(long)]
    pub quick: bool,
    /// Write the figures here as JSON
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Directory with the kernel objects `bench` and `flood`
    #[arg(long, value_name = "DIR")]
    pub objects: PathBuf,
    /// Only cases whose name contains this text, and the cases that they are compared with
    pub filter: Option<String>,
    /// Accepted because `cargo bench` passes it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// Returns the path of the kernel object with the reference programs.
    pub fn reference_programs(&self) -> PathBuf {
        self.objects.join("bench")
    }

    /// Returns the path of the kernel object that sends floods.
    pub fn sender(&self) -> PathBuf {
        self.objects.join("flood")
    }

    /// Returns one of two values: the first for a quick run.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Reports whether a case is selected.
    pub fn wants(&self, case: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| case.contains(filter))
    }
}
