//! Compares the layout of pinned maps with `guard-common/layout.lock`.
//!
//! Programs and daemons of different builds share the pinned maps if they have the same `LAYOUT_VERSION`.
//! Whatever one of them writes and another reads must then be identical: offsets and types of fields,
//! numeric values of reasons, sizes and flags of maps. A program of guard-tests (`tests/src/bin/pinned-layout`)
//! prints the layout, and this module compares it with the one recorded for that version. Comments and
//! names that are stored in no map are not part of the layout.

use std::{collections::BTreeMap, fmt, fs, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, PACKAGES},
    sh,
};

/// The recorded layout, relative to the root of the repository.
const LOCK: &str = "guard-common/layout.lock";
/// The program that prints the layout.
const PROGRAM: &str = "pinned-layout";
/// The name of the line with the version.
const VERSION: &str = "LAYOUT_VERSION";
/// Prefix of the lines about maps. They are known only if a kernel object is embedded.
const MAP: &str = "map ";
/// The name of the line that lists the pinned maps.
const PINNED: &str = "pins of maps";
/// The source file that declares the maps.
const MAPS: &str = "guard-ebpf/src/maps.rs";

/// A layout: lines of the form `name = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout(BTreeMap<String, String>);

/// One line that differs from the recorded one.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    name: String,
    before: Option<String>,
    now: Option<String>,
}

/// Result of comparing the current layout with the recorded one.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// The layout differs, but the version is the same.
    Unversioned(Vec<Change>),
    /// The version differs from the recorded one: the new layout is not recorded yet.
    Unwritten,
}

/// Compares the layouts. Returns whether the current one is as recorded.
pub(crate) fn run() -> Result<bool> {
    let locked = Layout::parse(&fs::read_to_string(sh::root().join(LOCK)).context(LOCK)?);
    let now = described()?;
    match locked.verdict(&now) {
        Verdict::Same => Ok(true),
        Verdict::Unversioned(changes) => {
            println!("{LOCK}: the layout of pinned maps has changed:");
            for change in changes {
                println!("  {change}");
            }
            println!(
                "hint: daemons of other builds would misread the pinned maps: raise {VERSION} \
                 (guard-common/src/layout/mod.rs), then run `cargo xtask check --bless-layout`"
            );
            Ok(false)
        }
        Verdict::Unwritten => {
            println!(
                "{LOCK}: recorded for another {VERSION}; `cargo xtask check --bless-layout` records the \
                 new layout"
            );
            Ok(false)
        }
    }
}

/// Records a layout whose version was raised.
pub(crate) fn bless() -> Result<()> {
    let path = sh::root().join(LOCK);
    // This embeds the kernel object, and so the maps, in `PROGRAM`.
    build::for_tests()?;
    let now = described()?;
    if !now.has_maps() {
        bail!("{PROGRAM} was built without a kernel object");
    }
    let locked =
        fs::read_to_string(&path).map_or(Layout(BTreeMap::new()), |text| Layout::parse(&text));
    if let Verdict::Unversioned(changes) = locked.verdict(&now) {
        let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
        bail!(
            "raise {VERSION} first: the layout of pinned maps has changed: {}",
            changes.join("; ")
        );
    }
    fs::write(&path, now.to_string()).context(LOCK)
}

/// Returns the current layout.
fn described() -> Result<Layout> {
    let mut cargo = build::cargo_as_built();
    sh::run(cargo.args(["build", "--quiet"]).args(PACKAGES).args(["--bin", PROGRAM]))?;
    let text = sh::read(&mut Command::new(build::development_binary(PROGRAM)))?;
    let mut layout = Layout::parse(&text);
    layout.declare(&fs::read_to_string(sh::root().join(MAPS)).context(MAPS)?);
    Ok(layout)
}

impl Layout {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(" = "));
        Self(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Adds the declared type of each pinned map. The kernel object only contains sizes of keys and
    /// values, which two different types may share.
    fn declare(&mut self, source: &str) {
        let pinned = self.0.get(PINNED).cloned().unwrap_or_default();
        for map in source.split("#[btf_map]").skip(1) {
            let declaration = map.split_once("static ").and_then(|(_, rest)| rest.split_once(" ="));
            let Some((name, kind)) = declaration.and_then(|(text, _)| text.split_once(':')) else {
                continue;
            };
            if pinned.split(' ').any(|pin| pin == name) {
                let kind = kind.split_whitespace().collect::<Vec<_>>().join(" ");
                self.0.insert(format!("declared: {name}"), kind);
            }
        }
    }

    fn has_maps(&self) -> bool {
        self.0.keys().any(|name| name.starts_with(MAP))
    }

    fn version(&self) -> Option<&String> {
        self.0.get(VERSION)
    }

    /// Compares the recorded layout (`self`) with the current one. Lines about maps are compared only if
    /// `now` has them.
    fn verdict(&self, now: &Self) -> Verdict {
        let counts = |name: &String| now.has_maps() || !name.starts_with(MAP);
        let mut changes: Vec<Change> = Vec::new();
        for (name, before) in self.0.iter().filter(|(name, _)| counts(name)) {
            let after = now.0.get(name);
            if after != Some(before) {
                let (before, now) = (Some(before.clone()), after.cloned());
                changes.push(Change { name: name.clone(), before, now });
            }
        }
        for (name, after) in now.0.iter().filter(|(name, _)| !self.0.contains_key(*name)) {
            changes.push(Change { name: name.clone(), before: None, now: Some(after.clone()) });
        }
        if changes.is_empty() {
            Verdict::Same
        } else if self.version() == now.version() {
            Verdict::Unversioned(changes)
        } else {
            Verdict::Unwritten
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, value)| writeln!(f, "{name} = {value}"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, before, now } = self;
        match (before, now) {
            (Some(before), Some(now)) => write!(f, "{name}: was {before}, is {now}"),
            (Some(before), None) => write!(f, "{name}: was {before}, is removed"),
            (None, now) => write!(f, "{name}: is new: {}", now.as_deref().unwrap_or_default()),
        }
    }
}

/// Returns the layout of a copy of guard-common: its values, without the maps.
#[cfg(test)]
fn described_from(sources: &std::path::Path) -> Result<Layout> {
    let out = tempfile::tempdir().context("creating a temporary directory")?;
    let rustc = || {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.current_dir(sh::root()).args(["--edition=2024", "--cap-lints=allow", "--out-dir"]);
        rustc.arg(out.path());
        rustc
    };
    sh::read(
        rustc().args(["--crate-name=guard_common", "--crate-type=lib"]).arg(sources.join("lib.rs")),
    )?;
    let values = sh::root().join("tests/src/bin").join(PROGRAM).join("values.rs");
    let main = format!(
        "#[path = {values:?}] mod values;\n\
         fn main() {{ for (name, value) in values::lines() {{ println!(\"{{name}} = {{value}}\") }} }}\n"
    );
    let file = out.path().join("main.rs");
    fs::write(&file, main)?;
    let library = format!("guard_common={}", out.path().join("libguard_common.rlib").display());
    sh::read(rustc().arg("--extern").arg(library).arg(file))?;
    Ok(Layout::parse(&sh::read(&mut Command::new(out.path().join("main")))?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Copies a directory of sources. Applies the edits to the file of the given name; each must match
    /// exactly once.
    fn copy_edited(from: &Path, to: &Path, file: &str, edits: &[(&str, &str)]) {
        for entry in fs::read_dir(from).expect("the sources") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name");
            if path.is_dir() {
                fs::create_dir(to.join(name)).expect("a directory");
                copy_edited(&path, &to.join(name), file, edits);
                continue;
            }
            let mut text = fs::read_to_string(&path).expect("a text");
            if path.ends_with(file) {
                for (from, to) in edits {
                    assert_eq!(text.matches(from).count(), 1, "`{from}` in {file}");
                    text = text.replace(from, to);
                }
            }
            fs::write(to.join(name), text).expect("a copy");
        }
    }

    /// Applies edits to a copy of guard-common and returns the names of the values that then differ from
    /// the recorded ones.
    fn changes(file: &str, edits: &[(&str, &str)]) -> Vec<String> {
        let copy = tempfile::tempdir().expect("a directory");
        let sources = sh::root().join("guard-common/src");
        let lock = fs::read_to_string(sh::root().join(LOCK)).expect("the lock");
        let mut locked = Layout::parse(&lock);
        // Leaves out pins and maps, which guard-common does not define.
        let known = described_from(&sources).expect("a layout");
        locked.0.retain(|name, _| known.0.contains_key(name));
        assert_eq!(locked, known);
        copy_edited(&sources, copy.path(), file, edits);
        match locked.verdict(&described_from(copy.path()).expect("a layout")) {
            Verdict::Same => Vec::new(),
            Verdict::Unversioned(changes) => {
                changes.into_iter().map(|change| change.name).collect()
            }
            Verdict::Unwritten => vec![VERSION.to_owned()],
        }
    }

    #[test]
    fn swapped_fields_are_reported() {
        let edits = [
            ("pub ifindex: u32,", "pub was_ifindex: u32,"),
            ("pub len: u32,", "pub ifindex: u32,"),
            ("pub was_ifindex: u32,", "pub len: u32,"),
        ];
        assert_eq!(changes("event.rs", &edits), ["Event.ifindex", "Event.len"]);
    }

    #[test]
    fn swapped_reasons_are_reported() {
        let edits = [("Martian = 11,", "Martian = 12 ,"), ("NotAllowed = 12,", "NotAllowed = 11,")];
        let changes = changes("verdict.rs", &edits);
        for name in ["Reason martian", "Reason not_allowed"] {
            assert!(changes.iter().any(|change| change == name), "{changes:?}");
        }
    }

    #[test]
    fn comments_are_not_part_of_the_layout_and_the_version_is() {
        let comment = [("//! A sampled drop", "//! One more word.\n//! A sampled drop")];
        assert_eq!(changes("event.rs", &comment), [""; 0]);
        let version =
            [("pub const LAYOUT_VERSION: u32 = ", "pub const LAYOUT_VERSION: u32 = 1 + ")];
        assert_eq!(changes("layout/mod.rs", &version), [VERSION]);
    }

    #[test]
    fn declared_types_of_maps_are_part_of_the_layout() {
        let source = "#[btf_map]\npub(crate) static TG_A: Array<A, { N as usize }> = Array::new();\n\
                      /// Not read here.\n#[btf_map]\nstatic TG_B: HashMap<Key, u32,\n    0> =\n    \
                      HashMap::new();\n#[btf_map]\nstatic TG_NODES: Array<Node, 1> = Array::new();\n";
        let mut layout = Layout::parse("pins of maps = TG_A TG_B\n");
        layout.declare(source);
        let declared = "declared: TG_A = Array<A, { N as usize }>\n\
                        declared: TG_B = HashMap<Key, u32, 0>\npins of maps = TG_A TG_B\n";
        assert_eq!(layout.to_string(), declared);
        // Each pinned map is found in the real source file.
        let lock = fs::read_to_string(sh::root().join(LOCK)).expect("the lock");
        let pinned = Layout::parse(&lock).0[PINNED].split(' ').count();
        assert_eq!(lock.matches("declared: ").count(), pinned);
    }

    #[test]
    fn added_changed_and_removed_lines_are_reported() {
        let layout = |text: &str| Layout::parse(text);
        let locked = layout("LAYOUT_VERSION = 3\nmap A.flags = 0\nx = 1\n");
        assert_eq!(locked.verdict(&locked), Verdict::Same);
        // A build without a kernel object has no lines about maps.
        assert_eq!(locked.verdict(&layout("LAYOUT_VERSION = 3\nx = 1\n")), Verdict::Same);
        let now = layout("LAYOUT_VERSION = 3\nmap B.flags = 1\nx = 2\n");
        let Verdict::Unversioned(changes) = locked.verdict(&now) else {
            panic!("a change of the layout was not found")
        };
        let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
        assert_eq!(
            changes,
            ["map A.flags: was 0, is removed", "x: was 1, is 2", "map B.flags: is new: 1"]
        );
        let raised = layout("LAYOUT_VERSION = 4\nx = 2\n");
        assert_eq!(locked.verdict(&raised), Verdict::Unwritten);
        assert_eq!(Layout::parse(&locked.to_string()), locked);
    }
}
