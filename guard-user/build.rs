//! Embeds the kernel object that `cargo xtask build` has made, if the environment names one.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=TRAINGUARD_OBJECT");
    println!("cargo::rustc-check-cfg=cfg(kernel_object)");
    let Some(object) = env::var_os("TRAINGUARD_OBJECT").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    println!("cargo::rerun-if-changed={}", Path::new(&object).display());
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::copy(&object, Path::new(&out).join("guard.o")).map_err(|error| {
        format!("TRAINGUARD_OBJECT names {}: {error}", Path::new(&object).display())
    })?;
    println!("cargo::rustc-cfg=kernel_object");
    Ok(())
}
