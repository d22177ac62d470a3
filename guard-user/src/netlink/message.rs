//! Raw netlink messages: dumps, notifications and attributes.
//!
//! The tasks of `rtnetlink` queue notifications without a limit. The callers of this module must stay
//! bounded in memory and must learn of lost notifications, so they read the sockets themselves.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};
use rtnetlink::{
    packet_core::{
        NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN,
        NetlinkBuffer, NlaBuffer, NlasIterator,
    },
    sys::{Socket, SocketAddr},
};

use super::sock_diag::decode_error;

/// Timeout for each part of an answer, in milliseconds.
const ANSWER_TIMEOUT_MS: i64 = 1000;
/// Maximum time for all parts of an answer.
const DUMP_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of attempts to get a dump during which nothing changed.
const ATTEMPTS: usize = 3;
/// Size of the receive buffer of a dump in bytes: the maximum size of a part (`netlink_dump`,
/// `net/netlink/af_netlink.c`).
const PART_BYTES: usize = 32 * 1024;
/// Size of the receive buffer of notifications in bytes. A longer one counts as lost.
const NOTIFICATION_BYTES: usize = 64 * 1024;
/// Size of the queue of a socket for notifications in bytes. A transaction that replaces ten thousand
/// rules of `nf_tables` fits.
const QUEUE_BYTES: usize = 8 << 20;
/// Maximum number of datagrams that are taken out of a queue at once.
const MAX_DATAGRAMS: usize = 4096;

/// A request for a dump.
pub(super) struct Query<'q> {
    /// The netlink protocol.
    pub(super) protocol: isize,
    /// Type of the request.
    pub(super) kind: u16,
    /// Header of the protocol, and attributes.
    pub(super) payload: &'q [u8],
    /// Whether the kernel must apply the fields of the header as filters
    /// (`NETLINK_GET_STRICT_CHK`).
    pub(super) is_filtered: bool,
}

/// The answer to a [`Query`].
#[derive(Debug)]
pub(super) struct Listed<T> {
    /// The parsed messages.
    pub(super) items: Vec<T>,
    /// Whether nothing changed while the kernel listed them. Otherwise an item may be missing.
    pub(super) is_consistent: bool,
}

impl Query<'_> {
    /// Requests a dump and parses its messages, given as type and payload. Repeats the request if
    /// something changed meanwhile. `parse` returns none for a message to leave out.
    pub(super) fn list<T>(
        &self,
        mut parse: impl FnMut(u16, &[u8]) -> io::Result<Option<T>>,
    ) -> io::Result<Listed<T>> {
        let mut listed = Listed { items: Vec::new(), is_consistent: false };
        for _ in 0..ATTEMPTS {
            listed.items.clear();
            listed.is_consistent = self.dump(|kind, payload| {
                listed.items.extend(parse(kind, payload)?);
                Ok(())
            })?;
            if listed.is_consistent {
                break;
            }
        }
        Ok(listed)
    }

    /// Requests a dump, and passes type and payload of each message to `each`. Returns whether nothing
    /// changed meanwhile.
    fn dump(&self, mut each: impl FnMut(u16, &[u8]) -> io::Result<()>) -> io::Result<bool> {
        // A socket for each dump: after a failure, the rest of the answer is still in its queue.
        let mut socket = Socket::new(self.protocol)?;
        socket.bind_auto()?;
        let timeout = TimeVal::milliseconds(ANSWER_TIMEOUT_MS);
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &timeout)?;
        if self.is_filtered {
            socket.set_netlink_get_strict_chk(true)?;
        }
        socket.send_to(&self.request()?, &SocketAddr::new(0, 0), 0)?;
        let deadline = Instant::now() + DUMP_TIMEOUT;
        let mut is_consistent = true;
        let mut part = Vec::with_capacity(PART_BYTES);
        loop {
            part.clear();
            if socket.recv(&mut part, libc::MSG_TRUNC)? > part.len() {
                return Err(invalid("a part of an answer is too long"));
            }
            for message in Messages(&part) {
                let message = message?;
                is_consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => {
                        // The kernel reports errors of a dump here, too.
                        let error = decode_error(message.payload);
                        let is_error = error.raw_os_error().is_some_and(|errno| errno > 0);
                        return if is_error { Err(error) } else { Ok(is_consistent) };
                    }
                    NLMSG_ERROR => return Err(decode_error(message.payload)),
                    kind => each(kind, message.payload)?,
                }
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn request(&self) -> io::Result<Vec<u8>> {
        let length = u32::try_from(16 + self.payload.len()).map_err(io::Error::other)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(self.kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        // Sequence number and port id, which may be 0.
        request.extend([0; 8]);
        request.extend(self.payload);
        Ok(request)
    }
}

/// The result of reading a queue of notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The queue is empty.
    All,
    /// Notifications are left in the queue.
    More,
    /// The kernel dropped notifications, because the queue was full.
    Lost,
}

/// A socket that receives the notifications of some multicast groups.
pub struct Notifications {
    socket: Socket,
    datagram: Vec<u8>,
}

impl std::fmt::Debug for Notifications {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifications").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Notifications {
    /// Joins multicast groups of a protocol.
    pub(super) fn join(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        // Without CAP_NET_ADMIN in the first user namespace, the queue is limited by
        // `net.core.rmem_max`.
        if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
            setsockopt(&socket.as_fd(), sockopt::RcvBuf, &QUEUE_BYTES)?;
        }
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { socket, datagram: Vec::with_capacity(NOTIFICATION_BYTES) })
    }

    /// Takes notifications out of the queue without waiting, and passes type and payload of each to
    /// `each`.
    ///
    /// # Errors
    /// The socket cannot be read, or the kernel sent a malformed message.
    pub fn drain(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<Drained> {
        let mut drained = Drained::All;
        for _ in 0..MAX_DATAGRAMS {
            self.datagram.clear();
            match self.socket.recv_from(&mut self.datagram, libc::MSG_TRUNC) {
                // Only the kernel sends from port 0.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) => {
                    if length > self.datagram.len() {
                        drained = Drained::Lost;
                    }
                    for message in Messages(&self.datagram) {
                        match message {
                            Ok(Message { kind: NLMSG_OVERRUN, .. }) => drained = Drained::Lost,
                            Ok(message) => each(message.kind, message.payload),
                            Err(_) if drained == Drained::Lost => break,
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    drained = Drained::Lost;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(drained),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(if drained == Drained::All { Drained::More } else { drained })
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One netlink message.
#[derive(Debug, Clone, Copy)]
struct Message<'m> {
    kind: u16,
    flags: u16,
    payload: &'m [u8],
}

/// The messages of a datagram. Ends after a malformed one.
struct Messages<'m>(&'m [u8]);

impl<'m> Iterator for Messages<'m> {
    type Item = io::Result<Message<'m>>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.0);
        if rest.is_empty() {
            return None;
        }
        let buffer = match NetlinkBuffer::new_checked(rest) {
            Ok(buffer) => buffer,
            Err(error) => return Some(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
        };
        let length = buffer.length() as usize;
        let (kind, flags) = (buffer.message_type(), buffer.flags());
        let Some(payload) = rest.get(16..length) else {
            return Some(Err(invalid("a message is shorter than its header")));
        };
        // Messages are aligned to four bytes.
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message { kind, flags, payload }))
    }
}

/// Received attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Returns the attributes after a header of this length in a payload; none if the payload is
    /// shorter.
    pub(super) fn after(header: usize, payload: &'a [u8]) -> io::Result<Self> {
        payload.get(header..).map(Self).ok_or_else(|| invalid("a message is too short"))
    }

    /// Returns types and values. A malformed attribute is an error, and the last item.
    pub(super) fn all(self) -> impl Iterator<Item = io::Result<(u16, &'a [u8])>> {
        NlasIterator::new(self.0).map(|attribute| {
            let attribute: NlaBuffer<&'a [u8]> = attribute
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
            // The value follows length and type.
            let value = attribute.into_inner().get(4..length);
            Ok((kind, value.ok_or_else(|| invalid("an attribute is too short"))?))
        })
    }

    /// Returns the first value of a type; none if there is none before a malformed attribute.
    pub(super) fn value(self, wanted: u16) -> Option<&'a [u8]> {
        self.all().map_while(Result::ok).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// Returns the bytes of a number in a value.
    pub(super) fn number<const N: usize>(self, kind: u16) -> Option<[u8; N]> {
        self.value(kind)?.try_into().ok()
    }

    /// Returns the text of a value, without the zero at its end.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        self.value(kind).map(text)
    }

    /// Returns the attributes nested in an attribute; an empty list if it is missing.
    pub(super) fn inside(self, kind: u16) -> Self {
        Self(self.value(kind).unwrap_or_default())
    }
}

/// Returns the text of a value, without the zero at its end.
pub(super) fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Encodes an attribute, padded to four bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Returns an error about a malformed message.
pub(super) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Parses a recorded datagram, for tests.
#[cfg(test)]
pub(super) fn recorded<T>(
    datagrams: &[u8],
    mut parse: impl FnMut(u16, &[u8]) -> io::Result<Option<T>>,
) -> io::Result<Vec<T>> {
    let mut items = Vec::new();
    for message in Messages(datagrams) {
        let message = message?;
        if message.kind != NLMSG_DONE {
            items.extend(parse(message.kind, message.payload)?);
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let query = Query { protocol: 0, kind, payload, is_filtered: false };
        query.request().expect("a request")
    }

    #[test]
    fn messages_and_attributes_are_taken_apart() {
        let payload = [attribute(1, b"abc\0"), attribute(2, &7_u32.to_ne_bytes())].concat();
        let datagram = [message(16, &payload), message(17, &[])].concat();
        let found: Vec<_> = Messages(&datagram).map(|message| message.expect("whole")).collect();
        assert_eq!(found.iter().map(|message| message.kind).collect::<Vec<_>>(), [16, 17]);
        let attributes = Attributes::after(0, found[0].payload).expect("attributes");
        assert_eq!(attributes.text(1).as_deref(), Some("abc"));
        assert_eq!(attributes.number(2).map(u32::from_ne_bytes), Some(7));
        assert_eq!(attributes.number::<8>(2), None);
        assert!(attributes.inside(3).value(1).is_none());
        assert!(Attributes::after(99, found[0].payload).is_err());
    }

    /// Every prefix of a datagram, and every single changed byte, gives items or an error.
    #[test]
    fn malformed_messages_are_errors_and_end_the_list() {
        let datagram = message(16, &[attribute(1, b"abc"), attribute(2, &[0; 8])].concat());
        let walk = |bytes: &[u8]| {
            let mut count = 0;
            for message in Messages(bytes).map_while(Result::ok) {
                count += 1 + Attributes(message.payload).all().count();
            }
            assert!(count <= bytes.len(), "the list ends");
        };
        for length in 0..datagram.len() {
            walk(&datagram[..length]);
        }
        for at in 0..datagram.len() {
            for value in 0..=u8::MAX {
                let mut changed = datagram.clone();
                changed[at] = value;
                walk(&changed);
            }
        }
        assert!(Messages(&datagram[..datagram.len() - 1]).any(|message| message.is_err()));
    }
}
