//! Tests whether compiler and linker work together, by compiling and linking a small program. Versions do
//! not show this: a linker with an older minor version of LLVM reads some bitcode and crashes on other.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{LINKER_VERSION, Rustc};
use crate::sh;

/// A complete program without `core`, so that it compiles quickly.
const PROGRAM: &str = r#"
#![feature(no_core, lang_items)]
#![allow(internal_features)]
#![no_core]
#![no_main]
#[lang = "pointee_sized"]
pub trait PointeeSized {}
#[lang = "meta_sized"]
pub trait MetaSized: PointeeSized {}
#[lang = "sized"]
pub trait Sized: MetaSized {}
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn probe() -> u32 { 2 }
"#;

/// Returns a linker that works with the compiler, or the reason why the linker that was found does not.
pub(crate) fn find_linker(rustc: &Rustc) -> Result<(Option<PathBuf>, Option<String>)> {
    let Some(linker) = sh::find("bpf-linker") else { return Ok((None, None)) };
    let said = sh::read(Command::new(&linker).arg("--version")).unwrap_or_default();
    let version = said.trim().rsplit(' ').next().unwrap_or_default();
    if version != LINKER_VERSION {
        let path = linker.display();
        return Ok((None, Some(format!("{path} is version `{version}`, not {LINKER_VERSION}"))));
    }
    Ok(match link(rustc, &linker)? {
        None => (Some(linker), None),
        Some(failure) => (
            None,
            Some(format!("{} cannot link the output of {rustc}: {failure}", linker.display())),
        ),
    })
}

/// Compiles and links the program. Returns the error message if that fails.
fn link(rustc: &Rustc, linker: &Path) -> Result<Option<String>> {
    let directory = tempfile::tempdir().context("creating a temporary directory for the probe")?;
    let source = directory.path().join("probe.rs");
    fs::write(&source, PROGRAM)?;
    let mut command = Command::new(&rustc.path);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["--edition", "2024", "--target", "bpfel-unknown-none", "--crate-type", "bin"])
        .args(["-Cpanic=abort", "-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf", "-o"])
        .arg(directory.path().join("probe.o"))
        .arg(format!("-Clinker={}", linker.display()))
        .arg(&source);
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let relevant = said.lines().find(|line| {
        let line = line.to_lowercase();
        line.contains("llvm") && !line.contains("note: \"") || line.contains("signal")
    });
    Ok(Some(relevant.or(said.lines().next()).unwrap_or("no message").trim().to_owned()))
}
