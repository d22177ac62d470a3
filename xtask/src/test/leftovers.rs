//! What a test that was killed could not take down itself: network namespaces, control groups,
//! directories with the bpf file systems mounted in them. Each carries the id of the process that made
//! it, and is removed once that process is gone.

use std::{env, fs, path::Path, process::Command};

/// Beginning of the names of namespaces: `tgtest1234-0-node`.
const NAMESPACE: &str = "tgtest";
/// Beginning of the names of control groups: `tgtest-1234-reloads`.
const CGROUP: &str = "tgtest-";
/// Beginning of the names of directories: `trainguard-test-1234-x7f2aQ`.
const DIRECTORY: &str = "trainguard-test-";
/// Where control groups may be.
const CGROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"];

/// Removes what is left, and says what.
pub(super) fn remove() {
    for name in names("/run/netns") {
        let owner = name.strip_prefix(NAMESPACE).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(is_gone) {
            eprintln!("removing the network namespace `{name}` of a test that was killed");
            let pids = Command::new("ip").args(["netns", "pids", &name]).output();
            let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            for pid in pids.unwrap_or_default().split_whitespace() {
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
    let temporary = env::temp_dir();
    for name in names(&temporary) {
        let owner = name.strip_prefix(DIRECTORY).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(is_gone) {
            let directory = temporary.join(&name);
            eprintln!("removing the directory `{}` of a test that was killed", directory.display());
            // What was mounted there: a bpf file system, and a small disk for a state directory.
            for mount in names(&directory) {
                let mut umount = Command::new("umount");
                let _ = umount.arg("-l").arg(directory.join(mount)).output();
            }
            let _ = fs::remove_dir_all(&directory);
        }
    }
    for root in CGROUPS {
        for name in names(root) {
            let owner = name.strip_prefix(CGROUP).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(is_gone) {
                // Fails while a process is in it, which is then named by whoever looks.
                let _ = fs::remove_dir(Path::new(root).join(&name));
            }
        }
    }
}

fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether there is no process of this id.
fn is_gone(pid: &str) -> bool {
    let is_number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    is_number && !Path::new("/proc").join(pid).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_owner_is_left() {
        assert!(!is_gone(&std::process::id().to_string()));
        // Above the largest number that Linux gives (`PID_MAX_LIMIT`, include/linux/threads.h).
        assert!(is_gone("4194305"));
        assert!(!is_gone(""));
        assert!(!is_gone("self"));
    }
}
