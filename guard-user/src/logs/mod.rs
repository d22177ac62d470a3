//! Log of the daemon: records with fields in the journal if standard error is connected to it,
//! otherwise text on standard error.
//!
//! Logging never blocks the daemon: a record that the journal or the reader does not accept in time
//! is lost. Repeated records are written a few times per minute and then only counted. External text
//! is escaped, and the length of a record is bounded.
//!
//! Levels: `ERROR` means that an operator must act, or the node is not guarded as configured. `WARN`
//! means that an operator may have to act. `INFO` is for regular events. `DEBUG` and `TRACE` are for
//! development: they are not rate limited, and off by default.
//!
//! Decision: `docs/decisions/0045-logging-never-blocks.md`.

mod journal;
mod limits;
mod record;
mod text;

use std::{
    io::{self, IsTerminal as _},
    os::fd::BorrowedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::fstat,
};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use self::{journal::Journal, limits::Limits, record::Record, text::Text};

/// Target of records that consist of several lines, such as findings with their source. The lines are
/// kept, so the code that writes such a record must escape external text.
pub const PAGE: &str = "trainguard::page";

/// Destination of the records.
#[derive(Debug)]
enum Sink {
    Journal(Journal),
    Text(Text),
}

/// The log of this process. A clone refers to the same log.
#[derive(Debug, Clone)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sink: Sink,
    limits: Limits,
    suppressed: AtomicU64,
    lost: AtomicU64,
    /// Lost records that have not been reported in the log yet.
    unreported: AtomicU64,
}

/// Numbers of records that were not written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    /// Records that exceeded the rate limit of their call site.
    pub suppressed: u64,
    /// Records that the journal or the reader of standard error did not accept in time.
    pub lost: u64,
}

impl Log {
    /// Sets up logging for this process. May be called once only.
    ///
    /// # Panics
    /// The process already has a global subscriber.
    pub fn start(filter: EnvFilter) -> Self {
        let (sink, unreachable) = if stderr_is_journal() {
            match Journal::open(Path::new(journal::SOCKET)) {
                Ok(journal) => (Sink::Journal(journal), None),
                Err(error) => (Sink::Text(Text::for_journal()), Some(error)),
            }
        } else {
            (Sink::Text(Text::new(io::stderr().is_terminal())), None)
        };
        let log = Self::to(sink);
        tracing_subscriber::registry().with(filter).with(log.clone()).init();
        if let Some(error) = unreachable {
            tracing::warn!(
                socket = journal::SOCKET,
                "the journal cannot be reached, so records have no fields: {error}"
            );
        }
        log
    }

    fn to(sink: Sink) -> Self {
        Self(Arc::new(Inner {
            sink,
            limits: Limits::default(),
            suppressed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
        }))
    }

    /// Writes a summary of the records that were not written since the last call: one record for each
    /// call site, and one for the lost records. To be called once a minute and at the end.
    pub fn write_summary(&self) {
        for suppressed in self.0.limits.take_suppressed() {
            self.write(&suppressed);
        }
        let unreported = self.0.unreported.swap(0, Ordering::Relaxed);
        if unreported > 0 {
            let message =
                format!("{unreported} log records lost: the reader of the log was too slow");
            self.write(&Record::new(Level::WARN, message));
        }
    }

    /// Returns the numbers of records that were not written since the start.
    pub fn missing(&self) -> Missing {
        Missing {
            suppressed: self.0.suppressed.load(Ordering::Relaxed),
            lost: self.0.lost.load(Ordering::Relaxed),
        }
    }

    fn write(&self, record: &Record) {
        let taken = match &self.0.sink {
            Sink::Journal(journal) => journal.write(record),
            Sink::Text(text) => text.write(record),
        };
        if !taken {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            self.0.unreported.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let limited = *metadata.level() <= Level::INFO;
        let record = Record::of(event);
        if limited && !self.0.limits.admit(metadata.callsite(), &record) {
            self.0.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.write(&record);
    }
}

/// Reports whether standard error is the stream that the service manager has connected to the
/// journal.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr()).is_ok_and(|file| is_stream(&stream, file.st_dev, file.st_ino))
}

/// Reports whether the value of `JOURNAL_STREAM` (systemd.exec(5)) is this file.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    let numbers = stream.split_once(':');
    let parsed = numbers.and_then(|(device, inode)| {
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    parsed == Some((device, inode))
}

/// Bounds the wait for the reader of the records: at most [`SendTimeout::MS`] the first time that the
/// reader has no room, and zero after that until there is room again.
#[derive(Debug, Default)]
struct SendTimeout {
    stuck: AtomicBool,
}

impl SendTimeout {
    /// Timeout in milliseconds.
    const MS: u8 = 50;

    /// Records that there is room again.
    fn reset(&self) {
        self.stuck.store(false, Ordering::Relaxed);
    }

    /// Waits for room, and reports whether there is any.
    fn has_room(&self, file: BorrowedFd<'_>) -> bool {
        let most = if self.stuck.load(Ordering::Relaxed) { 0 } else { Self::MS };
        let mut files = [PollFd::new(file, PollFlags::POLLOUT)];
        // If polling fails, there may be room.
        let stuck = poll(&mut files, PollTimeout::from(most)).is_ok_and(|ready| ready == 0);
        self.stuck.store(stuck, Ordering::Relaxed);
        !stuck
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixDatagram, thread};

    use tracing::subscriber::with_default;

    use super::*;

    #[test]
    fn only_the_same_stream_is_the_journal() {
        assert!(is_stream("8:123", 8, 123));
        for other in ["", "8", "8:", ":123", "8:124", "9:123", "8:123:1", "0x8:123", "8 :123"] {
            assert!(!is_stream(other, 8, 123), "{other}");
        }
    }

    /// Runs `work` with a fake journal, and returns the received records and the numbers of missing
    /// ones.
    fn logged(work: impl FnOnce(&Log)) -> (Vec<String>, Missing) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("a socket");
        let reader = thread::spawn(move || {
            let mut records = Vec::new();
            let mut datagram = vec![0; 1 << 16];
            loop {
                let length = journal.recv(&mut datagram).expect("a datagram");
                match &datagram[..length] {
                    b"END" => return records,
                    b"" => {}
                    record => records.push(String::from_utf8_lossy(record).into_owned()),
                }
            }
        });
        let log = Log::to(Sink::Journal(Journal::open(&path).expect("the journal")));
        with_default(tracing_subscriber::registry().with(log.clone()), || work(&log));
        let end = UnixDatagram::unbound().expect("a socket");
        end.send_to(b"END", &path).expect("the end");
        (reader.join().expect("the records"), log.missing())
    }

    #[test]
    fn repeated_records_are_written_a_few_times_and_then_counted() {
        let (records, missing) = logged(|log| {
            for number in 0..1000 {
                tracing::error!(number, "flapping");
                if number % 500 == 0 {
                    tracing::info!("seldom");
                }
            }
            log.write_summary();
            log.write_summary();
        });
        let of = |what: &str| records.iter().filter(|record| record.contains(what)).count();
        let summaries = records.iter().filter(|record| record.contains("more like"));
        let summaries: Vec<&String> = summaries.collect();
        assert_eq!(of("flapping"), limits::PER_MINUTE as usize + 1, "and one summary");
        assert_eq!(of("seldom"), 2, "each call site has its own limit");
        assert_eq!(missing.suppressed, 1000 - u64::from(limits::PER_MINUTE));
        let suppressed = format!("{} more like this", missing.suppressed);
        assert!(summaries.len() == 1 && summaries[0].contains(&suppressed), "{summaries:?}");
    }

    #[test]
    fn a_journal_that_does_not_read_does_not_block_logging() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let _full = UnixDatagram::bind(&path).expect("a socket");
        let log = Log::to(Sink::Journal(Journal::open(&path).expect("the journal")));
        with_default(tracing_subscriber::registry().with(log.clone()), || {
            for _ in 0..10_000 {
                tracing::debug!("not rate limited, and not read");
            }
        });
        assert!(log.missing().lost > 0);
    }

    #[test]
    fn a_restarted_journal_is_connected_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let first = drop_and_bind(&path);
        let journal = Journal::open(&path).expect("the journal");
        let record = Record::new(Level::INFO, "said".to_owned());
        assert!(journal.write(&record));
        drop(first);
        assert!(!journal.write(&record), "no journal listens");
        let second = drop_and_bind(&path);
        assert!(journal.write(&record));
        let mut datagram = vec![0; 1 << 10];
        while second.recv(&mut datagram).expect("a datagram") == 0 {}
        assert!(datagram.starts_with(b"MESSAGE=said\n"));
    }

    fn drop_and_bind(path: &Path) -> UnixDatagram {
        let _ = std::fs::remove_file(path);
        UnixDatagram::bind(path).expect("a socket")
    }

    #[test]
    fn external_text_is_escaped_and_bounded() {
        let (records, _) = logged(|_| {
            let name = "eth\u{1b}[31m0\nMESSAGE=forged\u{202e}";
            tracing::warn!(interface = name, "renamed from `{name}`");
            tracing::info!(interface = "x".repeat(100_000), "{}", "long ".repeat(100_000));
        });
        let [first, second] = &records[..] else { panic!("{records:?}") };
        for harmful in ["\u{1b}", "\u{202e}", "\nMESSAGE=forged"] {
            assert!(!first.contains(harmful), "{first:?}");
        }
        assert!(first.contains("TRAINGUARD_INTERFACE=eth\\u{1b}[31m0\\nMESSAGE=forged"), "{first}");
        assert!(second.len() < 4096, "{} bytes", second.len());
    }
}
