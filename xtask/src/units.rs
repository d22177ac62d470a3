//! Runs clippy and rustdoc on our crates with the recorded commands that compiled them.
//!
//! `cargo clippy` and `cargo doc` check every dependency again that a build has compiled already, which
//! takes a third of the time of the checks. Where `.ci/rustc` has recorded how each of our crates was
//! compiled, this module calls clippy and rustdoc in the same way, with the dependencies that the build
//! compiled.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use crate::sh;

/// How one crate was compiled.
#[derive(Debug, Clone)]
struct Unit {
    when: SystemTime,
    environment: BTreeMap<String, String>,
    /// The compiler's path. Its arguments are in `arguments`.
    compiler: String,
    arguments: Vec<String>,
}

/// All recorded compilations.
#[derive(Debug)]
pub(crate) struct Units(Vec<Unit>);

impl Units {
    /// Returns whether builds in this environment record their compiler calls.
    pub(crate) fn are_recorded() -> bool {
        let wrapper = env::var_os("RUSTC_WORKSPACE_WRAPPER").map(PathBuf::from);
        wrapper.is_some_and(|wrapper| wrapper == sh::root().join(".ci/rustc"))
    }

    /// Reads the records: the last compilation of each crate in each of its forms.
    pub(crate) fn read() -> Result<Self> {
        let mut units = Vec::new();
        for entry in fs::read_dir(sh::root().join("target/units"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "args") {
                continue;
            }
            units.push(Unit::read(&path).with_context(|| path.display().to_string())?);
        }
        // The last one of each form is kept.
        units.sort_by_key(|unit| unit.when);
        let by_form: BTreeMap<_, _> = units.into_iter().map(|unit| (unit.form(), unit)).collect();
        Ok(Self(by_form.into_values().collect()))
    }

    /// Lints all units. Returns whether clippy finds nothing.
    pub(crate) fn lint(&self) -> Result<bool> {
        // Lint the binary with each form of its library: the builds with other features compiled only the
        // library.
        let binaries = self.0.iter().filter(|unit| unit.value_of("--crate-type") == Some("bin"));
        let others: Vec<Unit> = binaries
            .flat_map(|unit| self.0.iter().filter_map(move |library| unit.with_library(library)))
            .collect();
        each(self.0.iter().chain(&others).collect(), Unit::clippy)
    }

    /// Documents the libraries, and the programs that do not have the name of a library. Returns whether
    /// rustdoc finds nothing.
    pub(crate) fn document(&self) -> Result<bool> {
        let libraries: Vec<&str> =
            self.0.iter().filter(|unit| unit.is_library()).filter_map(Unit::name).collect();
        let documented = |unit: &&Unit| {
            let is_program =
                unit.value_of("--crate-type") == Some("bin") && !unit.is_build_script();
            let is_free = !unit.name().is_some_and(|name| libraries.contains(&name));
            unit.is_library() || (is_program && is_free && !unit.has("--test"))
        };
        // Of several forms, document the one with the most features.
        let mut by_source: BTreeMap<_, &Unit> = BTreeMap::new();
        for unit in self.0.iter().filter(documented) {
            let known = by_source.entry(unit.source()).or_insert(unit);
            if known.features().len() < unit.features().len() {
                *known = unit;
            }
        }
        each(by_source.into_values().collect(), Unit::rustdoc)
    }
}

impl Unit {
    fn read(path: &Path) -> Result<Self> {
        let parts = |path: &Path| -> Result<Vec<String>> {
            let text = fs::read_to_string(path)?;
            Ok(text.split_terminator('\0').map(str::to_owned).collect())
        };
        let environment = parts(&path.with_extension("env"))?;
        let environment = environment.iter().filter_map(|line| line.split_once('='));
        let mut arguments = parts(path)?;
        let compiler = arguments.first().cloned().context("no compiler is recorded")?;
        arguments.remove(0);
        // Drop `-C incremental=DIR`: the compiler's own cache.
        if let Some(at) = arguments.iter().position(|argument| argument.starts_with("incremental="))
        {
            arguments.drain(at.saturating_sub(1)..=at);
        }
        Ok(Self {
            when: fs::metadata(path)?.modified()?,
            environment: environment.map(|(name, value)| (name.into(), value.into())).collect(),
            compiler,
            arguments,
        })
    }

    fn has(&self, argument: &str) -> bool {
        self.arguments.iter().any(|known| known == argument)
    }

    fn value_of(&self, option: &str) -> Option<&str> {
        let pair =
            self.arguments.windows(2).find(|pair| pair.first().is_some_and(|it| it == option));
        pair.and_then(|pair| pair.get(1)).map(String::as_str)
    }

    fn name(&self) -> Option<&str> {
        self.value_of("--crate-name")
    }

    fn source(&self) -> Option<&String> {
        let is_source = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
        self.arguments.iter().find(|argument| is_source(Path::new(argument)))
    }

    fn is_library(&self) -> bool {
        self.value_of("--crate-type") == Some("lib")
    }

    fn is_build_script(&self) -> bool {
        self.name().is_some_and(|name| name.starts_with("build_script"))
    }

    /// Returns this unit with another form of its package's library, or `None` if it uses that form
    /// already or the library belongs to another package.
    fn with_library(&self, library: &Self) -> Option<Self> {
        let package = |unit: &Self| unit.environment.get("CARGO_PKG_NAME").cloned();
        if !library.is_library() || package(library) != package(self) {
            return None;
        }
        let prefix = format!("{}=", library.name()?);
        let at = self.arguments.iter().position(|argument| argument.starts_with(&prefix))?;
        let file = Path::new(self.arguments.get(at)?.strip_prefix(&prefix)?);
        let hash = library.arguments.iter().find_map(|it| it.strip_prefix("extra-filename="))?;
        let other = file.with_file_name(format!("lib{}{hash}.rlib", library.name()?));
        if other == file {
            return None;
        }
        let mut arguments = Vec::new();
        for (nth, argument) in self.arguments.iter().enumerate() {
            if nth == at {
                arguments.push(format!("{prefix}{}", other.display()));
            } else if argument.starts_with("feature=") {
                // Drop the `--cfg` before it, too.
                arguments.pop();
            } else {
                arguments.push(argument.clone());
            }
        }
        for feature in library.features() {
            arguments.extend(["--cfg".to_owned(), feature.to_owned()]);
        }
        Some(Self { arguments, ..self.clone() })
    }

    fn features(&self) -> Vec<&str> {
        let is_feature = |argument: &&str| argument.starts_with("feature=");
        self.arguments.iter().map(String::as_str).filter(is_feature).collect()
    }

    /// Returns what distinguishes the forms of a crate: name, source file, whether it is a test harness,
    /// features.
    fn form(&self) -> (Option<String>, Option<String>, bool, Vec<String>) {
        let features = self.features().into_iter().map(str::to_owned).collect();
        (self.name().map(str::to_owned), self.source().cloned(), self.has("--test"), features)
    }

    /// Returns a command for a program that runs in place of the compiler, in the same directory and
    /// environment.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(sh::root()).env_clear().envs(&self.environment);
        // Drop the job server: it belonged to the cargo process that compiled the unit, which has ended.
        command.env_remove("MAKEFLAGS").env_remove("CARGO_MAKEFLAGS");
        command.stdin(Stdio::null());
        command
    }

    fn clippy(&self) -> Result<Output> {
        let out = sh::root().join("target/lint");
        let mut clippy = self.command("clippy-driver");
        // `cargo clippy` passes arguments to the driver in this form.
        clippy.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
        clippy.arg(&self.compiler).args(self.without(&["--out-dir", "--emit"]));
        clippy.arg("--emit=metadata").arg("--out-dir").arg(out);
        clippy.output().context("running clippy-driver")
    }

    fn rustdoc(&self) -> Result<Output> {
        let mut rustdoc = self.command("rustdoc");
        let lints = ["--warn", "--deny", "--allow", "--forbid"];
        let of_compiler = ["--out-dir", "--emit", "-C", "--test"];
        rustdoc.args(self.without(&[&lints[..], &of_compiler].concat()));
        rustdoc.arg("-Dwarnings").arg("--out-dir").arg(sh::root().join("target/doc"));
        rustdoc.output().context("running rustdoc")
    }

    /// Returns the arguments without `options` and their values, and without those that ask for JSON
    /// messages.
    fn without(&self, options: &[&str]) -> Vec<&str> {
        let mut kept = Vec::new();
        let mut arguments = self.arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            let name = argument.split_once('=').map_or(argument, |(name, _)| name);
            if options.contains(&argument) && argument != "--test" {
                arguments.next();
            } else if !options.contains(&name) && !["--error-format", "--json"].contains(&name) {
                kept.push(argument);
            }
        }
        kept
    }
}

/// Calls `run` for all units, as many at a time as there are CPUs, and prints their standard error.
/// Returns whether all succeeded.
fn each(mut units: Vec<&Unit>, run: fn(&Unit) -> Result<Output>) -> Result<bool> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    units.reverse();
    let queue = Mutex::new(units);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || -> Result<bool> {
        let mut passed = true;
        while let Some(unit) = next() {
            let output = run(unit)?;
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            passed &= output.status.success();
        }
        Ok(passed)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cpus).map(|_| scope.spawn(work)).collect();
        let mut passed = true;
        for worker in workers {
            let Ok(result) = worker.join() else { anyhow::bail!("a worker panicked") };
            passed &= result?;
        }
        Ok(passed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(arguments: &str) -> Unit {
        Unit {
            when: SystemTime::UNIX_EPOCH,
            environment: BTreeMap::from([("CARGO_PKG_NAME".to_owned(), "a".to_owned())]),
            compiler: "rustc".to_owned(),
            arguments: arguments.split(' ').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn the_arguments_of_a_compiler_are_read() {
        let library = unit(
            "--crate-name guard_common --edition=2024 guard-common/src/lib.rs --error-format=json \
             --json=artifacts --crate-type lib --emit=dep-info,metadata,link -C opt-level=2 \
             --warn=clippy::pedantic --cfg feature=\"user\" --check-cfg cfg(docsrs,test) -C \
             extra-filename=-12 --out-dir target/debug/deps -L dependency=target/debug/deps --extern \
             aya=target/debug/deps/libaya-34.rmeta",
        );
        assert_eq!(library.name(), Some("guard_common"));
        assert!(library.is_library() && !library.is_build_script());
        assert_eq!(library.features(), ["feature=\"user\""]);
        assert_eq!(
            library.without(&["--warn", "--emit", "--out-dir", "-C", "--test"]).join(" "),
            "--crate-name guard_common --edition=2024 guard-common/src/lib.rs --crate-type lib --cfg \
             feature=\"user\" --check-cfg cfg(docsrs,test) -L dependency=target/debug/deps --extern \
             aya=target/debug/deps/libaya-34.rmeta"
        );
    }

    #[test]
    fn a_binary_is_linted_with_each_form_of_its_library() {
        let binary = unit(
            "--crate-name tool src/main.rs --crate-type bin --cfg feature=\"x\" -C extra-filename=-9 \
             --extern a=deps/liba-1.rlib --extern b=deps/libb-2.rlib",
        );
        let library = |hash: &str| {
            unit(&format!("--crate-name a src/lib.rs --crate-type lib -C extra-filename=-{hash}"))
        };
        assert!(binary.with_library(&library("1")).is_none(), "as it was compiled");
        let other = binary.with_library(&library("3")).expect("another form");
        assert_eq!(
            other.arguments.join(" "),
            "--crate-name tool src/main.rs --crate-type bin -C extra-filename=-9 --extern \
             a=deps/liba-3.rlib --extern b=deps/libb-2.rlib"
        );
    }

    #[test]
    fn a_test_harness_and_its_crate_are_different_forms() {
        let form = |arguments: &str| unit(arguments).form();
        let library = "--crate-name a a/src/lib.rs --crate-type lib";
        assert_ne!(form("--crate-name a a/src/lib.rs --test"), form("--crate-name a a/src/lib.rs"));
        assert_eq!(form(library), form(&format!("{library} -C metadata=12")));
        assert_ne!(form(library), form(&format!("{library} --cfg feature=\"x\"")));
    }
}
