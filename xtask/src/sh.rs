//! Runs other programs.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    // `cargo xtask` is `cargo run`, so cargo sets this variable at run time. A binary that was started
    // directly uses the directory in which it was built.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), Path::to_path_buf)
}

/// Returns a command for the cargo that runs this program, or else the one in `PATH`, at the root of the
/// repository.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Build products are expected in `target` at the root.
    cargo.current_dir(root()).env_remove("CARGO_TARGET_DIR");
    cargo
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Finds a program in `PATH`, in cargo's `bin` directory, or in the `sbin` directories, which the `PATH`
/// of ordinary users leaves out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Returns the directory where `cargo install` puts binaries.
fn cargo_bin() -> Option<PathBuf> {
    cargo_home().map(|home| home.join("bin"))
}

/// Returns cargo's home, which holds the sources of dependencies.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// Returns the standard output of a program. An exit status other than 0 is an error, with the program's
/// standard error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}", said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {command:?}"))
}

/// Runs a program that inherits our output. An exit status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    if !succeeds(command)? {
        bail!("{command:?} failed");
    }
    Ok(())
}

/// Copies a binary without debug information and symbols. Returns the path of the copy.
pub(crate) fn strip(from: &Path, to: &Path) -> Result<PathBuf> {
    let strip = find("strip").context("`strip` is not installed (package binutils)")?;
    run(Command::new(strip).arg("-o").args([to, from]))?;
    Ok(to.to_owned())
}

/// Runs a program that inherits our output. Returns whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.stdin(Stdio::null()).status();
    Ok(status.with_context(|| format!("running {command:?}"))?.success())
}
