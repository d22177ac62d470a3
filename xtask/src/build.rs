//! Builds the kernel object and the binary that embeds it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{
    sh,
    toolchain::{self, Toolchain},
};

/// Arguments of `cargo xtask build`.
#[derive(Debug, Default, Args)]
pub(crate) struct BuildArgs {
    /// Build the kernel object with a log line for each verdict (development only)
    #[arg(long)]
    pub(crate) log: bool,
}

/// The products of a build.
#[derive(Debug)]
pub(crate) struct Built {
    /// Path of the kernel object.
    pub(crate) object: PathBuf,
    /// Size of the kernel object, in bytes.
    pub(crate) size: u64,
    /// `target/release/trainguard` or `target/debug/trainguard`.
    pub(crate) binary: PathBuf,
}

/// The packages of every cargo call that builds or checks for this machine. All calls must choose the
/// same packages: cargo unifies the features of their dependencies, so another choice would compile the
/// same dependencies again. `cargo xtask check` compares the choices ([`crate::one_build`]).
pub(crate) const PACKAGES: [&str; 7] = [
    "--package=guard-common",
    "--package=guard-policy",
    "--package=guard-tables",
    "--package=guard-user",
    "--package=guard-test-support",
    "--package=guard-tests",
    "--package=xtask",
];

/// The binaries that the demo builds. Cargo has built `xtask` already, because this program runs. It is
/// listed so that crates which it shares with macros are used in the form that its own build has compiled
/// ([`crate::one_build`]).
pub(crate) const DEMO: [&str; 4] = ["--bin", "trainguard", "--bin", "xtask"];

/// Builds the kernel object, then the release binary.
pub(crate) fn build(tools: &Toolchain, args: &BuildArgs) -> Result<Built> {
    let Object { path: object, size, .. } = object(tools, args, SystemTime::now())?;
    let mut cargo = sh::cargo();
    cargo.args(["build", "--release", "--package", "guard-user"]);
    cargo.env("TRAINGUARD_OBJECT", &object);
    if args.log {
        cargo.args(["--features", "log"]);
    }
    sh::run(&mut cargo)?;
    Ok(Built { object, size, binary: sh::root().join("target/release/trainguard") })
}

/// Builds the binary that tests and demo run, in the development profile, which compiles faster.
pub(crate) fn for_demo() -> Result<Built> {
    let mut cargo = sh::cargo();
    cargo.arg("build").args(PACKAGES).args(DEMO);
    beside_kernel_object(cargo, |_| Ok(())).map(|(built, ())| built)
}

/// Builds the same as [`for_demo`], the tests, and the kernel object of the flood sender, whose path is
/// returned.
pub(crate) fn for_tests() -> Result<(Built, PathBuf)> {
    beside_kernel_object(tests(None), flood_object)
}

/// Builds the kernel object, and what `more` builds with the same toolchain, while `cargo` builds for
/// this machine.
///
/// The build of the kernel object is mostly sequential and leaves CPUs idle. The build script of
/// guard-user waits for the kernel object until the file `TRAINGUARD_OBJECT_PENDING` is removed.
fn beside_kernel_object<T>(
    mut cargo: Command,
    more: impl FnOnce(&Toolchain) -> Result<T>,
) -> Result<(Built, T)> {
    let path = embedded_object();
    let pending = tempfile::Builder::new()
        .prefix(&format!("trainguard-object-{}-", std::process::id()))
        .tempfile()
        .context("creating the file that marks the kernel object as not built yet")?;
    cargo.env("TRAINGUARD_OBJECT", &path).env("TRAINGUARD_OBJECT_PENDING", pending.path());
    let before = SystemTime::now();
    let mut host = cargo.stdin(Stdio::null()).spawn().context("running cargo")?;
    let built = toolchain::ensure(false).and_then(|tools| {
        let Object { path: object, size, changed } = object(&tools, &BuildArgs::default(), before)?;
        Ok((tools, changed, Built { object, size, binary: development_binary("trainguard") }))
    });
    let (tools, changed, built) = match built {
        Ok(built) => built,
        Err(error) => {
            let _ = host.kill();
            let _ = host.wait();
            return Err(error);
        }
    };
    drop(pending);
    let more = more(&tools);
    ensure!(host.wait()?.success(), "{cargo:?} failed");
    if changed {
        // If the build script ran in an earlier call, cargo has not rerun it: cargo looked at the object
        // before it was replaced.
        sh::run(cargo.arg("--quiet"))?;
    }
    Ok((built, more?))
}

/// Returns the cargo command that builds everything that tests run: test executables and binaries.
pub(crate) fn tests(built: Option<&Built>) -> Command {
    let mut cargo = sh::cargo();
    cargo.arg("build").args(PACKAGES).args(["--tests", "--bins"]);
    match built {
        Some(built) => cargo.env("TRAINGUARD_OBJECT", &built.object),
        None => cargo.env_remove("TRAINGUARD_OBJECT"),
    };
    cargo
}

/// Returns the path of a binary of the development profile, which tests and demo run.
pub(crate) fn development_binary(name: &str) -> PathBuf {
    sh::root().join("target/debug").join(name)
}

/// A kernel object at the path where the build of guard-user reads it.
struct Object {
    path: PathBuf,
    /// In bytes.
    size: u64,
    /// Whether its content differs from that of the previous build.
    changed: bool,
}

/// Builds the kernel object and writes it to the path where the build of guard-user reads it.
///
/// `before` becomes the file's modification time. It must be earlier than the start of the cargo build:
/// cargo reruns a build script, and compiles guard-user again, if an input is newer than the start of the
/// script.
fn object(tools: &Toolchain, args: &BuildArgs, before: SystemTime) -> Result<Object> {
    let built = kernel_object(tools, "guard", args)?;
    let bytes = fs::read(&built).with_context(|| built.display().to_string())?;
    let path = embedded_object();
    let changed = fs::read(&path).map_or(true, |there| there != bytes);
    if changed {
        let directory =
            path.parent().context("the path of the kernel object has no parent directory")?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&bytes)?;
        file.as_file().set_modified(before)?;
        file.persist(&path).with_context(|| path.display().to_string())?;
    }
    Ok(Object { path, size: u64::try_from(bytes.len())?, changed })
}

/// Builds a statically linked binary for distribution, in its own target directory. The binary contains
/// no path or user name of the build machine.
pub(crate) fn static_binary(tools: &Toolchain, triple: &str) -> Result<PathBuf> {
    let object = kernel_object(tools, "guard", &BuildArgs::default())?;
    let target = sh::root().join("target/static");
    let rustc = PathBuf::from(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let flags = anonymous(&rustc)?;
    let mut cargo = sh::cargo();
    cargo
        .args(["build", "--release", "--package", "guard-user", "--target", triple])
        .arg("--target-dir")
        .arg(&target)
        .env("TRAINGUARD_OBJECT", &object)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS");
    sh::run(&mut cargo).with_context(|| format!("building for {triple}"))?;
    Ok(target.join(triple).join("release/trainguard"))
}

/// Returns compiler flags that replace the paths of this machine (our sources, those of dependencies and
/// the standard library). The same sources give the same bytes in any directory.
fn anonymous(rustc: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(rustc);
    let sysroot = sh::read(command.current_dir(sh::root()).args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let mut places = vec![(sh::root(), "/usr/src/trainguard"), (library, "/usr/src/rust")];
    places.extend(sh::cargo_home().map(|home| (home, "/usr/src/cargo")));
    let remap = |(from, to): (PathBuf, &str)| {
        // The compiler may see the path with symbolic links resolved.
        let real = fs::canonicalize(&from).ok().filter(|real| *real != from);
        let flag = |from: &Path| format!("--remap-path-prefix={}={to}", from.display());
        [Some(flag(&from)), real.map(|real| flag(&real))]
    };
    Ok(places.into_iter().flat_map(remap).flatten().collect())
}

/// Builds the kernel objects of the benchmarks. Returns their directory.
pub(crate) fn bench_objects(tools: &Toolchain) -> Result<PathBuf> {
    flood_object(tools)?;
    let reference_programs = kernel_object(tools, "bench", &BuildArgs::default())?;
    Ok(reference_programs.parent().map(Path::to_owned).unwrap_or_default())
}

/// Builds the kernel object of the flood sender.
pub(crate) fn flood_object(tools: &Toolchain) -> Result<PathBuf> {
    kernel_object(tools, "flood", &BuildArgs::default())
}

/// Builds only the binary, without a kernel object, where the tools that build one are missing.
pub(crate) fn without_kernel_object() -> Result<PathBuf> {
    sh::run(sh::cargo().args(["build", "--quiet"]).args(PACKAGES).args(DEMO))?;
    Ok(development_binary("trainguard"))
}

/// Builds one kernel object in its own target directory, so that its flags do not invalidate the
/// artifacts of the host build.
fn kernel_object(tools: &Toolchain, name: &str, args: &BuildArgs) -> Result<PathBuf> {
    let target = sh::root().join("target/bpf");
    let mut flags = anonymous(&tools.rustc.path)?;
    // rustc passes `--cpu v3` to the linker itself.
    flags.extend([
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        // Fields of packets are not aligned. The architectures that we build for can load them in one
        // instruction; without this feature the compiler would load byte by byte.
        "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
        format!("-Clinker={}", tools.linker.display()),
    ]);
    let mut cargo = sh::cargo();
    cargo
        .args(["build", "--release", "--package", "guard-ebpf", "--target", "bpfel-unknown-none"])
        .args(["--bin", name, "-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .env("RUSTC", &tools.rustc.path)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if args.log {
        cargo.args(["--features", "log"]);
    }
    sh::run(&mut cargo).with_context(|| format!("building the kernel object `{name}`"))?;
    Ok(target.join("bpfel-unknown-none/release").join(name))
}

/// Returns a cargo command for a gate that runs beside the tests, with the kernel object that the tests
/// were built with. Without it, the build script of guard-user would run again, and everything that
/// depends on guard-user would be compiled again.
pub(crate) fn cargo_as_built() -> Command {
    let mut cargo = sh::cargo();
    let object = embedded_object();
    if object.is_file() {
        cargo.env("TRAINGUARD_OBJECT", object);
    }
    cargo
}

/// Returns the path of the kernel object that guard-user embeds. The file may not exist yet.
pub(crate) fn embedded_object() -> PathBuf {
    sh::root().join("target/bpf/guard.o")
}
