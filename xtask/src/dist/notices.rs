//! Collects licences and notices of the code that is linked into the binary. They must be distributed
//! with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::TARGET;
use crate::{
    files::{files_in, read},
    sh,
};

/// Our packages in the binary: the daemon, and the kernel object.
const ROOTS: [&str; 2] = ["guard-user", "guard-ebpf"];
/// Prefixes of the names of files with licences and notices, in upper case.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// Returns the notices of everything that is linked, each text once.
pub(super) fn gather() -> Result<String> {
    let mut cargo = sh::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]);
    let metadata = sh::read(&mut cargo).context("running `cargo metadata`")?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).context("parsing the output of `cargo metadata`")?;
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in linked(&metadata) {
        let licence = package.license.as_deref().unwrap_or("see its sources");
        let who = format!("{} {} ({licence})", package.name, package.version);
        by_text.entry(texts(package)?).or_default().push(who);
    }
    let mut parts: Vec<(Vec<String>, String)> =
        by_text.into_iter().map(|(text, who)| (who, text)).collect();
    parts.sort();
    let mut notices =
        "Third-party code in the binary `trainguard`, with its licences.\n".to_owned();
    for (mut who, text) in parts {
        who.sort();
        write!(notices, "\n{}\n\n{}\n\n{text}\n", "-".repeat(80), who.join("\n"))?;
    }
    write!(notices, "\n{}\n\n", "-".repeat(80))?;
    let runtime = sh::root().join("guard-user/packaging/notices/runtime.txt");
    notices.push_str(&fs::read_to_string(runtime)?);
    Ok(notices)
}

/// Returns the third-party packages that are linked into the binary. Build dependencies and macros are
/// left out.
fn linked(metadata: &Metadata) -> Vec<&Package> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let ours = |package: &&Package| package.source.is_none() && ROOTS.contains(&&*package.name);
    let mut ahead: Vec<&str> =
        metadata.packages.iter().filter(ours).map(|package| package.id.as_str()).collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = ahead.pop() {
        let builds = |package: &&Package| {
            package.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
        };
        if packages.get(id).is_some_and(builds) || !reached.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        let normal = dependencies.filter(|to| to.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        ahead.extend(normal.map(|to| to.pkg.as_str()));
    }
    let found = reached.into_iter().filter_map(|id| packages.get(id).copied());
    found.filter(|package| package.source.is_some()).collect()
}

/// Returns the texts of a package that must be passed on. If a package offers a choice of licences, MIT
/// is chosen.
fn texts(package: &Package) -> Result<String> {
    let directory = package.manifest_path.parent().unwrap_or(Path::new("/"));
    let name =
        |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
    let mut files = files_in(directory)?;
    files.retain(|path| NAMES.iter().any(|start| name(path).starts_with(start)));
    let licence = package.license.as_deref().unwrap_or_default();
    let may_choose = licence.contains("OR") || licence.contains('/');
    let is_mit = |path: &Path| name(path).contains("MIT");
    if may_choose && files.iter().any(|path| is_mit(path)) {
        files.retain(|path| is_mit(path) || name(path).starts_with("NOTICE"));
    }
    let mut texts = Vec::new();
    for path in &files {
        let text = read(path)?;
        let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
        texts.push(text.trim_end().to_owned());
    }
    if texts.is_empty() {
        return Ok("The sources of this package contain no licence text.".to_owned());
    }
    Ok(texts.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linked_packages_are_listed_and_build_dependencies_are_not() {
        let notices = gather().expect("notices");
        for part in ["\naya 0.14", "\naya-ebpf 0.2", "\nclap 4", "Rich Felker", "Rust Project"] {
            assert!(notices.contains(part), "{part}");
        }
        for part in ["\nserde_derive ", "\nproptest ", "\nguard-common ", "windows-sys"] {
            assert!(!notices.contains(part), "{part}");
        }
        assert_eq!(notices, gather().expect("notices"), "the same bytes");
    }
}
