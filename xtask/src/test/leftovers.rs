//! Removes what killed tests leave behind: network namespaces, control groups, and directories with bpf
//! file systems mounted in them. Each name contains the id of the process that made it; it is removed
//! once no such process exists.

use std::{env, fs, path::Path, process::Command};

/// Prefix of the names of namespaces: `tgtest1234-0-node`.
const NAMESPACE: &str = "tgtest";
/// Prefix of the names of control groups: `tgtest-1234-reloads`.
const CGROUP: &str = "tgtest-";
/// Prefix of the names of directories: `trainguard-test-1234-x7f2aQ`.
const DIRECTORY: &str = "trainguard-test-";
/// Directories that may contain the control groups.
const CGROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"];

/// Removes the leftovers and reports them.
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
            // A bpf file system, or a small file system for a state directory, may be mounted there.
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
                // This fails while a process is in the group. The group then remains visible, and so does
                // the process.
                let _ = fs::remove_dir(Path::new(root).join(&name));
            }
        }
    }
}

fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Returns whether no process has this id.
fn is_gone(pid: &str) -> bool {
    let is_number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    is_number && !Path::new("/proc").join(pid).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_without_a_process_are_gone() {
        assert!(!is_gone(&std::process::id().to_string()));
        // Above the largest process id of Linux (`PID_MAX_LIMIT`, include/linux/threads.h).
        assert!(is_gone("4194305"));
        assert!(!is_gone(""));
        assert!(!is_gone("self"));
    }
}
