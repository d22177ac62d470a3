//! The native protocol of the journal (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): a datagram of
//! fields for each record.
//!
//! This module replaces `tracing-journald`, which blocks if the journal does not read, and sends
//! values unescaped and at any length. A log record must never block the guard.

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing::Level;

use super::{SendTimeout, record::Record};

/// Path of the journal's socket.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Value of `SYSLOG_IDENTIFIER`: `journalctl -t trainguard` shows the records.
const IDENTIFIER: &str = "trainguard";

/// A connection to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    /// A connected socket: only its state shows whether the receive queue of the journal has room.
    socket: Mutex<UnixDatagram>,
    path: PathBuf,
    timeout: SendTimeout,
}

impl Journal {
    /// Opens a connection. Fails if no process listens at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            socket: Mutex::new(connect(path)?),
            path: path.to_owned(),
            timeout: SendTimeout::default(),
        })
    }

    /// Sends a record. Returns false if the journal does not accept it in time.
    pub(super) fn write(&self, record: &Record) -> bool {
        let datagram = datagram(record);
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = socket.send(&datagram);
        match &sent {
            Ok(_) => self.timeout.reset(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.timeout.has_room(socket.as_fd()) {
                    sent = socket.send(&datagram);
                }
            }
            // A restarted journal has a new socket at the path.
            Err(_) => {
                if let Ok(restarted) = connect(&self.path) {
                    *socket = restarted;
                    sent = socket.send(&datagram);
                }
            }
        }
        sent.is_ok()
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

fn datagram(record: &Record) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(1024);
    put(&mut datagram, "MESSAGE", &record.text());
    put(&mut datagram, "PRIORITY", priority(record.level));
    put(&mut datagram, "SYSLOG_IDENTIFIER", IDENTIFIER);
    if let Some((file, line)) = record.place {
        put(&mut datagram, "CODE_FILE", file);
        put(&mut datagram, "CODE_LINE", &line.to_string());
    }
    if let Some(hint) = &record.hint {
        put(&mut datagram, "TRAINGUARD_HINT", hint);
    }
    for (name, value) in &record.fields {
        put(&mut datagram, &field_name(name), value);
    }
    datagram
}

/// Returns the syslog(3) priority of a level.
pub(super) fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// Returns the name of a journal field: capital letters, digits and underscores.
fn field_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("TRAINGUARD_{}", name.chars().map(allowed).collect::<String>())
}

fn put(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        // A value with several lines is preceded by its length, so that none of its lines is read as
        // a field.
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        datagram.push(b'\n');
        datagram.extend_from_slice(&length.to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_datagram_of_fields() {
        let mut record = Record::new(Level::ERROR, "not guarded".to_owned());
        record.fields = vec![("interface", "eth0".to_owned()), ("top.source", "a b".to_owned())];
        record.place = Some(("a.rs", 7));
        let expected = "MESSAGE=not guarded interface=eth0 top.source=\"a b\"\nPRIORITY=3\n\
                        SYSLOG_IDENTIFIER=trainguard\nCODE_FILE=a.rs\nCODE_LINE=7\n\
                        TRAINGUARD_INTERFACE=eth0\nTRAINGUARD_TOP_SOURCE=a b\n";
        assert_eq!(String::from_utf8_lossy(&datagram(&record)), expected);
    }

    #[test]
    fn a_line_of_a_message_is_not_a_field() {
        let mut record = Record::new(Level::INFO, "one\nPRIORITY=0".to_owned());
        record.hint = Some("two".to_owned());
        let datagram = datagram(&record);
        let message = b"one\nPRIORITY=0\nhint: two";
        let mut begin = b"MESSAGE\n".to_vec();
        begin.extend_from_slice(&(message.len() as u64).to_le_bytes());
        begin.extend_from_slice(message);
        assert!(datagram.starts_with(&begin));
    }

    #[test]
    fn opening_fails_without_a_journal() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Journal::open(&dir.path().join("socket")).is_err());
    }
}
