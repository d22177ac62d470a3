//! The budget of the kernel program: figures of the verifier and the JIT for a few fixed policies,
//! compared with a committed table. A figure that grows fails until a reason for it is committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{bench, build, sh, toolchain};

/// The committed table.
const TABLE: &str = "guard-ebpf/budget.toml";
/// The binary of guard-tests that loads the program and prints the verifier's figures.
pub(crate) const FIGURES: &str = "verifier-figures";
/// The comment at the top of the table.
const HEADER: &str = "\
# Figures of the verifier and the JIT for the kernel program, and the size of the kernel object. Compared by
# `cargo xtask budget`; written by `cargo xtask budget --bless --reason TEXT`, which records the reason
# with the figures that changed. Policies: tests/src/bin/verifier-figures.rs.
";

/// Limit, in per cent of the committed figure, if the kernel or the compiler is not the committed one.
/// Another verifier or compiler gives other figures, so only a large excess fails.
const ELSEWHERE_PERCENT: u64 = 125;

/// Arguments of `cargo xtask budget`.
#[derive(Debug, Default, Args)]
pub(crate) struct BudgetArgs {
    /// Write the measured figures as the new budget
    #[arg(long, requires = "reason")]
    bless: bool,
    /// Say why the figures that changed are worth it
    #[arg(long, value_name = "TEXT", requires = "bless")]
    reason: Option<String>,
    /// See [`BudgetArgs::built`].
    #[arg(skip)]
    built: bool,
}

impl BudgetArgs {
    /// Returns the arguments of a comparison after [`build::for_tests`] has run. Such a comparison does
    /// not call cargo, which would wait for other running cargo processes.
    pub(crate) fn built() -> Self {
        Self { built: true, ..Self::default() }
    }
}

/// The committed table, with the kernel and the compiler that its figures were measured with.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Table {
    /// Version of the kernel whose verifier was used, without the suffix of the distribution.
    kernel: String,
    /// Version of rustc.
    compiler: String,
    /// Figures by policy; the entry `object` is about the object file itself.
    budget: BTreeMap<String, Entry>,
}

/// The figures of one policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// Why the figures have these values; written when one of them last changed.
    reason: String,
    #[serde(flatten)]
    figures: Figures,
}

type Figures = BTreeMap<String, u64>;

/// A figure that differs from the committed one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    what: String,
    committed: Option<u64>,
    now: Option<u64>,
    fails: bool,
}

/// Compares the figures with the committed table, or writes them to it. Returns whether no figure exceeds
/// its budget.
pub(crate) fn run(args: &BudgetArgs) -> Result<bool> {
    if !sh::is_root() {
        bail!(
            "measuring the kernel program needs root and bpf(2), because the running kernel's \
             verifier produces the figures\n  hint: `sudo -E env PATH=$PATH cargo xtask budget`"
        );
    }
    let tools = toolchain::ensure(false)?;
    if !args.built {
        // The binaries of the tests embed the kernel object. How the loader was compiled makes no
        // difference to the verifier.
        build::for_tests()?;
    }
    let measured = measure()?;
    let here = (version_of_kernel()?, tools.rustc.version());
    let path = sh::root().join(TABLE);
    if let Some(reason) = &args.reason {
        let old = read(&path).ok();
        return bless(&path, old.as_ref(), measured, here, reason).map(|()| true);
    }
    let committed = read(&path)?;
    let elsewhere = (&committed.kernel, &committed.compiler) != (&here.0, &here.1);
    if elsewhere {
        println!(
            "committed on kernel {} with {}, measured on {} with {}: only figures above {} per cent \
             of the committed ones fail",
            committed.kernel, committed.compiler, here.0, here.1, ELSEWHERE_PERCENT
        );
    }
    let changes = compare(&committed.budget, &measured, elsewhere);
    Ok(report(&changes, &measured))
}

fn measure() -> Result<BTreeMap<String, Figures>> {
    let file =
        tempfile::NamedTempFile::new().context("creating a temporary file for the figures")?;
    let mut figures = Command::new(build::development_binary(FIGURES));
    sh::run(figures.arg("--json").arg(file.path()))?;
    serde_json::from_str(&fs::read_to_string(file.path())?)
        .context("parsing the figures of the kernel program")
}

/// Returns the version of the running kernel without the suffix that its builder added.
fn version_of_kernel() -> Result<String> {
    let release = bench::machine::kernel().context("reading the release of the running kernel")?;
    Ok(release.split('-').next().unwrap_or(&release).to_owned())
}

fn read(path: &PathBuf) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{}", path.display()))
}

/// Returns every figure that differs from the committed one, and whether the difference fails.
fn compare(
    committed: &BTreeMap<String, Entry>,
    measured: &BTreeMap<String, Figures>,
    elsewhere: bool,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let names: BTreeSet<&String> = committed.keys().chain(measured.keys()).collect();
    for name in names {
        let none = Figures::new();
        let before = committed.get(name).map_or(&none, |entry| &entry.figures);
        let after = measured.get(name).unwrap_or(&none);
        let figures: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for figure in figures {
            let (committed, now) = (before.get(figure).copied(), after.get(figure).copied());
            if committed != now {
                let fails = fails(figure, committed, now, elsewhere);
                changes.push(Change { what: format!("{name}: {figure}"), committed, now, fails });
            }
        }
    }
    changes
}

/// Returns whether a figure exceeds its budget, or is missing on one side.
fn fails(figure: &str, committed: Option<u64>, now: Option<u64>, elsewhere: bool) -> bool {
    let (Some(committed), Some(now)) = (committed, now) else { return true };
    let percent = match figure {
        _ if elsewhere => ELSEWHERE_PERCENT,
        // One per cent of tolerance: the object contains names of directories, and the length of some
        // machine instructions depends on addresses.
        "bytes" | "jited-bytes" => 101,
        _ => 100,
    };
    now * 100 > committed * percent
}

/// Prints the changes. Returns whether none of them fails.
fn report(changes: &[Change], measured: &BTreeMap<String, Figures>) -> bool {
    for change in changes {
        println!("{change}");
    }
    let failed = changes.iter().filter(|change| change.fails).count();
    if failed > 0 {
        println!(
            "{failed} figures of the kernel program exceed the budget in {TABLE}. If the increase is \
             justified:\n  cargo xtask budget --bless --reason \"why the figures grew\""
        );
        return false;
    }
    if changes.is_empty() {
        let policies = measured.len().saturating_sub(1);
        println!("budget: all figures as committed, {policies} policies");
    } else {
        println!(
            "budget: not exceeded; `cargo xtask budget --bless --reason TEXT` records the lower figures"
        );
    }
    true
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, committed, now, fails } = self;
        let verdict = if *fails { "FAILED" } else { "ok" };
        match (committed, now) {
            (Some(committed), Some(now)) => {
                let sign = if now > committed { '+' } else { '-' };
                let by = now.abs_diff(*committed);
                write!(f, "{verdict}: {what}: {now}, committed {committed}, {sign}{by}")
            }
            (None, Some(now)) => write!(f, "{verdict}: {what}: {now}, not committed"),
            (Some(committed), None) => {
                write!(f, "{verdict}: {what}: committed {committed}, no longer measured")
            }
            (None, None) => Ok(()),
        }
    }
}

/// Writes the table anew. A policy whose figures have not changed keeps its reason.
fn bless(
    path: &PathBuf,
    old: Option<&Table>,
    measured: BTreeMap<String, Figures>,
    (kernel, compiler): (String, String),
    reason: &str,
) -> Result<()> {
    let reason = reason.trim();
    if reason.is_empty() {
        bail!("the text of --reason is empty");
    }
    let entry = |(name, figures): (String, Figures)| {
        let same = old
            .and_then(|old| old.budget.get(&name))
            .filter(|entry| entry.figures == figures)
            .map(|entry| entry.reason.clone());
        let reason = same.unwrap_or_else(|| reason.to_owned());
        (name, Entry { reason, figures })
    };
    let budget = measured.into_iter().map(entry).collect();
    let table = Table { kernel, compiler, budget };
    let text = format!("{HEADER}\n{}", toml::to_string_pretty(&table)?);
    fs::write(path, text).with_context(|| format!("{}", path.display()))?;
    println!("written: {TABLE}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(instructions: u64, jited: u64) -> Figures {
        [("verified-instructions", instructions), ("jited-bytes", jited)]
            .map(|(name, figure)| (name.to_owned(), figure))
            .into()
    }

    fn changes(now: Figures, elsewhere: bool) -> Vec<(String, bool)> {
        let entry = Entry { reason: "first".to_owned(), figures: figures(1000, 1000) };
        let committed = [("observe".to_owned(), entry)].into();
        compare(&committed, &[("observe".to_owned(), now)].into(), elsewhere)
            .into_iter()
            .map(|change| (change.to_string(), change.fails))
            .collect()
    }

    #[test]
    fn growth_fails_and_shrinking_does_not() {
        assert_eq!(changes(figures(1000, 1000), false), []);
        let grown = "FAILED: observe: verified-instructions: 1001, committed 1000, +1";
        assert_eq!(changes(figures(1001, 1000), false), [(grown.to_owned(), true)]);
        let shrunk = "ok: observe: verified-instructions: 900, committed 1000, -100";
        assert_eq!(changes(figures(900, 1000), false), [(shrunk.to_owned(), false)]);
    }

    #[test]
    fn machine_code_may_grow_by_one_per_cent() {
        assert!(!changes(figures(1000, 1010), false)[0].1);
        assert!(changes(figures(1000, 1011), false)[0].1);
    }

    #[test]
    fn with_another_kernel_an_increase_by_a_quarter_does_not_fail() {
        assert!(!changes(figures(1250, 1000), true)[0].1);
        assert!(changes(figures(1251, 1000), true)[0].1);
    }

    #[test]
    fn a_figure_without_a_committed_value_fails() {
        let mut more = figures(1000, 1000);
        more.insert("stack-bytes".to_owned(), 8);
        assert!(changes(more, true)[0].1);
    }

    #[test]
    fn a_written_table_can_be_read() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_owned();
        let here = || ("6.18.0".to_owned(), "rustc".to_owned());
        let now = |jited| BTreeMap::from([("observe".to_owned(), figures(1000, jited))]);
        bless(&path, None, now(5), here(), "first").expect("a table");
        let first = read(&path).expect("a table");
        bless(&path, Some(&first), now(5), here(), "second").expect("a table");
        let same = read(&path).expect("a table");
        assert_eq!(same.budget["observe"].reason, "first");
        bless(&path, Some(&same), now(6), here(), "second").expect("a table");
        let changed = read(&path).expect("a table");
        assert_eq!(changed.budget["observe"].reason, "second");
        assert_eq!(changed.budget["observe"].figures, figures(1000, 6));
    }
}
