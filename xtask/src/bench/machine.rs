//! Facts about the machine that a reader of the figures needs. A fact that cannot be determined is null.

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::{Value, json};

use crate::sh;

/// Collects the facts.
pub(crate) fn facts() -> Value {
    json!({
        "cpu": cpu_model(),
        "cpus": std::thread::available_parallelism().map(usize::from).ok(),
        "arch": std::env::consts::ARCH,
        "kernel": kernel(),
        "hz": hz(),
        "jit_harden": number("/proc/sys/net/core/bpf_jit_harden"),
        "mitigations": mitigations(),
        "load_average": read("/proc/loadavg").map(|text| {
            text.split(' ').take(3).map(str::to_owned).collect::<Vec<_>>().join(" ")
        }),
        "commit": commit(),
    })
}

/// Returns the current time in UTC, as ISO 8601.
pub(super) fn date() -> Option<String> {
    output_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])
}

/// Returns the release of the running kernel (`uname -r`).
pub(crate) fn kernel() -> Option<String> {
    read("/proc/sys/kernel/osrelease")
}

fn cpu_model() -> Option<String> {
    let text = read("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns the kernel's ticks per second (`CONFIG_HZ`), which is the resolution of the coarse clock.
fn hz() -> Option<u64> {
    let config = output_of("zcat", &["/proc/config.gz"])
        .or_else(|| read(&format!("/boot/config-{}", kernel()?)))?;
    config.lines().find_map(|line| line.strip_prefix("CONFIG_HZ="))?.parse().ok()
}

/// Returns the kernel's mitigations of CPU vulnerabilities, by name; only of those that affect this CPU.
fn mitigations() -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return BTreeMap::new();
    };
    let all = entries.filter_map(Result::ok).filter_map(|entry| {
        let state = fs::read_to_string(entry.path()).ok()?.trim().to_owned();
        Some((entry.file_name().to_string_lossy().into_owned(), state))
    });
    all.filter(|(_, state)| state != "Not affected").collect()
}

/// Returns the current commit, and whether the tree has uncommitted changes.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        // Root may measure a clone that belongs to another user.
        git.current_dir(sh::root()).args(["-c", "safe.directory=*"]).args(args);
        sh::read(&mut git).ok()
    };
    let head = git(&["rev-parse", "HEAD"])?.trim().to_owned();
    let changed = git(&["status", "--porcelain"])?.lines().next().is_some();
    Some(if changed { head + " and changes" } else { head })
}

fn number(path: &str) -> Option<u64> {
    read(path)?.parse().ok()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn output_of(program: &str, args: &[&str]) -> Option<String> {
    sh::read(Command::new(program).args(args)).ok().map(|text| text.trim().to_owned())
}
