//! The one function of aya-build that the build scripts of aya-ebpf and its bindings call.
//!
//! The crate of that name also builds kernel objects for other build scripts, for which it reads cargo's
//! metadata. With it, a build of the kernel object, and clippy of it, compiles some twenty crates more
//! (serde, its macros, `cargo_metadata`), for 40 s of CPU; `cargo xtask build` builds the object by itself.
//! `Cargo.toml` of the workspace puts this in its place.

use std::env;

/// What a build script ends with.
pub type Result<T> = std::result::Result<T, String>;

/// Tells the compiler of the calling crate for which machine's registers and calls the kernel object is:
/// `bpf_target_arch`, as `cargo xtask build` sets it for all crates (`xtask/src/build.rs`), else that of
/// this machine.
///
/// # Errors
/// Cargo has not said what this machine is.
#[expect(clippy::print_stdout, reason = "how a build script talks to cargo")]
pub fn emit_bpf_target_arch_cfg() -> Result<()> {
    println!("cargo:rerun-if-env-changed=CARGO_CFG_BPF_TARGET_ARCH");
    println!("cargo:rerun-if-env-changed=HOST");
    println!("cargo::rustc-check-cfg=cfg(bpf_target_arch, values(any()))");
    if env::var_os("CARGO_CFG_BPF_TARGET_ARCH").is_none() {
        let host = env::var("HOST").map_err(|error| format!("HOST: {error}"))?;
        let machine = host.split('-').next().unwrap_or(&host);
        // `riscv64gc`: with the letters of its extensions.
        let machine = if machine.starts_with("riscv64") { "riscv64" } else { machine };
        println!("cargo:rustc-cfg=bpf_target_arch=\"{machine}\"");
    }
    Ok(())
}
