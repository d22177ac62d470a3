//! The audit log. Each command over the control socket and each reload by signal is recorded with its
//! sender, arguments and result: in the log, among the events, and in a file of the state directory.
//!
//! Decision: `docs/decisions/0036-audit-after-the-action.md`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::peer_credentials::Peer;
use crate::api::events::{Audit, AuditResult, Event};

/// Name of the file.
const NAME: &str = "audit.jsonl";
/// Name of a full file. The previous file of that name is replaced.
const ROTATED_NAME: &str = "audit.jsonl.1";
/// Maximum size of the file in bytes, approximately.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Maximum number of denied requests that are recorded per minute, so that they cannot push other
/// records out of the file.
const MAX_REFUSED_PER_MINUTE: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);

/// The audit log in the state directory.
#[derive(Debug)]
pub(crate) struct AuditLog {
    directory: PathBuf,
    full: u64,
    /// Why the last record was not written; none if it was.
    pub(crate) problem: Option<String>,
    /// When the count of denied requests last started from zero, and the count since then.
    refused: Option<(Instant, u32)>,
}

impl AuditLog {
    /// Names the state directory. Nothing is created before the first record.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), full: MAX_FILE_BYTES, problem: None, refused: None }
    }

    /// Writes a record to the disk. A failure is only recorded as a problem, because a full disk must
    /// not keep an operator from undoing a change.
    pub(crate) fn write(&mut self, event: &Event) {
        let written = self.append(event);
        self.problem = written.err().map(|error| {
            let path = self.directory.join(NAME);
            format!("audit record not written to `{}`: {error}", path.display())
        });
        if let Some(problem) = &self.problem {
            tracing::error!("{problem}");
        }
    }

    fn append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let path = self.directory.join(NAME);
        let mut file = match Self::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
                Self::open(&path)?
            }
            opened => opened?,
        };
        let mut length = file.metadata()?.len();
        if length > 0 && length.saturating_add(line.len() as u64) > self.full {
            fs::rename(&path, self.directory.join(ROTATED_NAME))?;
            file = Self::open(&path)?;
            length = 0;
        }
        if length > 0 {
            // A line that a full disk or a power cut left incomplete must not spoil this one.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                line.insert(0, b'\n');
            }
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    fn open(path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
    }

    /// Returns the reason to record for a request without permission; none if there were too many of
    /// them within the last minute.
    pub(crate) fn refusal(&mut self) -> Option<String> {
        let (takes, missing) = self.takes_denied(Instant::now());
        let why = "the sender is neither root nor the daemon's user nor in the group of the \
                   socket; check the group and the mode of the socket";
        takes.then(|| {
            if missing == 0 {
                return why.to_owned();
            }
            format!("{why} ({missing} earlier requests of this kind were not recorded)")
        })
    }

    /// Returns whether another denied request should be recorded. If a new minute begins, also returns
    /// how many were not recorded in the last one.
    fn takes_denied(&mut self, now: Instant) -> (bool, u32) {
        match &mut self.refused {
            Some((since, count)) if now.duration_since(*since) < MINUTE => {
                *count += 1;
                (*count <= MAX_REFUSED_PER_MINUTE, 0)
            }
            refused => {
                let before = refused.replace((now, 1));
                (true, before.map_or(0, |(_, count)| count.saturating_sub(MAX_REFUSED_PER_MINUTE)))
            }
        }
    }
}

/// Name and arguments of a command, for the record.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) arguments: String,
}

/// The policy in force before or after a command.
#[derive(Debug, Default)]
pub(crate) struct PolicyId {
    /// SHA-256 of the policy in force, in hexadecimal; empty if no policy is in force.
    pub(crate) hash: String,
    /// Number of the generation; 0 if no policy is in force.
    pub(crate) generation: u64,
}

/// Creates the record of a command and logs it. `peer`: none for a signal, because the kernel does not
/// report its sender. `why`: why it was refused; none if it was carried out.
pub(crate) fn record(
    peer: Option<&Peer>,
    command: Command,
    before: PolicyId,
    after: PolicyId,
    why: Option<String>,
) -> Audit {
    let Command { name, arguments } = command;
    let audit = Audit {
        request: name.to_owned(),
        arguments,
        result: if why.is_none() { AuditResult::Done } else { AuditResult::Refused },
        text: why.unwrap_or_default(),
        uid: peer.map(|peer| peer.uid),
        user: peer.and_then(|peer| peer.user.clone()),
        gid: peer.map(|peer| peer.gid),
        pid: peer.and_then(|peer| peer.pid),
        command: peer.and_then(|peer| peer.command.clone()),
        login_uid: peer.and_then(|peer| peer.login_uid),
        login: peer.and_then(|peer| peer.login.clone()),
        old_policy: before.hash,
        new_policy: after.hash,
        generation: after.generation,
    };
    tracing::info!(
        uid = audit.uid,
        user = audit.user,
        gid = audit.gid,
        pid = audit.pid,
        command = audit.command,
        login_uid = audit.login_uid,
        login = audit.login,
        arguments = audit.arguments,
        old_policy = audit.old_policy,
        new_policy = audit.new_policy,
        "{} {}: {}",
        audit.result.name(),
        audit.request,
        audit.text
    );
    audit
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Audit files are read years later, so records of earlier versions must stay readable.
    #[test]
    fn records_of_earlier_versions_are_read() {
        let data =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline/data/state").join(NAME);
        let text = fs::read(data).expect("records");
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let requests = lines.map(|line| match events::read(line) {
            Ok(events::Line::Event(event)) => match event.what {
                EventKind::Audit(audit) => audit.request,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        });
        assert_eq!(requests.collect::<Vec<_>>(), ["mode", "reload", "mode", "apply"]);
    }
    use crate::api::events::{self, EventKind};

    fn event(number: u64) -> Event {
        let audit = Audit { text: format!("\u{1b}[2J {number}\nx"), ..Audit::default() };
        Event {
            schema: events::SCHEMA.to_owned(),
            time: None,
            seq: Some(number),
            node: None,
            what: EventKind::Audit(Box::new(audit)),
        }
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap_or_default();
        assert!(!text.contains('\u{1b}'), "escaped");
        let read = |line: &str| match events::read(line.as_bytes()) {
            Ok(events::Line::Event(event)) => event.seq,
            _ => None,
        };
        text.lines().filter_map(read).collect()
    }

    #[test]
    fn the_audit_file_is_private_bounded_and_of_complete_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let mut log = AuditLog::at(&state);
        log.write(&event(0));
        let path = state.join(NAME);
        let mode = fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let line = fs::metadata(&path).expect("the file").len();
        log.full = 3 * line;
        for number in 1..8 {
            log.write(&event(number));
        }
        assert_eq!(log.problem, None);
        assert_eq!(
            (numbers(&state.join(ROTATED_NAME)), numbers(&path)),
            (vec![3, 4, 5], vec![6, 7])
        );
        // An incomplete line spoils only itself.
        fs::write(&path, "{\"schema\":").expect("writing");
        log.write(&event(9));
        assert_eq!(numbers(&path), [9]);
    }

    /// Case 111.
    #[test]
    fn a_record_that_cannot_be_written_is_a_problem_until_one_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = AuditLog::at(dir.path());
        for obstacle in ["link", "pipe", "directory"] {
            let path = dir.path().join(NAME);
            match obstacle {
                "link" => std::os::unix::fs::symlink("elsewhere", &path).expect("a link"),
                "pipe" => {
                    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
                }
                _ => fs::create_dir(&path).expect("a directory"),
            }
            log.write(&event(1));
            assert!(log.problem.is_some(), "{obstacle}");
            assert!(!dir.path().join("elsewhere").exists());
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).expect("removing");
        }
        log.write(&event(1));
        assert_eq!(log.problem, None);
        let mut full = AuditLog::at(Path::new("/dev/full/state"));
        full.write(&event(1));
        assert!(full.problem.is_some_and(|problem| problem.contains("/dev/full/state")));
    }

    #[test]
    fn denied_requests_cannot_fill_the_audit_file() {
        let mut log = AuditLog::at(Path::new("/nonexistent"));
        let now = Instant::now();
        let taken = (0..100).filter(|_| log.takes_denied(now).0).count();
        assert_eq!(taken, 20);
        assert_eq!(log.takes_denied(now + MINUTE), (true, 80));
        assert_eq!(log.takes_denied(now + MINUTE), (true, 0));
    }
}
