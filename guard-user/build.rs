//! Embeds the kernel object that `cargo xtask build` has made, if the environment names one.

use std::{env, error::Error, fs, path::Path, thread, time::Duration};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=TRAINGUARD_OBJECT");
    println!("cargo::rustc-check-cfg=cfg(kernel_object)");
    let Some(object) = env::var_os("TRAINGUARD_OBJECT").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    await_kernel_object();
    println!("cargo::rerun-if-changed={}", Path::new(&object).display());
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::copy(&object, Path::new(&out).join("guard.o")).map_err(|error| {
        format!("TRAINGUARD_OBJECT names {}: {error}", Path::new(&object).display())
    })?;
    println!("cargo::rustc-cfg=kernel_object");
    Ok(())
}

/// Waits while `cargo xtask` builds the kernel object beside us: as long as the file is there that says
/// so, and the process whose id is in the file's name, `trainguard-object-PID-...`.
fn await_kernel_object() {
    let Some(pending) = env::var_os("TRAINGUARD_OBJECT_PENDING") else { return };
    let pending = Path::new(&pending);
    let name = pending.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(builder) = name.split('-').nth(2) else { return };
    while pending.exists() && Path::new("/proc").join(builder).exists() {
        thread::sleep(Duration::from_millis(100));
    }
}
