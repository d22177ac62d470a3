//! Nothing to do: without a build script cargo would leave the build dependencies out of account, by
//! which procedural macros are compiled as for the rest of the workspace (see `Cargo.toml`).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
