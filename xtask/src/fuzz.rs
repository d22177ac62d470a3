//! `cargo xtask fuzz`: builds the fuzz targets in `fuzz` and runs each for a limited time.
//!
//! The stable compiler can instrument for coverage (`sancov-module` of LLVM), which is all that libFuzzer
//! needs; cargo-fuzz would need a nightly compiler. There is no address sanitizer: the code under test has
//! no `unsafe`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    files::{files_in, read},
    sh,
};

/// The targets, as `fuzz/Cargo.toml` names them.
const TARGETS: [&str; 4] = ["policy", "capture", "frame", "api"];
/// Given explicitly, so that the flags do not apply to build scripts and macros.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=4";
/// Maximum size of an input in bytes: longer ones only make runs slower.
const MAX_INPUT: usize = 16 * 1024;
/// Seconds after which a single input counts as a hang.
const INPUT_TIMEOUT: u32 = 25;
/// Memory limit of a target in MiB.
const MEMORY_MIB: u32 = 2048;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only this target; may be repeated
    #[arg(long = "target", value_name = "NAME", value_parser = TARGETS)]
    targets: Vec<String>,
}

/// Builds and runs the targets. Returns whether none found anything.
pub(crate) fn run(args: &FuzzArgs) -> Result<bool> {
    let directory = sh::root().join("target/fuzz");
    build(&directory)?;
    let chosen = TARGETS
        .into_iter()
        .filter(|name| args.targets.is_empty() || args.targets.iter().any(|it| it == name));
    let mut failed = Vec::new();
    for name in chosen {
        println!("\n== {name} ==");
        if !fuzz(&directory, name, args.seconds)? {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("\nfindings of {}; the inputs are in {}", failed.join(", "), directory.display());
    }
    Ok(failed.is_empty())
}

fn build(directory: &Path) -> Result<()> {
    if sh::find("c++").is_none() {
        bail!("libFuzzer needs a C++ compiler\n  hint: on Debian, `apt-get install g++`");
    }
    println!("building the fuzz targets, which takes minutes the first time");
    let mut cargo = sh::cargo();
    cargo.args(["build", "--release", "--target", TRIPLE, "--manifest-path", "fuzz/Cargo.toml"]);
    cargo.arg("--target-dir").arg(directory).env("RUSTFLAGS", FLAGS);
    // `.ci/rustc` records compilations for the checks, which these are not.
    cargo.env_remove("RUSTC_WORKSPACE_WRAPPER");
    sh::run(&mut cargo)
}

/// Runs a target. Returns whether it found nothing.
fn fuzz(directory: &Path, name: &str, seconds: u32) -> Result<bool> {
    let corpus = directory.join("corpus").join(name);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    for (number, seed) in seeds(name)?.into_iter().enumerate() {
        let file = corpus.join(format!("seed-{number}"));
        fs::write(&file, seed).with_context(|| file.display().to_string())?;
    }
    let mut command = Command::new(directory.join(TRIPLE).join("release").join(name));
    command.arg(&corpus).current_dir(sh::root());
    command.arg(format!("-artifact_prefix={}/{name}-", directory.display()));
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={MAX_INPUT}"),
        format!("-timeout={INPUT_TIMEOUT}"),
        format!("-rss_limit_mb={MEMORY_MIB}"),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
    ]);
    sh::succeeds(&mut command)
}

/// Returns the first inputs of a target.
fn seeds(name: &str) -> Result<Vec<Vec<u8>>> {
    let root = sh::root();
    let mut seeds = Vec::new();
    match name {
        "policy" => {
            let manifest = read(&root.join("tests/worlds/cluster.yaml"))?;
            for policy in with_extension(&root.join("tests/worlds"), "yaml")? {
                seeds.push([manifest.as_slice(), &[0], &read(&policy)?].concat());
            }
        }
        "capture" => {
            for capture in with_extension(&root.join("tests/captures"), "pcap")? {
                let mut bytes = read(&capture)?;
                bytes.truncate(MAX_INPUT);
                seeds.push(bytes);
            }
        }
        "frame" => {
            for port in [9091_u16, 22] {
                let frame = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                    .ipv4([10, 0, 1, 7], [10, 0, 0, 1], 64)
                    .tcp(40_000, port, 1, 1024);
                let mut bytes = vec![0, 0];
                frame.write(&mut bytes, &[]).context("a frame")?;
                seeds.push(bytes);
            }
        }
        _ => seeds.extend([
            br#"{"schema":"trainguard/event/v1","verdict":"drop","reason":"not_allowed"}"#.to_vec(),
            br#"{"frame":1,"action":"drop","reason":"not_allowed","service":null}"#.to_vec(),
            br#"{"mode":"observe","services":[],"seconds":60}"#.to_vec(),
        ]),
    }
    Ok(seeds)
}

/// Returns the files of a directory with this extension, sorted.
fn with_extension(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = files_in(directory)?;
    files.retain(|path| path.extension().is_some_and(|it| it == extension));
    Ok(files)
}
