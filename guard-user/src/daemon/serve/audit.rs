//! Who did what: each command that came over the control socket, with who sent it, what was asked
//! and what came of it, in the log, among the events, and in a file of the state directory.

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
/// What it becomes when it is full; the one before goes.
const ROTATED_NAME: &str = "audit.jsonl.1";
/// Bytes of the file, about.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// How many attempts of those who may not are written down in a minute: they must not be able to
/// drive out what is in the file.
const MAX_REFUSED_PER_MINUTE: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);

/// The file.
#[derive(Debug)]
pub(crate) struct AuditLog {
    directory: PathBuf,
    full: u64,
    /// Why the last record was not written.
    pub(crate) problem: Option<String>,
    /// When attempts were last counted from zero, and how many there were since.
    refused: Option<(Instant, u32)>,
}

impl AuditLog {
    /// In a state directory.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), full: MAX_FILE_BYTES, problem: None, refused: None }
    }

    /// Writes a record, and makes it last. That it cannot is kept as a problem, no more: a full
    /// disk keeps nobody from undoing what they did.
    pub(crate) fn write(&mut self, event: &Event) {
        let written = self.append(event);
        self.problem = written.err().map(|error| {
            let path = self.directory.join(NAME);
            format!("what was commanded is not written to `{}`: {error}", path.display())
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
            // What a full disk or a power cut left of a line is not to spoil this one.
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

    /// The reason to record for an attempt by somebody who may not; none if there were too many of them
    /// lately.
    pub(crate) fn refusal(&mut self) -> Option<String> {
        let (takes, missing) = self.takes_refused(Instant::now());
        let why = "not root, not the user of the daemon, not in the group of the socket; see who may \
                   write to it";
        takes.then(|| {
            if missing == 0 {
                return why.to_owned();
            }
            format!("{why} ({missing} such attempts before are not written down)")
        })
    }

    /// Whether another attempt of somebody who may not is to be written down; and how many were
    /// not, if counting begins anew.
    fn takes_refused(&mut self, now: Instant) -> (bool, u32) {
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

/// What somebody asks for, in words.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) arguments: String,
}

/// The policy in force before or after a command.
#[derive(Debug, Default)]
pub(crate) struct PolicyId {
    /// SHA-256 of what is enforced, in hexadecimal; empty if nothing is.
    pub(crate) hash: String,
    /// Number of the generation.
    pub(crate) generation: u64,
}

/// Makes the record of a command, and logs it. `peer`: none for a signal, whose sender the kernel does
/// not tell. `why`: why it was refused.
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

    /// What is in the file is read by whoever looks into what was done, years later.
    #[test]
    fn records_of_before_are_read() {
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
    fn a_trail_is_private_whole_lines_and_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let mut trail = AuditLog::at(&state);
        trail.write(&event(0));
        let path = state.join(NAME);
        let mode = fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let line = fs::metadata(&path).expect("the file").len();
        trail.full = 3 * line;
        for number in 1..8 {
            trail.write(&event(number));
        }
        assert_eq!(trail.problem, None);
        assert_eq!(
            (numbers(&state.join(ROTATED_NAME)), numbers(&path)),
            (vec![3, 4, 5], vec![6, 7])
        );
        // A line that was cut spoils itself alone.
        fs::write(&path, "{\"schema\":").expect("writing");
        trail.write(&event(9));
        assert_eq!(numbers(&path), [9]);
    }

    /// Case 111.
    #[test]
    fn what_cannot_be_written_is_a_problem_until_it_can() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut trail = AuditLog::at(dir.path());
        for in_the_way in ["link", "pipe", "directory"] {
            let path = dir.path().join(NAME);
            match in_the_way {
                "link" => std::os::unix::fs::symlink("elsewhere", &path).expect("a link"),
                "pipe" => {
                    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
                }
                _ => fs::create_dir(&path).expect("a directory"),
            }
            trail.write(&event(1));
            assert!(trail.problem.is_some(), "{in_the_way}");
            assert!(!dir.path().join("elsewhere").exists());
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).expect("removing");
        }
        trail.write(&event(1));
        assert_eq!(trail.problem, None);
        let mut full = AuditLog::at(Path::new("/dev/full/state"));
        full.write(&event(1));
        assert!(full.problem.is_some_and(|problem| problem.contains("/dev/full/state")));
    }

    #[test]
    fn who_may_not_cannot_fill_the_trail() {
        let mut trail = AuditLog::at(Path::new("/nonexistent"));
        let now = Instant::now();
        let taken = (0..100).filter(|_| trail.takes_refused(now).0).count();
        assert_eq!(taken, 20);
        assert_eq!(trail.takes_refused(now + MINUTE), (true, 80));
        assert_eq!(trail.takes_refused(now + MINUTE), (true, 0));
    }
}
