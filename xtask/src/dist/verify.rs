//! Checks the results: the binary is statically linked and contains no paths of this machine, and the
//! packages pass the checks for their formats.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use object::{
    Endianness, elf,
    read::elf::{FileHeader as _, ProgramHeader as _},
};

use crate::{files::read, sh};

/// Checks that a binary needs neither a loader nor a library, and that it contains no path of this
/// machine.
pub(super) fn binary(path: &Path) -> Result<()> {
    let bytes = read(path)?;
    let shown = path.display();
    ensure!(
        !needs_a_loader(&bytes)?,
        "`{shown}` is not statically linked: it has a program interpreter"
    );
    for place in places() {
        let needle = place.as_os_str().as_encoded_bytes();
        if bytes.windows(needle.len()).any(|window| window == needle) {
            bail!(
                "`{shown}` contains `{}`, expected no path of the build machine: the flags of \
                 `build::anonymous` do not remap this path",
                place.display()
            );
        }
    }
    Ok(())
}

fn needs_a_loader(bytes: &[u8]) -> Result<bool> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes).context("not a 64-bit ELF file")?;
    let endian = header.endian().context("not a 64-bit ELF file")?;
    let segments = header.program_headers(endian, bytes).context("reading the program headers")?;
    Ok(segments.iter().any(|segment| segment.p_type(endian) == elf::PT_INTERP))
}

/// Returns paths that are particular to this machine: the sources, and the user's directories of cargo
/// and rustup.
fn places() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let places = [Some(sh::root()), sh::cargo_home(), home.map(|home| home.join(".rustup"))];
    places.into_iter().flatten().filter(|place| place.components().count() > 1).collect()
}

/// Checks the digests of an rpm.
pub(super) fn rpm(bytes: &[u8]) -> Result<()> {
    let package = ::rpm::Package::parse(&mut &*bytes).context("reading the rpm again")?;
    package.verify_digests().context("the digests of the rpm")
}

/// Checks a deb with lintian. Returns `false` if lintian is not installed.
pub(super) fn deb(path: &Path) -> Result<bool> {
    let Some(lintian) = sh::find("lintian") else { return Ok(false) };
    let mut command = Command::new(lintian);
    command.args(["--fail-on", "error,warning", "--tag-display-limit", "0", "--allow-root"]);
    if !sh::succeeds(command.arg(path))? {
        bail!("lintian reports problems of `{}`; they are listed above", path.display());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_binary_with_a_loader_or_a_path_of_the_machine_is_refused() {
        // This test binary is linked dynamically.
        let test = std::env::current_exe().expect("a path");
        let bytes = fs::read(test).expect("a binary");
        assert!(needs_a_loader(&bytes).expect("an ELF file"));
        assert!(needs_a_loader(b"#!/bin/sh\n").is_err());
        // The smallest file that needs no loader: a header without segments.
        let mut none = bytes[..64].to_vec();
        none[32..40].fill(0);
        none[56..58].fill(0);
        assert!(!needs_a_loader(&none).expect("an ELF file"));
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("binary");
        fs::write(&path, &none).expect("writing");
        binary(&path).expect("a binary without a loader and without paths");
        none.extend(sh::root().join("x.rs").as_os_str().as_encoded_bytes());
        fs::write(&path, &none).expect("writing");
        assert!(
            binary(&path)
                .expect_err("a path of the machine")
                .to_string()
                .contains("no path of the build machine")
        );
    }
}
