//! Checks that the cargo calls of a gate compile each crate once.
//!
//! `cargo xtask` itself, the demo's binary and the tests choose different packages or targets, and cargo
//! unifies features over the chosen packages: a feature that only one of them enables compiles a crate,
//! and all that depend on it, again. So does a crate that programs link in one build, but only macros and
//! build scripts use in another, because cargo then compiles it for another kind of link.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    build::{DEMO, PACKAGES},
    sh,
};

/// The crates of a build by name and kind, each with the forms in which it is compiled.
type Crates = BTreeMap<String, BTreeSet<Form>>;

/// The properties in which compilations of one crate differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    features: Vec<String>,
    /// Whether programs link it, not only macros and build scripts.
    in_programs: bool,
}

/// Compares the builds. Returns whether each crate is compiled in one form only.
pub(crate) fn run() -> Result<bool> {
    let tests = crates(&[&PACKAGES[..], &["--tests", "--bins"]].concat())?;
    let mut findings = differences("cargo xtask", &crates(&["--package", "xtask"])?, &tests);
    let demo = crates(&[&PACKAGES[..], &DEMO].concat())?;
    findings.extend(differences("the demo", &demo, &tests));
    for (name, forms) in tests.iter().filter(|(_, forms)| forms.len() > 1) {
        findings.push(format!("{name} is compiled {} times for the tests", forms.len()));
    }
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        println!(
            "hint: xtask/Cargo.toml and tests/Cargo.toml list the features to enable, with the reasons"
        );
    }
    Ok(findings.is_empty())
}

/// Returns the crates that cargo would compile. `--unit-graph` is unstable, so this sets
/// `RUSTC_BOOTSTRAP`; nothing is compiled.
fn crates(selection: &[&str]) -> Result<Crates> {
    let mut cargo = sh::cargo();
    cargo.arg("build").args(selection).args(["-Z", "unstable-options", "--unit-graph"]);
    let graph = sh::read(cargo.env("RUSTC_BOOTSTRAP", "1"))?;
    read(&serde_json::from_str(&graph).context("parsing cargo's unit graph")?)
}

fn read(graph: &Value) -> Result<Crates> {
    let units = graph["units"].as_array().context("cargo's unit graph has no `units`")?;
    let in_programs = in_programs(graph, units);
    let mut crates = Crates::new();
    for (number, unit) in units.iter().enumerate() {
        // A test harness is compiled in addition to its crate, with the same features.
        if unit["mode"] != "build" {
            continue;
        }
        let package =
            unit["pkg_id"].as_str().context("a unit of cargo's unit graph has no `pkg_id`")?;
        let kind = &unit["target"]["kind"];
        let features = unit["features"].as_array().into_iter().flatten();
        let form = Form {
            features: features.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            in_programs: in_programs.contains(&number),
        };
        let name = name(package);
        crates.entry(format!("{name} {kind}")).or_default().insert(form);
    }
    Ok(crates)
}

/// Returns the indices of the units that programs link: those reachable without passing through a macro
/// or a build script.
fn in_programs(graph: &Value, units: &[Value]) -> BTreeSet<usize> {
    let index = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    let mut reached = BTreeSet::new();
    let mut open: Vec<usize> =
        graph["roots"].as_array().into_iter().flatten().filter_map(index).collect();
    while let Some(number) = open.pop() {
        let Some(unit) = units.get(number) else { continue };
        let kind = &unit["target"]["kind"][0];
        if kind != "proc-macro" && kind != "custom-build" && reached.insert(number) {
            let below = unit["dependencies"].as_array().into_iter().flatten();
            open.extend(below.filter_map(|unit| index(&unit["index"])));
        }
    }
    reached
}

/// Returns name and version of a package id: `nix@0.31.3` of `registry+https://...#nix@0.31.3`. If the
/// directory has the package's name, the id ends with the version alone:
/// `path+file:///.../guard-user#0.1.0`.
fn name(package: &str) -> String {
    let (source, name) = package.rsplit_once('#').unwrap_or(("", package));
    if name.contains('@') {
        return name.to_owned();
    }
    format!("{}@{name}", source.rsplit('/').next().unwrap_or(source))
}

/// Lists the crates that a build compiles in another form than the tests.
fn differences(what: &str, build: &Crates, tests: &Crates) -> Vec<String> {
    let none = BTreeSet::new();
    let mut findings = Vec::new();
    for (name, forms) in build {
        let known = tests.get(name).unwrap_or(&none);
        for form in forms.difference(known) {
            let known: Vec<String> = known.iter().map(Form::to_string).collect();
            let known =
                if known.is_empty() { "not at all".to_owned() } else { known.join(" and ") };
            findings.push(format!("{what} compiles {name} {form}, the tests {known}"));
        }
    }
    findings
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.in_programs { "programs" } else { "macros and build scripts" };
        write!(f, "with {:?} for {by}", self.features)
    }
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
        read(&json!({ "units": [unit], "roots": [0] })).expect("a graph")
    }

    #[test]
    fn a_crate_that_programs_link_in_one_build_only_is_found() {
        let unit = |name: &str, kind: &str, below: &[usize]| {
            let dependencies: Vec<_> =
                below.iter().map(|index| json!({ "index": index })).collect();
            json!({
                "pkg_id": format!("registry+https://example.org/index#{name}@1.0.0"),
                "mode": "build", "target": { "kind": [kind] }, "features": [],
                "dependencies": dependencies,
            })
        };
        let units =
            [unit("app", "bin", &[1]), unit("derive", "proc-macro", &[2]), unit("syn", "lib", &[])];
        let demo = read(&json!({ "units": units, "roots": [0] })).expect("a graph");
        let units = [
            unit("app", "bin", &[1]),
            unit("derive", "proc-macro", &[2]),
            unit("syn", "lib", &[]),
            unit("tool", "bin", &[2]),
        ];
        let tests = read(&json!({ "units": units, "roots": [0, 3] })).expect("a graph");
        assert_eq!(
            differences("the demo", &demo, &tests),
            [
                "the demo compiles syn@1.0.0 [\"lib\"] with [] for macros and build scripts, the tests \
                 with [] for programs"
            ]
        );
        assert_eq!(differences("the tests", &tests, &tests), [""; 0]);
    }

    #[test]
    fn package_ids_are_reduced_to_name_and_version() {
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
