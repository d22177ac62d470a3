//! Whether the cargo calls of a gate compile each crate once. `cargo xtask` itself, the demo's binary
//! and the tests choose different packages or targets, and cargo unifies features over what is chosen:
//! a feature that only one of them asks for compiles a crate, and all that depend on it, again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{build::PACKAGES, sh};

/// The crates of a build, each with the sets of features that it is compiled with.
type Crates = BTreeMap<String, BTreeSet<Vec<String>>>;

/// Compares the builds; whether none compiles a crate with features of its own.
pub(crate) fn run() -> Result<bool> {
    let tests = crates(&[&PACKAGES[..], &["--tests", "--bins"]].concat())?;
    let mut findings = differences("cargo xtask", &crates(&["--package", "xtask"])?, &tests);
    let demo = crates(&[&PACKAGES[..], &["--bin", "trainguard"]].concat())?;
    findings.extend(differences("the demo", &demo, &tests));
    for (name, features) in tests.iter().filter(|(_, features)| features.len() > 1) {
        findings.push(format!("{name} is compiled {} times for the tests", features.len()));
    }
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        println!(
            "hint: xtask/Cargo.toml and tests/Cargo.toml say which features are asked for why"
        );
    }
    Ok(findings.is_empty())
}

/// What cargo would compile. The option has no stable form; the answer is only read.
fn crates(selection: &[&str]) -> Result<Crates> {
    let mut cargo = sh::cargo();
    cargo.arg("build").args(selection).args(["-Z", "unstable-options", "--unit-graph"]);
    let graph = sh::read(cargo.env("RUSTC_BOOTSTRAP", "1"))?;
    read(&serde_json::from_str(&graph).context("cargo's graph of units")?)
}

fn read(graph: &Value) -> Result<Crates> {
    let mut crates = Crates::new();
    for unit in graph["units"].as_array().context("no `units` in cargo's graph")? {
        // A test harness is compiled beside what it tests, with the same features.
        if unit["mode"] != "build" {
            continue;
        }
        let package = unit["pkg_id"].as_str().context("a unit without `pkg_id`")?;
        let kind = &unit["target"]["kind"];
        let features = unit["features"].as_array().into_iter().flatten();
        let features = features.filter_map(|name| name.as_str().map(str::to_owned)).collect();
        let name = name(package);
        crates.entry(format!("{name} {kind}")).or_default().insert(features);
    }
    Ok(crates)
}

/// `nix@0.31.3`, of `registry+https://...#nix@0.31.3`. A package whose directory has its name ends without
/// it: `path+file:///.../guard-user#0.1.0`.
fn name(package: &str) -> String {
    let (source, name) = package.rsplit_once('#').unwrap_or(("", package));
    if name.contains('@') {
        return name.to_owned();
    }
    format!("{}@{name}", source.rsplit('/').next().unwrap_or(source))
}

/// What a build compiles with other features than the tests.
fn differences(what: &str, build: &Crates, tests: &Crates) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, features) in build {
        let known = tests.get(name);
        for features in features {
            if known.is_none_or(|known| !known.contains(features)) {
                findings.push(format!(
                    "{what} compiles {name} with {features:?}, the tests with {known:?}"
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph(mode: &str, features: &[&str]) -> Crates {
        let unit = json!({
            "pkg_id": "registry+https://example.org/index#nix@0.31.3", "mode": mode,
            "target": { "kind": ["lib"] }, "features": features,
        });
        read(&json!({ "units": [unit] })).expect("a graph")
    }

    #[test]
    fn packages_are_told_apart() {
        assert_eq!(name("registry+https://example.org/index#nix@0.31.3"), "nix@0.31.3");
        assert_eq!(name("path+file:///src/guard-user#0.1.0"), "guard-user@0.1.0");
        assert_eq!(
            name("path+file:///src/guard-user/policy#guard-policy@0.1.0"),
            "guard-policy@0.1.0"
        );
    }

    #[test]
    fn other_features_are_found() {
        let tests = graph("build", &["fs", "net"]);
        assert_eq!(differences("x", &graph("build", &["fs", "net"]), &tests), [""; 0]);
        assert_eq!(differences("x", &graph("test", &["fs"]), &tests), [""; 0]);
        assert_eq!(differences("x", &graph("build", &["fs"]), &tests).len(), 1);
    }
}
