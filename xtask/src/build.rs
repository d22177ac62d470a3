//! Building the kernel object and the binary that carries it.

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

/// How to build.
#[derive(Debug, Default, Args)]
pub(crate) struct BuildArgs {
    /// Development only: build the kernel object with a log line for each verdict
    #[arg(long)]
    pub(crate) log: bool,
}

/// What was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// The kernel object.
    pub(crate) object: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// `target/release/trainguard` or `target/debug/trainguard`
    pub(crate) binary: PathBuf,
}

/// The packages of every cargo call that builds or checks for this machine. Always the same ones: cargo
/// unifies the features of what the chosen packages depend on, so that another choice would compile
/// the same dependencies again. `cargo xtask check` compares the choices ([`crate::one_build`]).
pub(crate) const PACKAGES: [&str; 7] = [
    "--package=guard-common",
    "--package=guard-policy",
    "--package=guard-tables",
    "--package=guard-user",
    "--package=guard-test-support",
    "--package=guard-tests",
    "--package=xtask",
];

/// What the demo builds. `xtask` is there already, built by cargo before it runs; named, so that what it
/// shares with macros is what its own build has compiled ([`crate::one_build`]).
pub(crate) const DEMO: [&str; 4] = ["--bin", "trainguard", "--bin", "xtask"];

/// Builds the kernel object, then the binary as it is shipped.
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

/// Builds the binary as tests and demo run it: quickly, not optimised.
pub(crate) fn for_demo() -> Result<Built> {
    let mut cargo = sh::cargo();
    cargo.arg("build").args(PACKAGES).args(DEMO);
    beside_kernel_object(cargo, |_| Ok(())).map(|(built, ())| built)
}

/// The same, the tests with it, and the kernel object of the sender of floods.
pub(crate) fn for_tests() -> Result<(Built, PathBuf)> {
    beside_kernel_object(tests(None), flood_object)
}

/// Builds the kernel object, and more of what needs its toolchain, while `cargo` builds for this
/// machine: the one is mostly a chain of single steps, the other is not. Where the two meet, in the
/// build script of guard-user, that one waits for the kernel object.
fn beside_kernel_object<T>(
    mut cargo: Command,
    more: impl FnOnce(&Toolchain) -> Result<T>,
) -> Result<(Built, T)> {
    let path = embedded_object();
    let pending = tempfile::Builder::new()
        .prefix(&format!("trainguard-object-{}-", std::process::id()))
        .tempfile()
        .context("a file that says that the kernel object is not built yet")?;
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
        // A build script that ran in an earlier call did not run now: the object was the old one when cargo
        // looked at it.
        sh::run(cargo.arg("--quiet"))?;
    }
    Ok((built, more?))
}

/// Builds everything that tests run: executables of tests, binaries. To be run.
pub(crate) fn tests(built: Option<&Built>) -> Command {
    let mut cargo = sh::cargo();
    cargo.arg("build").args(PACKAGES).args(["--tests", "--bins"]);
    match built {
        Some(built) => cargo.env("TRAINGUARD_OBJECT", &built.object),
        None => cargo.env_remove("TRAINGUARD_OBJECT"),
    };
    cargo
}

/// A binary of the build that tests and demo run.
pub(crate) fn development_binary(name: &str) -> PathBuf {
    sh::root().join("target/debug").join(name)
}

/// A kernel object where the build of guard-user takes it from.
struct Object {
    path: PathBuf,
    /// Bytes.
    size: u64,
    /// Whether it is another one than before.
    changed: bool,
}

/// Builds the kernel object, and puts it where the build of guard-user takes it from.
///
/// `before`: a time before that build began. A file that is younger than the start of the build script
/// that read it makes cargo run the script, and compile guard-user, once more at its next call.
fn object(tools: &Toolchain, args: &BuildArgs, before: SystemTime) -> Result<Object> {
    let built = kernel_object(tools, "guard", args)?;
    let bytes = fs::read(&built).with_context(|| built.display().to_string())?;
    let path = embedded_object();
    let changed = fs::read(&path).map_or(true, |there| there != bytes);
    if changed {
        let directory = path.parent().context("a path below the root of the repository")?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&bytes)?;
        file.as_file().set_modified(before)?;
        file.persist(&path).with_context(|| path.display().to_string())?;
    }
    Ok(Object { path, size: u64::try_from(bytes.len())?, changed })
}

/// Builds a statically linked binary for distribution, in a target directory of its own. Neither
/// where it was built nor by whom is to be read in it.
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

/// Flags that keep a compiler from writing down where things lie on this machine: the sources, those
/// of dependencies, and its own. The same sources give the same bytes in any directory.
fn anonymous(rustc: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(rustc);
    let sysroot = sh::read(command.current_dir(sh::root()).args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let mut places = vec![(sh::root(), "/usr/src/trainguard"), (library, "/usr/src/rust")];
    places.extend(sh::cargo_home().map(|home| (home, "/usr/src/cargo")));
    let remap = |(from, to): (PathBuf, &str)| {
        // What the compiler is told are paths without links.
        let real = fs::canonicalize(&from).ok().filter(|real| *real != from);
        let flag = |from: &Path| format!("--remap-path-prefix={}={to}", from.display());
        [Some(flag(&from)), real.map(|real| flag(&real))]
    };
    Ok(places.into_iter().flat_map(remap).flatten().collect())
}

/// Builds the kernel objects of the benchmarks; the directory where they lie.
pub(crate) fn bench_objects(tools: &Toolchain) -> Result<PathBuf> {
    flood_object(tools)?;
    let yardsticks = kernel_object(tools, "bench", &BuildArgs::default())?;
    Ok(yardsticks.parent().map(Path::to_owned).unwrap_or_default())
}

/// Builds the kernel object of the sender of floods.
pub(crate) fn flood_object(tools: &Toolchain) -> Result<PathBuf> {
    kernel_object(tools, "flood", &BuildArgs::default())
}

/// Builds only the binary, where no kernel object can be had.
pub(crate) fn without_kernel_object() -> Result<PathBuf> {
    sh::run(sh::cargo().args(["build", "--quiet"]).args(PACKAGES).args(DEMO))?;
    Ok(development_binary("trainguard"))
}

/// Builds one kernel object in a target directory of its own, so that its flags do not throw away
/// what the host build has compiled.
fn kernel_object(tools: &Toolchain, name: &str, args: &BuildArgs) -> Result<PathBuf> {
    let target = sh::root().join("target/bpf");
    let mut flags = anonymous(&tools.rustc.path)?;
    // rustc passes `--cpu v3` on to the linker by itself.
    flags.extend([
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        // Fields of packets lie where they lie. The machines that we build for load them at once,
        // and without this the compiler would do it byte by byte.
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

/// cargo for a gate beside the tests: with the kernel object that they were built with. Without it the
/// build script of guard-user would run again, and all that depends on it be compiled again.
pub(crate) fn cargo_as_built() -> Command {
    let mut cargo = sh::cargo();
    let object = embedded_object();
    if object.is_file() {
        cargo.env("TRAINGUARD_OBJECT", object);
    }
    cargo
}

/// The kernel object that is embedded, or will be.
pub(crate) fn embedded_object() -> PathBuf {
    sh::root().join("target/bpf/guard.o")
}
