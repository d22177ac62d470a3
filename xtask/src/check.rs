//! The gates that need no kernel: each runs, whatever the others say.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    build::{self, PACKAGES},
    layers, layout, one_build, sh, tidy, toolchain,
    units::Units,
};

/// How to check.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Take note of a changed memory layout whose version was raised
    #[arg(long)]
    bless_layout: bool,
    /// Check the build for CI with no features but its own, too: this compiles its dependencies again
    #[arg(long)]
    own_features: bool,
}

/// Runs the gates; whether all are passed.
pub(crate) fn run(args: &CheckArgs) -> Result<bool> {
    if args.bless_layout {
        layout::bless()?;
    }
    toolchain::ensure_components()?;
    toolchain::ensure_cargo_deny()?;
    let always: [(&str, Gate); 11] = [
        ("format", || cargo(&["fmt", "--all", "--check"], &[])),
        ("the build for CI, without kernel and terminal", || {
            // Among packages that ask for the features of the other builds. The tests ask for the daemon.
            let without_tests =
                PACKAGES.into_iter().filter(|name| *name != "--package=guard-tests");
            build_for_ci(&without_tests.collect::<Vec<_>>())
        }),
        ("clippy", lint),
        // By itself: together with the others its dependencies would get their features, and with
        // them the standard library.
        ("clippy of the kernel crate", || {
            clippy(&["--package=guard-ebpf", "--package=aya-build", "--profile", "kernel-check"])
        }),
        ("licences, bans, sources", || {
            Ok(deny(&["check", "licenses", "bans", "sources"])?.status()?.success())
        }),
        ("advisories, where they can be had", advisories),
        ("documentation", document),
        ("layout of what is pinned", layout::run),
        ("one build", one_build::run),
        ("order of modules", layers::run),
        ("repository rules", tidy::run),
    ];
    let mut gates = Vec::from(always);
    if args.own_features {
        gates.push(("the build for CI by itself", || build_for_ci(&["--package=guard-user"])));
    }
    let mut failed = Vec::new();
    for (name, gate) in gates {
        let passed = gate()?;
        println!("{}: {name}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

type Gate = fn() -> Result<bool>;

/// The build without default features: it compiles among `packages`, and brings nothing along that
/// its users have no use for.
fn build_for_ci(packages: &[&str]) -> Result<bool> {
    const UNWANTED: [&str; 10] = [
        "aya",
        "aya-obj",
        "tokio",
        "hyper",
        "rtnetlink",
        "netlink-packet-sock-diag",
        "indicatif",
        "console",
        "crossterm",
        "ratatui",
    ];
    let mut tree = sh::cargo();
    tree.args(["tree", "--package", "guard-user", "--no-default-features"])
        .args(["--edges", "normal", "--prefix", "none"]);
    let tree = sh::read(&mut tree)?;
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let found: BTreeSet<&str> = names.filter(|name| UNWANTED.contains(name)).collect();
    if !found.is_empty() {
        println!("it depends on {found:?}");
    }
    let build = [packages, &["--no-default-features", "--lib"]].concat();
    let passed = if Units::are_recorded() {
        // Linted with the others, and the binary with it: cargo would put that one where the tests, which
        // run beside this, find theirs.
        cargo(&[&["build", "--quiet"], &build[..]].concat(), &[])?
    } else {
        clippy(&[&build[..], &["--bins"]].concat())?
    };
    Ok(passed && found.is_empty())
}

fn lint() -> Result<bool> {
    if !Units::are_recorded() {
        return clippy(&[&PACKAGES[..], &["--all-targets"]].concat());
    }
    // The tests call no benchmarks.
    let all = [&["build", "--quiet"], &PACKAGES[..], &["--all-targets"]].concat();
    Ok(cargo(&all, &[])? && Units::read()?.lint()?)
}

fn document() -> Result<bool> {
    if Units::are_recorded() {
        return Units::read()?.document();
    }
    let doc = [&["doc", "--no-deps", "--quiet"], &PACKAGES[..]].concat();
    cargo(&doc, &[("RUSTDOCFLAGS", "-D warnings")])
}

fn clippy(what: &[&str]) -> Result<bool> {
    cargo(&[&["clippy", "--quiet"], what, &["--", "-D", "warnings"]].concat(), &[])
}

fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<bool> {
    sh::succeeds(build::cargo_as_built().args(args).envs(env.iter().copied()))
}

/// The advisory database is fetched from a server that not every machine reaches.
fn advisories() -> Result<bool> {
    let mut fetch = deny(&["fetch", "db"])?;
    let fetched = fetch.output()?.status.success();
    if !fetched {
        println!("advisories: not checked, the database could not be fetched");
        return Ok(true);
    }
    Ok(deny(&["check", "advisories"])?.status()?.success())
}

fn deny(args: &[&str]) -> Result<Command> {
    let program = toolchain::cargo_deny().context("no cargo-deny")?;
    let mut deny = Command::new(program);
    deny.current_dir(sh::root()).args(["--log-level", "error"]).args(args).stdin(Stdio::null());
    Ok(deny)
}
