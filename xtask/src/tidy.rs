//! Rules of the repository, as a check: what a reviewer would otherwise have to remember.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::sh;

/// Where a changed layout is noticed.
const LAYOUT: &str = "guard-common/src/layout.rs";
/// Its version and hash when they were last looked at together.
const LAYOUT_LOCK: &str = "guard-common/layout.lock";
/// Files that may contain unsafe code. The kernel crate is left out: packets and map values are
/// pointers there, and the linter asks for a safety note at each.
const UNSAFE: [&str; 2] = [LAYOUT, "guard-user/src/kernel/sys.rs"];

/// Checks the rules; whether all hold.
pub(crate) fn run() -> Result<bool> {
    let root = sh::root();
    let mut findings = Vec::new();
    for file in files(&root)? {
        let is_source = file.extension().is_some_and(|extension| extension == "rs");
        if is_source {
            findings.extend(source_rules(&file, &fs::read_to_string(root.join(&file))?));
        } else if file.ends_with("Cargo.toml") {
            findings.extend(manifest_rules(&file, &fs::read_to_string(root.join(&file))?));
        }
    }
    findings.extend(layout_rule(&root)?);
    for finding in &findings {
        println!("{finding}");
    }
    Ok(findings.is_empty())
}

/// The files under version control, and new ones that are not ignored.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    // Root may check what another user has cloned.
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
        findings.push(format!("{name}: does not begin with what the module is for (`//!`)"));
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
            findings.push(format!("{name}:{line_number}: unsafe code outside the files for it"));
        }
    }
    findings
}

fn manifest_rules(file: &Path, text: &str) -> Option<String> {
    let inherits = text.contains("[lints]\nworkspace = true");
    let is_root = text.contains("[workspace.lints");
    (!inherits && !is_root)
        .then(|| format!("{}: does not inherit the workspace's lints", file.display()))
}

/// A layout that changes under the same version would be read wrongly by a daemon of another build.
fn layout_rule(root: &Path) -> Result<Option<String>> {
    let lock = fs::read_to_string(root.join(LAYOUT_LOCK)).unwrap_or_default();
    let now = layout_state(root)?;
    Ok((lock.trim() != now).then(|| {
        format!(
            "{LAYOUT}: changed since {LAYOUT_LOCK} was written; if a key, a value or the meaning \
             of one changed since the last release, raise LAYOUT_VERSION; then run \
             `cargo xtask check --bless-layout`"
        )
    }))
}

/// Writes down the layout as it is.
pub(crate) fn bless_layout() -> Result<()> {
    let root = sh::root();
    fs::write(root.join(LAYOUT_LOCK), layout_state(&root)? + "\n")?;
    Ok(())
}

fn layout_state(root: &Path) -> Result<String> {
    let text = fs::read_to_string(root.join(LAYOUT)).with_context(|| LAYOUT.to_owned())?;
    let version =
        text.lines().find_map(|line| line.strip_prefix("pub const LAYOUT_VERSION: u32 = "));
    let version = version.context("a line with LAYOUT_VERSION")?.trim_end_matches(';');
    let mut git = std::process::Command::new("git");
    let hash = sh::read(git.current_dir(root).args(["hash-object", LAYOUT]))?;
    Ok(format!("{version} {}", hash.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_is_for() {
        assert_eq!(source_rules(Path::new("a/src/b.rs"), "//! For b.\nfn b() {}\n"), [""; 0]);
        assert_eq!(source_rules(Path::new("a/src/b.rs"), "fn b() {}\n").len(), 1);
    }

    #[test]
    fn unsafe_code_has_its_places() {
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
