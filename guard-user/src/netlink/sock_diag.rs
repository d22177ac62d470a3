//! Sockets of this network namespace that accept packets of any source: listening TCP and SCTP
//! sockets, and bound UDP sockets that are not connected to a peer.
//!
//! The kernel's `sock_diag` interface filters by state, so 50,000 open connections cost nothing. The
//! tables in `/proc/net` would have to be read completely.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::Path,
};

use guard_common::port_table::Transport;
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};
use rtnetlink::{
    packet_core::{
        NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
        NetlinkMessage, NetlinkPayload, Parseable as _,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG},
};

use crate::system_error::SystemError;

/// Maximum number of sockets that are read, for each transport and address family. [`listening`] ends
/// at the first one that has more sockets, and reports that sockets are missing.
pub(super) const MAX_SOCKETS: usize = 65_536;
/// Size of the receive buffer in bytes. The kernel fills the buffer that it is given, up to 32 KiB
/// (`netlink_dump`, `net/netlink/af_netlink.c`).
const BUFFER_BYTES: usize = 32 * 1024;
/// Timeout for each part of an answer, in milliseconds.
const ANSWER_TIMEOUT_MS: i64 = 500;
/// Maximum number of file descriptors that are read to find the processes of sockets.
const MAX_DESCRIPTORS: usize = 200_000;

/// A socket that accepts packets of any source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Transport of the socket; UDP-Lite counts as UDP.
    pub transport: Transport,
    /// Address that the socket is bound to; the unspecified address if it is bound to all.
    pub address: IpAddr,
    /// Port of the socket, never 0.
    pub port: u16,
    /// Index of the interface that the socket is bound to; 0 if none.
    pub ifindex: u32,
    /// User id of the owner.
    pub uid: u32,
    /// Inode of the socket, unique across namespaces; 0 for a socket of the kernel.
    pub inode: u32,
}

/// Passes the sockets of the network namespace of this thread to `each`, in no particular order.
/// Returns whether sockets are missing, because a transport has more than `MAX_SOCKETS` in one address
/// family. Requires no permissions.
///
/// # Errors
/// The kernel does not answer, or has no support for listing TCP or UDP sockets (`CONFIG_INET_DIAG`,
/// `CONFIG_INET_UDP_DIAG`).
pub fn listening(each: impl FnMut(Listening)) -> Result<bool, SystemError> {
    listening_at_most(MAX_SOCKETS, each)
}

/// The same with another limit for each transport and family.
fn listening_at_most(limit: usize, mut each: impl FnMut(Listening)) -> Result<bool, SystemError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => SystemError::new(
            "not available: the kernel lists listening sockets only with its modules tcp_diag and \
             udp_diag (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG); load them with \
             `modprobe -a tcp_diag udp_diag`",
        ),
        _ => SystemError::of("listing the listening sockets", error),
    };
    let mut are_missing = false;
    for (protocol, transport, states) in [
        (libc::IPPROTO_TCP, Transport::Tcp, StateFlags::LISTEN),
        (libc::IPPROTO_UDP, Transport::Udp, StateFlags::CLOSE),
        (libc::IPPROTO_UDPLITE, Transport::Udp, StateFlags::CLOSE),
        (libc::IPPROTO_SCTP, Transport::Sctp, StateFlags::LISTEN),
    ] {
        // A kernel that cannot list these has no such sockets.
        let optional = !matches!(protocol, libc::IPPROTO_TCP | libc::IPPROTO_UDP);
        let mut of_transport = |header: &InetResponseHeader| {
            let SocketId { source_port: port, source_address, interface_id, .. } = header.socket_id;
            if port != 0 {
                each(Listening {
                    transport,
                    address: source_address.to_canonical(),
                    port,
                    ifindex: interface_id,
                    uid: header.uid,
                    inode: header.inode,
                });
            }
        };
        for family in [AF_INET, AF_INET6] {
            let protocol = u8::try_from(protocol).unwrap_or_default();
            // A socket for each dump: after an incomplete one, the rest of its answer is still in the
            // receive queue. A user with many sockets of one kind must not hide those of others.
            let socket = open().map_err(failed)?;
            match dump(&socket, family, protocol, states.clone(), limit, &mut of_transport) {
                Ok(Completeness::Yes) => {}
                Ok(Completeness::No) => are_missing = true,
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOENT)
                        && (optional || family == AF_INET6) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(are_missing)
}

/// Whether a dump listed all sockets.
pub(super) enum Completeness {
    Yes,
    No,
}

pub(super) fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    setsockopt(
        &socket.as_fd(),
        sockopt::ReceiveTimeout,
        &TimeVal::milliseconds(ANSWER_TIMEOUT_MS),
    )?;
    Ok(socket)
}

/// Passes the sockets of an address family in some states to `each`: at most `limit`, rounded up to a
/// whole part of the answer.
pub(super) fn dump(
    socket: &Socket,
    family: u8,
    protocol: u8,
    states: StateFlags,
    limit: usize,
    each: &mut impl FnMut(&InetResponseHeader),
) -> io::Result<Completeness> {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let extensions = ExtensionFlags::empty();
    let request = InetRequest { family, protocol, extensions, states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let payload = NetlinkPayload::from(SockDiagMessage::InetRequest(request));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut count = 0;
    let mut answer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let packet = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            match packet.message_type() {
                NLMSG_DONE => return Ok(Completeness::Yes),
                NLMSG_ERROR => return Err(decode_error(packet.payload())),
                _ => {}
            }
            let header = InetResponseHeader::parse(packet.payload()).map_err(io::Error::other)?;
            count += 1;
            each(&header);
            // Messages are aligned to four bytes.
            let length = (packet.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        if count >= limit {
            return Ok(Completeness::No);
        }
    }
}

/// Decodes the error of an `NLMSG_ERROR` message, which is a negative errno.
pub(super) fn decode_error(payload: &[u8]) -> io::Error {
    let errno = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    io::Error::from_raw_os_error(errno.unwrap_or_default().saturating_neg())
}

/// Returns the range of ephemeral ports: those that the kernel assigns to sockets without an explicit
/// port.
pub fn ephemeral_ports() -> std::ops::RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_whitespace().filter_map(|end| end.parse().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) => first..=last,
        // The default of the kernel.
        _ => 32_768..=60_999,
    }
}

/// Returns the names of the processes that hold these sockets, by inode. Only root sees the processes
/// of other users. A process can choose its name freely.
pub fn commands(inodes: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    let mut commands = BTreeMap::new();
    let mut descriptors = 0;
    let Ok(processes) = fs::read_dir("/proc") else { return commands };
    for process in processes.flatten() {
        if commands.len() == inodes.len() || descriptors > MAX_DESCRIPTORS {
            break;
        }
        let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        if !process.file_name().to_str().is_some_and(is_process) {
            continue;
        }
        // The process has ended, or belongs to another user.
        let Ok(entries) = fs::read_dir(process.path().join("fd")) else { continue };
        for entry in entries.flatten() {
            descriptors += 1;
            let Some(inode) = socket_of(&entry.path()) else { continue };
            if inodes.contains(&inode) && !commands.contains_key(&inode) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                commands.insert(inode, name.trim_end_matches('\n').to_owned());
            }
        }
    }
    commands
}

/// Returns the inode of the socket behind a file descriptor in `/proc`.
fn socket_of(descriptor: &Path) -> Option<u32> {
    let target = fs::read_link(descriptor).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn of(transport: Transport, port: u16) -> Vec<Listening> {
        let mut found = Vec::new();
        let more = listening(|socket| {
            if socket.transport == transport && socket.port == port {
                found.push(socket);
            }
        });
        assert!(!more.expect("the sockets"), "no socket is missing");
        found
    }

    #[test]
    fn many_sockets_of_one_transport_hide_none_of_another() {
        let _tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let _udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (mut tcp, mut udp) = (0, 0);
        let are_missing = listening_at_most(1, |socket| match socket.transport {
            Transport::Tcp => tcp += 1,
            Transport::Udp => udp += 1,
            Transport::Sctp => {}
        });
        assert!(are_missing.expect("the sockets"), "the limit is 1");
        assert!(tcp > 0 && udp > 0, "{tcp} {udp}");
    }

    #[test]
    fn only_sockets_that_accept_packets_of_any_source_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let port = tcp.local_addr().expect("an address").port();
        let connection = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let udp = UdpSocket::bind("[::1]:0").expect("a socket");
        let bound = udp.local_addr().expect("an address").port();
        let connected = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        connected.connect("127.0.0.1:9").expect("connecting");

        let [listener] = of(Transport::Tcp, port)[..] else { panic!("one socket at {port}") };
        assert_eq!(listener.address, IpAddr::from([127, 0, 0, 1]));
        assert_eq!(listener.uid, nix::unistd::getuid().as_raw());
        assert_eq!(of(Transport::Udp, bound).len(), 1);
        for (transport, address) in
            [(Transport::Tcp, connection.local_addr()), (Transport::Udp, connected.local_addr())]
        {
            let port = address.expect("an address").port();
            assert_eq!(of(transport, port), [], "the socket is connected to one peer");
        }
        let name = fs::read_to_string("/proc/self/comm").expect("our name");
        let commands = commands(&BTreeSet::from([listener.inode]));
        assert_eq!(commands.get(&listener.inode).map(String::as_str), Some(name.trim_end()));
        drop(tcp);
        assert_eq!(of(Transport::Tcp, port), []);
    }
}
