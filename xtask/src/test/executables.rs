//! Builds and lists the test executables.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    build::{self, Built},
    sh,
};

/// The cargo target with the tests of the crate `guard-tests`.
const INTEGRATION: &str = "integration";

/// A test executable.
#[derive(Debug, Clone)]
pub(crate) struct Executable {
    /// Its cargo target: `guard_user`, `offline`, `integration` ...
    pub(crate) target: String,
    /// Its path.
    pub(crate) path: PathBuf,
    /// Directory of its package. Cargo runs tests in this directory.
    pub(crate) directory: PathBuf,
}

/// Builds the test executables, with the kernel object embedded if there is one.
pub(crate) fn executables(built: Option<&Built>) -> Result<Vec<Executable>> {
    let mut cargo = build::tests(built);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = cargo.output().with_context(|| format!("running {cargo:?}"))?;
    ensure!(output.status.success(), "the tests do not compile");
    let mut found = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        let is_test = message["profile"]["test"] == true;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let (true, Some(target), Some(path), Some(manifest)) = (
            is_test,
            text(&message["target"]["name"]),
            text(&message["executable"]),
            text(&message["manifest_path"]),
        ) {
            let directory = Path::new(&manifest).parent().map(Path::to_owned).unwrap_or_default();
            found.push(Executable { target, path: path.into(), directory });
        }
    }
    ensure!(!found.is_empty(), "cargo lists no test executables");
    Ok(found)
}

/// Returns the executable of the crate `guard-tests`, which contains the tests of the kernel.
pub(crate) fn integration(executables: &[Executable]) -> Result<&Path> {
    let found = executables.iter().find(|executable| executable.target == INTEGRATION);
    let found = found.with_context(|| format!("no test executable `{INTEGRATION}`"))?;
    Ok(&found.path)
}

impl Executable {
    /// Returns a command that runs the executable as cargo does.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory);
        command.stdin(Stdio::null());
        command
    }

    /// Returns the names of its tests.
    pub(super) fn tests(&self) -> Result<Vec<String>> {
        let listed = sh::read(self.command().args(["--list", "--format", "terse"]))?;
        let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(str::to_owned).collect())
    }
}
