//! What the benchmarks on a wire share: two namespaces with a cable between them, CPU time by
//! thread, the guard and others in its place, rounds, and rows to report.

pub mod cpu;
pub mod lab;
pub mod offload;
pub mod policy;
pub mod programs;
pub mod rounds;
pub mod rows;

use std::path::PathBuf;

use clap::Parser;

/// What a benchmark on a wire can be told.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Fewer and shorter rounds: to see that it works, and roughly how things compare
    #[arg(long)]
    pub quick: bool,
    /// Write the figures to this file, as rows of JSON
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Where the kernel objects `bench` and `flood` lie
    #[arg(long, value_name = "DIR")]
    pub objects: PathBuf,
    /// Only cases whose name contains this, and those that they are compared with
    pub filter: Option<String>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// The kernel object with the programs to compare with.
    pub fn yardsticks(&self) -> PathBuf {
        self.objects.join("bench")
    }

    /// The kernel object with the sender.
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
