//! Checks that need no kernel. All of them run, even if one fails.

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

/// Arguments of `cargo xtask check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Record a changed memory layout after its version was raised
    #[arg(long)]
    bless_layout: bool,
    /// Also check the build for CI with only its own features (compiles its dependencies again)
    #[arg(long)]
    own_features: bool,
}

/// Runs the checks. Returns whether all pass.
pub(crate) fn run(args: &CheckArgs) -> Result<bool> {
    if args.bless_layout {
        layout::bless()?;
    }
    toolchain::ensure_components()?;
    toolchain::ensure_cargo_deny()?;
    let always: [(&str, Gate); 12] = [
        ("format", || cargo(&["fmt", "--all", "--check"], &[])),
        ("build for CI, without kernel and terminal features", || {
            // Built together with the other packages, so that its dependencies have the same features as
            // in the other builds. guard-tests is left out because it enables the daemon.
            let without_tests =
                PACKAGES.into_iter().filter(|name| *name != "--package=guard-tests");
            build_for_ci(&without_tests.collect::<Vec<_>>())
        }),
        ("clippy", lint),
        // In its own call: together with the other packages, cargo would enable `std` in the dependencies
        // of the kernel crate.
        ("clippy of the kernel crate", || {
            clippy(&["--package=guard-ebpf", "--package=aya-build", "--profile", "kernel-check"])
        }),
        ("licences, bans, sources", || {
            Ok(deny(&["check", "licenses", "bans", "sources"])?.status()?.success())
        }),
        ("advisories, if the database can be fetched", advisories),
        ("documentation", document),
        ("examples in the documentation", examples),
        ("layout of pinned maps", layout::run),
        ("each crate is compiled once", one_build::run),
        ("layers of modules", layers::run),
        ("repository rules", tidy::run),
    ];
    let mut gates = Vec::from(always);
    if args.own_features {
        gates.push(("build for CI, without the other packages", || {
            build_for_ci(&["--package=guard-user"])
        }));
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

/// Builds guard-user without default features, together with `packages`. Checks that it then does not
/// depend on crates that its users do not need.
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
        println!("guard-user without default features depends on {found:?}");
    }
    let build = [packages, &["--no-default-features", "--lib"]].concat();
    let passed = if Units::are_recorded() {
        // `lint` covers this library and its binary. Building the binary here would overwrite the one
        // that the tests use at the same time.
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
    // The tests do not build the benchmarks, so no record of them exists yet.
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

/// Compiles and runs the examples in doc comments.
fn examples() -> Result<bool> {
    cargo(&[&["test", "--doc", "--quiet"], &PACKAGES[..]].concat(), &[])
}

fn clippy(what: &[&str]) -> Result<bool> {
    cargo(&[&["clippy", "--quiet"], what, &["--", "-D", "warnings"]].concat(), &[])
}

fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<bool> {
    sh::succeeds(build::cargo_as_built().args(args).envs(env.iter().copied()))
}

/// Checks the advisory database. Passes if the database cannot be fetched: not every machine can reach
/// its server.
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
    let program = toolchain::cargo_deny().context("cargo-deny is not installed")?;
    let mut deny = Command::new(program);
    deny.current_dir(sh::root()).args(["--log-level", "error"]).args(args).stdin(Stdio::null());
    Ok(deny)
}
