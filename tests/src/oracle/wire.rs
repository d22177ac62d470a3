//! The sender's end of the cable: complete frames out, answers in.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, bind, send, setsockopt, socket,
        sockopt::RcvBufForce,
    },
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Ends, FREE_PORT, MEMBER, NEW_PORT, NODE, PORT,
    bytes::flag::{ACK, SYN},
    generate,
};
use crate::node::{Node, WAIT_TIMEOUT};

/// Size in bytes of a socket's receive buffer: more than a batch of cases needs.
pub(super) const RECEIVE_BUFFER: usize = 64 << 20;
/// Time after which a marker is sent again. The cable may lose it.
const AGAIN: Duration = Duration::from_millis(300);
/// Source ports of markers; segments of cases come from higher ones.
const MARKER_PORTS: u16 = 9_000;

/// A TCP segment from a port of the node to a port of the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Source port.
    pub from: u16,
    /// Destination port.
    pub to: u16,
    /// Flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
}

impl Answer {
    /// Reports whether the segment accepts a connection.
    pub fn opens(self) -> bool {
        self.flags & (SYN | ACK) == SYN | ACK
    }

    /// Parses a frame without VLAN tags or extension headers, as the node sends them.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let at = match (frame.get(12..14)?, frame.get(14..)?) {
            ([0x08, 0x00], ip) if *ip.get(9)? == 6 => 14 + usize::from(ip[0] & 15) * 4,
            ([0x86, 0xdd], ip) if *ip.get(6)? == 6 => 14 + 40,
            _ => return None,
        };
        let tcp: &[u8; 14] = frame.get(at..)?.first_chunk()?;
        let [a, b, c, d, sequence @ .., _, _, _, _, _, flags] = *tcp;
        Some(Self {
            from: u16::from_be_bytes([a, b]),
            to: u16::from_be_bytes([c, d]),
            flags,
            sequence: u32::from_be_bytes(sequence),
        })
    }
}

/// The sender's sockets.
#[derive(Debug)]
pub struct Wire {
    sender: OwnedFd,
    receivers: [Socket; 2],
    markers: u16,
    buffer: Vec<u8>,
}

impl Wire {
    /// Opens the sockets in the peer's namespace.
    pub fn new(node: &Node) -> Self {
        node.at_peer(|| Self {
            sender: sender().expect("a packet socket"),
            // By protocol: a socket for all protocols would receive its own frames, too.
            receivers: [0x0800_u16, 0x86dd].map(|ethertype| {
                let protocol = Protocol::from(i32::from(ethertype.to_be()));
                let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol));
                let socket = socket.expect("a packet socket");
                socket.set_nonblocking(true).expect("a flag");
                setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).expect("a large buffer");
                socket
            }),
            markers: 0,
            buffer: vec![0; 1 << 16],
        })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while let Err(error) = send(self.sender.as_raw_fd(), frame, MsgFlags::empty()) {
            let error = io::Error::from(error);
            let is_full = error.raw_os_error() == Some(libc::ENOBUFS);
            assert!(is_full && Instant::now() < deadline, "sending {} bytes: {error}", frame.len());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a SYN to the port without a socket and waits for its reset. Frames are processed in order,
    /// so all earlier ones have been processed then. Adds the answers to earlier frames to `answers`.
    pub fn settle(&mut self, answers: &mut Answers) {
        self.markers = self.markers % MARKER_PORTS + 1;
        let ends = Ends { from: MEMBER[0], to: NODE[0] };
        let marker = generate::syn(0, &ends, self.markers, FREE_PORT);
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            self.send(&marker);
            let again = Instant::now() + AGAIN;
            while Instant::now() < again {
                if self.receive(answers) {
                    return;
                }
                let mut ready = [PollFd::new(self.receivers[0].as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut ready, PollTimeout::from(10_u8));
            }
            assert!(Instant::now() < deadline, "the node does not answer");
        }
    }

    /// Reads all answers. Returns whether that to the last marker is one of them.
    fn receive(&mut self, answers: &mut Answers) -> bool {
        let mut settled = false;
        for socket in &self.receivers {
            let mut socket: &Socket = socket;
            loop {
                match socket.read(&mut self.buffer) {
                    Ok(len) => match Answer::parse(&self.buffer[..len]) {
                        Some(Answer { from: FREE_PORT, to, .. }) => settled |= to == self.markers,
                        Some(answer) => answers.add(answer),
                        None => {}
                    },
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("receiving: {error}"),
                }
            }
        }
        settled
    }
}

/// Answers of the guarded ports by destination port: the one that opens a connection, or else the last.
#[derive(Debug, Default)]
pub struct Answers(HashMap<u16, Answer>);

impl Answers {
    fn add(&mut self, answer: Answer) {
        if ![PORT, NEW_PORT].contains(&answer.from) {
            return;
        }
        let known = self.0.entry(answer.to).or_insert(answer);
        if !known.opens() {
            *known = answer;
        }
    }

    /// Returns the answer to a source port.
    pub fn to(&self, port: u16) -> Option<Answer> {
        self.0.get(&port).copied()
    }
}

fn sender() -> nix::Result<OwnedFd> {
    let device = getifaddrs()?
        .filter(|entry| entry.interface_name == "eth0")
        .find_map(|entry| entry.address?.as_link_addr().copied());
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
    bind(fd.as_raw_fd(), &device.expect("the device"))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_from_a_frame() {
        for family in 0..2 {
            let ends = Ends { from: NODE[family], to: MEMBER[family] };
            let frame = generate::syn(7, &ends, PORT, 12_345);
            let answer = Answer { from: PORT, to: 12_345, flags: SYN, sequence: 7 };
            assert_eq!(Answer::parse(&frame), Some(answer));
            assert_eq!(Answer::parse(&frame[..50]).is_some(), family == 0);
            assert_eq!(Answer::parse(&frame[..20]), None);
        }
    }

    #[test]
    fn an_answer_that_opens_a_connection_is_kept() {
        let mut answers = Answers::default();
        let answer = |from, flags| Answer { from, to: 1, flags, sequence: 0 };
        answers.add(answer(22, SYN | ACK));
        assert_eq!(answers.to(1), None, "another port");
        for flags in [4, SYN | ACK, 4] {
            answers.add(answer(PORT, flags));
        }
        assert!(answers.to(1).is_some_and(Answer::opens));
    }
}
