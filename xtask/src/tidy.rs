//! Checks rules of the repository that a reviewer would otherwise have to remember.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::sh;

/// Files that may contain unsafe code. The kernel crate is exempt: packets and map values are pointers
/// there, and clippy requires a safety comment at each unsafe block.
const UNSAFE: [&str; 2] = ["guard-common/src/layout/mod.rs", "guard-user/src/sys.rs"];

/// Checks the rules. Returns whether all hold.
pub(crate) fn run() -> Result<bool> {
    let root = sh::root();
    let mut findings = Vec::new();
    let mut cited = BTreeSet::new();
    for file in files(&root)? {
        let is_source = file.extension().is_some_and(|extension| extension == "rs");
        if is_source {
            let text = fs::read_to_string(root.join(&file))?;
            findings.extend(source_rules(&file, &text));
            cited.extend(cited_decisions(&text).map(str::to_owned));
        } else if file.ends_with("Cargo.toml") {
            findings.extend(manifest_rules(&file, &fs::read_to_string(root.join(&file))?));
        }
    }
    findings.extend(decision_rules(&root, &cited)?);
    for finding in &findings {
        println!("{finding}");
    }
    Ok(findings.is_empty())
}

/// Returns the files under version control, and new files that are not ignored.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    // Root may check a clone that belongs to another user.
    git.current_dir(root).args([
        "-c",
        "safe.directory=*",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listing = sh::read(&mut git).context("listing the files of the repository")?;
    Ok(listing.lines().map(PathBuf::from).filter(|file| root.join(file).is_file()).collect())
}

fn source_rules(file: &Path, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let name = file.display();
    if !text.starts_with("//!") {
        findings.push(format!(
            "{name}: the file does not begin with a doc comment of the module (`//!`)"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        let line_number = number + 1;
        let code = line.trim_start();
        if code.starts_with("#[ignore]") {
            findings.push(format!("{name}:{line_number}: an ignored test without a reason"));
        }
        let is_unsafe = code.contains("unsafe {") || code.starts_with("unsafe impl");
        let kernel = file.starts_with("guard-ebpf");
        let allowed = kernel || UNSAFE.iter().any(|allowed| file == Path::new(allowed));
        if is_unsafe
            && !code.starts_with("//")
            && !allowed
            && file != Path::new("xtask/src/tidy.rs")
        {
            findings.push(format!("{name}:{line_number}: unsafe code is not allowed in this file"));
        }
    }
    findings
}

/// Where the decisions are, and how the code cites them.
const DECISIONS: &str = "docs/decisions/";

/// Returns the names of the decisions that a source cites.
fn cited_decisions(text: &str) -> impl Iterator<Item = &str> {
    let names = text.split(DECISIONS).skip(1).filter_map(|rest| rest.split_once(".md"));
    names.map(|(name, _)| name).filter(|name| !name.contains('\n'))
}

/// Compares the decisions with those that the code cites: each file must be cited, and each cited file
/// must exist.
fn decision_rules(root: &Path, cited: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut decisions = BTreeSet::new();
    for entry in fs::read_dir(root.join(DECISIONS)).context(DECISIONS)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        decisions.extend(name.strip_suffix(".md").filter(|it| *it != "README").map(str::to_owned));
    }
    let missing =
        cited.difference(&decisions).map(|it| format!("{DECISIONS}{it}.md: no such file"));
    let uncited =
        decisions.difference(cited).map(|it| format!("{DECISIONS}{it}.md: no code cites it"));
    Ok(missing.chain(uncited).collect())
}

fn manifest_rules(file: &Path, text: &str) -> Option<String> {
    let inherits = text.contains("[lints]\nworkspace = true");
    let is_root = text.contains("[workspace.lints");
    // A workspace of its own cannot inherit from this one.
    let is_apart = text.contains("\n[workspace]\n");
    (!inherits && !is_root && !is_apart)
        .then(|| format!("{}: does not inherit the workspace's lints", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_doc_comment_is_a_finding() {
        assert_eq!(source_rules(Path::new("a/src/b.rs"), "//! For b.\nfn b() {}\n"), [""; 0]);
        assert_eq!(source_rules(Path::new("a/src/b.rs"), "fn b() {}\n").len(), 1);
    }

    #[test]
    fn unsafe_code_is_allowed_in_some_files_only() {
        let text = "//! For b.\nfn b() { unsafe { c() } }\n";
        assert_eq!(source_rules(Path::new("guard-user/src/b.rs"), text).len(), 1);
        assert_eq!(source_rules(Path::new("guard-ebpf/src/b.rs"), text).len(), 0);
    }

    #[test]
    fn manifests_inherit_the_lints() {
        let file = Path::new("a/Cargo.toml");
        assert!(manifest_rules(file, "[package]\n").is_some());
        assert!(manifest_rules(file, "[package]\n[lints]\nworkspace = true\n").is_none());
    }
}
