//! `cargo xtask dist`: packages of a static binary, the same bytes from the same sources.
//!
//! The packages are written here, by libraries: the formats are small, and the tools of either
//! distribution are missing on the other.

mod archive;
mod contents;
mod deb;
mod rpm;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};

use self::contents::Contents;
use crate::{build, sh, toolchain};

/// Statically linked, with musl: runs on any x86-64 Linux whose kernel is new enough.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// What to pack.
#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// Revision of the packages of this version, for one that is packed again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    revision: Option<u32>,
    /// Pack this binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// What all packages have in common.
#[derive(Debug)]
struct Release {
    /// Of the sources.
    version: String,
    /// Of the packages.
    revision: Option<u32>,
    /// Seconds since 1970 that every file in them has.
    time: u32,
}

/// Packs this binary, without building a static one: for the machine that it was built on, and for
/// guests with the same system.
pub(crate) fn pack(binary: PathBuf) -> Result<()> {
    run(&DistArgs { revision: None, binary: Some(binary) }).map(drop)
}

/// Makes the packages in `target/dist`, and says which.
pub(crate) fn run(args: &DistArgs) -> Result<bool> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => static_binary()?,
    };
    let release = Release { version: version(&binary)?, revision: args.revision, time: time()? };
    let contents = Contents::gather(&binary)?;
    let directory = sh::root().join("target/dist");
    // What lies there is of another version.
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let mut sums = String::new();
    for (name, bytes) in [
        (deb::name(&release), deb::package(&release, &contents)?),
        (rpm::name(&release), rpm::package(&release, &contents)?),
        (archive::name(&release), archive::package(&release, &contents)?),
    ] {
        let hash: String =
            Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{hash}  {name} ({} KiB)", bytes.len() / 1024);
        sums += &format!("{hash}  {name}\n");
        fs::write(directory.join(&name), bytes).with_context(|| name)?;
    }
    fs::write(directory.join("SHA256SUMS"), sums)?;
    println!("packed into {}", directory.display());
    Ok(true)
}

/// Builds the binary that is packed.
fn static_binary() -> Result<PathBuf> {
    let tools = toolchain::ensure(false)?;
    toolchain::ensure_target(TARGET)?;
    build::static_binary(&tools, TARGET)
}

/// The version that the binary says it is.
fn version(binary: &Path) -> Result<String> {
    let said = sh::read(Command::new(binary).arg("--version"))?;
    let version = said.trim().strip_prefix("trainguard ").unwrap_or_default();
    ensure!(
        !version.is_empty(),
        "`{}` says that it is `{}`, expected `trainguard VERSION`",
        binary.display(),
        said.trim()
    );
    Ok(version.to_owned())
}

/// When the sources were changed last: <https://reproducible-builds.org/specs/source-date-epoch>.
fn time() -> Result<u32> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(time) => time,
        Err(_unset) => {
            let mut git = Command::new("git");
            git.current_dir(sh::root());
            git.args(["-c", "safe.directory=*", "log", "-1", "--format=%ct"]);
            sh::read(&mut git).context("asking for the time of the last commit; where there is none, set SOURCE_DATE_EPOCH")?
        }
    };
    text.trim().parse().with_context(|| format!("`{}` is no time in seconds", text.trim()))
}
