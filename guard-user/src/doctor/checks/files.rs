//! Checks of files and directories: which users could change the policy or the pins.

use std::path::Path;

use super::{Check, State, listed, quoted};
use crate::{
    doctor::facts::{Directory, MachineFacts, MaybeHidden, Ownership, Policy, PolicyFile},
    file_permissions::{EntryKind, Fault},
};

/// Free space in bytes that the file system of the state directory should have.
const LOW_DISK_SPACE_BYTES: u64 = 16 << 20;
/// Write permission for the group or for others.
const OTHERS_WRITE: u32 = 0o022;
/// Any permission for the group or for others.
const GROUP_AND_OTHERS: u32 = 0o077;

pub(super) fn all(facts: &MachineFacts) -> Vec<Check> {
    let mut checks: Vec<Check> = facts.policy.iter().map(policy_files).collect();
    checks.push(state_dir(&facts.state_dir));
    checks.push(run_dir(&facts.run_dir));
    checks
}

/// Checks the bpf file system and the pin directory.
pub(super) fn pins(facts: &MachineFacts) -> Vec<Check> {
    const ID: &str = "bpffs";
    let bpffs = &facts.bpffs;
    let path = bpffs.path.display();
    let existing = bpffs.existing.display();
    let why = "pins keep the guard in force while no daemon runs";
    let check = match &bpffs.is_bpf {
        MaybeHidden::Hidden(why) => {
            Check::new(ID, State::Unknown, format!("`{existing}` cannot be examined: {why}"))
                .fix("run doctor as root")
        }
        MaybeHidden::Known(false) => {
            let found = format!("`{existing}` is not on a bpf file system");
            Check::new(ID, State::Failed, found).why(why).fix(
                "mount -t bpf bpf /sys/fs/bpf; in a container: mount the host's. Or choose another \
                 directory with --bpf-dir",
            )
        }
        MaybeHidden::Known(true) if bpffs.read_only => {
            let found = format!("the bpf file system of `{existing}` is mounted read-only");
            Check::new(ID, State::Failed, found)
                .why(why)
                .fix(format!("mount -o remount,rw {}", quoted(&existing.to_string())))
        }
        MaybeHidden::Known(true) if !bpffs.writable => {
            let state = if facts.rights.uid == 0 { State::Failed } else { State::Unknown };
            Check::new(
                ID,
                state,
                format!("user {} may not write to `{existing}`", facts.rights.uid),
            )
            .why(why)
            .fix("run doctor as root, or as the user of the daemon")
        }
        MaybeHidden::Known(true) => match &bpffs.directory {
            None => Check::ok(ID, format!("`{path}` can be created, on a bpf file system")),
            Some(MaybeHidden::Hidden(why)) => {
                Check::new(ID, State::Unknown, format!("`{path}` cannot be examined: {why}"))
                    .fix("run doctor as root")
            }
            Some(MaybeHidden::Known(Ownership { mode, .. })) if mode & GROUP_AND_OTHERS != 0 => {
                let found = format!("`{path}` has mode {:04o}, expected 0700", mode & 0o7777);
                Check::new(ID, State::Failed, found)
                    .why(
                        "a user who can write to a pin can change or detach the guard; only the \
                          file modes prevent that",
                    )
                    .fix(format!("chmod 0700 {}", quoted(&path.to_string())))
            }
            Some(MaybeHidden::Known(_)) => {
                Check::ok(ID, format!("`{path}`, mode 0700, on a bpf file system"))
            }
        },
    };
    vec![check]
}

fn policy_files(policy: &Policy) -> Check {
    const ID: &str = "policy-files";
    let files = match &policy.files {
        MaybeHidden::Known(files) => files,
        MaybeHidden::Hidden(why) => {
            return Check::new(ID, State::Unknown, format!("cannot be examined: {why}"))
                .fix("run doctor as root");
        }
    };
    let wrong: Vec<(&PolicyFile, String)> = files
        .iter()
        .filter_map(|file| Some((file, describe_fault(file, &policy.trusted)?)))
        .collect();
    let Some((first, _)) = wrong.first() else {
        let count = files.iter().filter(|file| file.kind == EntryKind::File).count();
        let found = format!(
            "only root and the daemon's user can change {} and the directories above",
            crate::text::counted(count, "file")
        );
        return Check::ok(ID, found);
    };
    let problems: Vec<String> = wrong
        .iter()
        .map(|(file, problem)| format!("{} `{}` {problem}", file.kind, file.path.display()))
        .collect();
    Check::new(ID, State::Failed, listed(&problems))
        .why("a user who can change them can open the ports; the daemon refuses such files")
        .fix(remedy(first, &policy.trusted).unwrap_or_default())
}

/// Returns what is wrong with the owner or mode of a file; none if nothing is.
fn describe_fault(file: &PolicyFile, trusted: &[u32]) -> Option<String> {
    let Ownership { uid, mode } = file.owned;
    Some(match file.fault(trusted)? {
        Fault::Owner => format!("belongs to user {uid}"),
        Fault::Writable | Fault::Shared => {
            format!("can be written by other users (mode {mode:04o})")
        }
        Fault::Kind => "is not a regular file".to_owned(),
        Fault::HardLinks => format!("has {} names (hard links)", file.names),
    })
}

/// Returns the command that repairs the file.
fn remedy(file: &PolicyFile, trusted: &[u32]) -> Option<String> {
    let path = quoted(&file.path.display().to_string());
    Some(match file.fault(trusted)? {
        Fault::Owner => format!("chown -h root {path}"),
        Fault::Writable | Fault::Shared => format!("chmod go-w {path}"),
        Fault::Kind => format!("rm {path}, and put a file in its place"),
        Fault::HardLinks => format!("cp -p {path} {path}.new && mv {path}.new {path}"),
    })
}

fn state_dir(directory: &Directory) -> Check {
    const ID: &str = "state-dir";
    let path = directory.path.display();
    match &directory.owned {
        None => Check::ok(ID, format!("the daemon creates `{path}`")),
        Some(MaybeHidden::Hidden(why)) => {
            Check::new(ID, State::Unknown, format!("`{path}` cannot be examined: {why}"))
                .fix("run doctor as root")
        }
        Some(MaybeHidden::Known(owned)) if owned.mode & OTHERS_WRITE != 0 => others_write(
            ID,
            &directory.path,
            owned,
            "the daemon may load its next policy from there",
        ),
        Some(MaybeHidden::Known(_)) => match directory.free {
            Some(free) if free < LOW_DISK_SPACE_BYTES => {
                Check::new(ID, State::Warning, format!("{} KiB are free in `{path}`", free >> 10))
                    .why("the daemon stores the last known good policy there")
                    .fix("free space, or choose another directory with --state-dir")
            }
            _ => Check::ok(ID, format!("`{path}`")),
        },
    }
}

fn run_dir(directory: &Directory) -> Check {
    const ID: &str = "run-dir";
    let path = directory.path.display();
    match &directory.owned {
        None => Check::ok(ID, format!("the daemon creates `{path}`")),
        Some(MaybeHidden::Hidden(why)) => {
            Check::new(ID, State::Unknown, format!("`{path}` cannot be examined: {why}"))
                .fix("run doctor as root")
        }
        Some(MaybeHidden::Known(owned)) if owned.mode & OTHERS_WRITE != 0 => {
            others_write(ID, &directory.path, owned, "another user could impersonate the daemon")
        }
        Some(MaybeHidden::Known(_)) => Check::ok(ID, format!("`{path}`")),
    }
}

fn others_write(id: &'static str, path: &Path, owned: &Ownership, why: &str) -> Check {
    let found = format!(
        "`{}` can be written by other users (mode {:04o})",
        path.display(),
        owned.mode & 0o7777
    );
    Check::new(id, State::Failed, found)
        .why(why)
        .fix(format!("chmod go-w {}", quoted(&path.display().to_string())))
}
