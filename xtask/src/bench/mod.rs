//! Builds the benchmarks, runs them one after the other, and merges their figures into one file.

pub(crate) mod machine;

use std::{fs, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::{build, sh, toolchain};

/// Schema of the merged file. Raised when a field changes its meaning.
const SCHEMA: &str = "trainguard/bench/v1";

/// The benchmarks: name, and bench target of `guard-tests`.
const BENCHES: [(&str, &str); 6] = [
    ("packet-path", "packet_path"),
    ("hooks", "hooks"),
    ("lookups", "lookups"),
    ("veth", "veth"),
    ("goodput", "goodput"),
    ("flood", "flood"),
];

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Measure fewer rounds: under a minute for all benchmarks
    #[arg(long)]
    quick: bool,
    /// Install the programs to compare with, after listing them
    #[arg(long)]
    install: bool,
    /// Write the figures to this file instead of `target/bench.json`
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Run only this benchmark; may be given several times
    #[arg(long, value_name = "SECTION", value_parser = BENCHES.map(|(name, _)| name))]
    only: Vec<String>,
}

/// Runs the benchmarks. Returns whether all of them completed. A missed target is printed but is not a
/// failure, because the figures depend on the machine.
pub(crate) fn run(args: &BenchArgs) -> Result<bool> {
    if !sh::is_root() {
        bail!(
            "loading BPF programs and creating network namespaces needs root\n  \
             hint: `sudo -E env PATH=$PATH cargo xtask bench`"
        );
    }
    if args.install {
        toolchain::ensure_peers(false)?;
    }
    let benches = chosen(args);
    let objects = prepare(&benches)?;
    let before = machine::facts();
    let started = Instant::now();
    let mut failed = Vec::new();
    let mut merged = Vec::new();
    for (name, target) in benches {
        println!("\n== {name} ==");
        let file =
            tempfile::NamedTempFile::new().context("creating a temporary file for the figures")?;
        let mut cargo = bench(target, &objects.kernel);
        cargo.arg("--objects").arg(&objects.directory).arg("--json").arg(file.path());
        if args.quick {
            cargo.arg("--quick");
        }
        if sh::succeeds(&mut cargo)? {
            let text = fs::read_to_string(file.path())?;
            merged.push(
                serde_json::from_str(&text)
                    .with_context(|| format!("parsing the figures of the benchmark {name}"))?,
            );
        } else {
            failed.push(name);
        }
    }
    let written = write(args, &before, &merged)?;
    println!("\nfigures: {}, {:.0} s", written.display(), started.elapsed().as_secs_f32());
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

/// Returns the benchmarks that the arguments select.
fn chosen(args: &BenchArgs) -> Vec<(&'static str, &'static str)> {
    BENCHES
        .into_iter()
        .filter(|(name, _)| args.only.is_empty() || args.only.iter().any(|only| only == name))
        .collect()
}

/// Paths of the kernel objects.
struct Objects {
    kernel: PathBuf,
    directory: PathBuf,
}

/// Builds the objects and the benchmarks first, so that no build runs during a measurement.
fn prepare(benches: &[(&str, &str)]) -> Result<Objects> {
    let tools = toolchain::ensure(false)?;
    // The flood benchmark runs the daemon.
    let built = build::build(&tools, &build::BuildArgs::default())?;
    let directory = build::bench_objects(&tools)?;
    for (_, target) in benches {
        let mut cargo = sh::cargo();
        cargo.args(["bench", "--package", "guard-tests", "--no-run", "--bench", target]);
        sh::run(cargo.env("TRAINGUARD_OBJECT", &built.object))?;
    }
    Ok(Objects { kernel: built.object, directory })
}

/// Returns a command that runs a bench target with this kernel object. The caller appends the benchmark's
/// arguments.
pub(crate) fn bench(target: &str, object: &std::path::Path) -> Command {
    let mut cargo = sh::cargo();
    cargo.args(["bench", "--quiet", "--package", "guard-tests", "--bench", target, "--"]);
    cargo.env("TRAINGUARD_OBJECT", object);
    cargo.env("TRAINGUARD_BIN", sh::root().join("target/release/trainguard"));
    cargo
}

/// Writes the figures of all benchmarks to one file. Each row names its benchmark.
fn write(args: &BenchArgs, machine: &Value, benches: &[Value]) -> Result<PathBuf> {
    let mut rows = Vec::new();
    let mut notes = serde_json::Map::new();
    for bench in benches {
        let name =
            bench["bench"].as_str().context("the output of a benchmark has no `bench` field")?;
        notes.insert(name.to_owned(), bench["notes"].clone());
        for row in bench["rows"].as_array().into_iter().flatten() {
            let mut row = row.clone();
            row["bench"] = name.into();
            rows.push(row);
        }
    }
    let all = json!({
        "schema": SCHEMA,
        "date": machine::date(),
        "quick": args.quick,
        "machine": machine,
        "notes": notes,
        "rows": rows,
    });
    let path = args.json.clone().unwrap_or_else(|| sh::root().join("target/bench.json"));
    fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
