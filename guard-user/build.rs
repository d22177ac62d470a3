//! Build script: embeds the pages of `trainguard explain`, the profiles of `trainguard init` and, if
//! the environment variable `TRAINGUARD_OBJECT` names one, the kernel object built by `cargo xtask
//! build`.

use std::{env, error::Error, fs, path::Path, thread, time::Duration};

fn main() -> Result<(), Box<dyn Error>> {
    list_pages()?;
    list_profiles()?;
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

/// Writes `pages.rs` to `OUT_DIR`: an array of the name and the text of each page in `explain/`,
/// sorted.
fn list_pages() -> Result<(), Box<dyn Error>> {
    let package = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let directory = Path::new(&package).join("explain");
    println!("cargo::rerun-if-changed={}", directory.display());
    let mut pages = Vec::new();
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        let name =
            path.file_stem().and_then(|name| name.to_str()).ok_or("file name is not UTF-8")?;
        pages.push(format!("({name:?}, include_str!({:?}))", path.display().to_string()));
    }
    pages.sort();
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("pages.rs"), format!("[{}]", pages.join(",\n")))?;
    Ok(())
}

/// Writes `profiles.rs` to `OUT_DIR`: an array of the profiles in `policies/`, sorted by name, with the
/// roles from their front matter: a comment line such as `#   roles: scheduler = first, worker =
/// others`.
fn list_profiles() -> Result<(), Box<dyn Error>> {
    let package = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let directory = Path::new(&package).join("../policies");
    println!("cargo::rerun-if-changed={}", directory.display());
    let mut profiles = Vec::new();
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        let file =
            path.file_name().and_then(|name| name.to_str()).ok_or("file name is not UTF-8")?;
        let Some(name) = file.strip_suffix(".yaml") else { continue };
        if name == "cluster" || name.contains(".test") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let roles = text.lines().find_map(|line| line.strip_prefix("#   roles: "));
        let roles =
            roles.ok_or_else(|| format!("{file}: the front matter has no line `#   roles: `"))?;
        let mut pairs = Vec::new();
        for pair in roles.split(", ") {
            let (role, which) = pair
                .split_once(" = ")
                .ok_or_else(|| format!("{file}: `{pair}`: expected ROLE = HOSTS"))?;
            let which = match which {
                "scheduler" => "Scheduler",
                "first" => "First",
                "listed" => "Listed",
                "servers" => "Servers",
                "others" => "Others",
                "named" => "Named",
                other => {
                    let expected = "scheduler, first, listed, servers, others or named";
                    return Err(format!("{file}: `{other}`: expected {expected}").into());
                }
            };
            pairs.push(format!("({role:?}, RoleHolders::{which})"));
        }
        let path = path.display().to_string();
        profiles.push(format!(
            "Profile {{ name: {name:?}, policy: include_str!({path:?}), roles: &[{}] }}",
            pairs.join(", ")
        ));
    }
    profiles.sort();
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("profiles.rs"), format!("[{}]", profiles.join(",\n")))?;
    Ok(())
}

/// Waits until `cargo xtask`, which runs this build, has finished the kernel object that it builds in
/// parallel: until the file named by `TRAINGUARD_OBJECT_PENDING` is removed, or the process whose id is
/// part of its name (`trainguard-object-PID-...`) has exited.
fn await_kernel_object() {
    let Some(pending) = env::var_os("TRAINGUARD_OBJECT_PENDING") else { return };
    let pending = Path::new(&pending);
    let name = pending.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(builder) = name.split('-').nth(2) else { return };
    while pending.exists() && Path::new("/proc").join(builder).exists() {
        thread::sleep(Duration::from_millis(100));
    }
}
