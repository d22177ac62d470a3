//! Open TCP connections of this network namespace, and the devices that have their local addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_sock_diag::{
    AF_INET, AF_INET6,
    inet::{InetResponseHeader, SocketId, StateFlags},
};
use nix::ifaddrs::getifaddrs;

use super::sock_diag::{self, Completeness, MAX_SOCKETS};
use crate::system_error::SystemError;

/// An open TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// Address and port on this node.
    pub local: SocketAddr,
    /// Address and port of the peer.
    pub peer: SocketAddr,
    /// Index of the interface that the socket is bound to; 0 if none.
    pub ifindex: u32,
    /// Inode of the socket, unique across namespaces; 0 for a socket of the kernel.
    pub inode: u32,
}

/// Lists the connections that are open, or that only the peer has closed, without connections of the
/// node with itself. Returns at most `limit` of them in no particular order, and whether there are
/// more. Requires no permissions.
///
/// # Errors
/// The kernel does not answer, or has no support for listing TCP sockets (`CONFIG_INET_DIAG`).
pub fn established(limit: usize) -> Result<(Vec<Connection>, bool), SystemError> {
    let mut found = Vec::new();
    let mut many = false;
    let more = tcp(&(StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT), |header| {
        let SocketId { source_port, destination_port, source_address, destination_address, .. } =
            header.socket_id;
        let (local, peer) = (source_address.to_canonical(), destination_address.to_canonical());
        if local.is_loopback() || peer.is_loopback() || local == peer {
            return;
        }
        if found.len() >= limit {
            many = true;
        } else {
            found.push(Connection {
                local: SocketAddr::new(local, source_port),
                peer: SocketAddr::new(peer, destination_port),
                ifindex: header.socket_id.interface_id,
                inode: header.inode,
            });
        }
    })?;
    Ok((found, more || many))
}

/// The addresses and ports of listening TCP sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners(BTreeSet<SocketAddr>);

impl Listeners {
    /// Lists the sockets. Some may be missing if there are many thousands.
    ///
    /// # Errors
    /// As for [`established`].
    pub fn of_this_node() -> Result<Self, SystemError> {
        let mut found = BTreeSet::new();
        tcp(&StateFlags::LISTEN, |header| {
            let SocketId { source_port, source_address, .. } = header.socket_id;
            found.insert(SocketAddr::new(source_address.to_canonical(), source_port));
        })?;
        Ok(Self(found))
    }

    /// Returns listeners on these addresses and ports.
    pub fn of(sockets: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(sockets.into_iter().collect())
    }

    /// Reports whether a socket listens on an address and port. A socket on all IPv6 addresses counts
    /// for IPv4 as well.
    pub fn accept(&self, local: SocketAddr) -> bool {
        let all = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let on_all = |address: IpAddr| self.0.contains(&SocketAddr::new(address, local.port()));
        self.0.contains(&local) || all.into_iter().any(on_all)
    }
}

fn tcp(
    states: &StateFlags,
    mut each: impl FnMut(&InetResponseHeader),
) -> Result<bool, SystemError> {
    let failed = |error: io::Error| SystemError::of("listing the TCP connections", error);
    let protocol = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    let mut more = false;
    for family in [AF_INET, AF_INET6] {
        // A socket for each family, because the unread rest of an answer stays in its receive queue.
        let socket = sock_diag::open().map_err(failed)?;
        match sock_diag::dump(&socket, family, protocol, states.clone(), MAX_SOCKETS, &mut each) {
            Ok(Completeness::Yes) => {}
            Ok(Completeness::No) => more = true,
            // A kernel without IPv6 has no such sockets.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) && family == AF_INET6 => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(more)
}

/// Returns the names of the devices with each address of this network namespace.
///
/// # Errors
/// The kernel does not list the addresses.
pub fn addresses() -> Result<BTreeMap<IpAddr, BTreeSet<String>>, SystemError> {
    let failed = |error: nix::Error| {
        SystemError::of("listing the addresses of the interfaces", io::Error::from(error))
    };
    let mut found: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for interface in getifaddrs().map_err(failed)? {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        if let Some(address) = v4.or_else(v6) {
            found.entry(address).or_default().insert(interface.interface_name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn loopback_connections_are_left_out_and_listeners_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let at = listener.local_addr().expect("an address");
        let _connection = TcpStream::connect(at).expect("a connection");
        let (found, _) = established(100_000).expect("the connections");
        assert!(found.iter().all(|one| !one.peer.ip().is_loopback()), "{found:?}");
        let listeners = Listeners::of_this_node().expect("the listeners");
        assert!(listeners.accept(at));
        let other = SocketAddr::new([127, 0, 0, 2].into(), at.port());
        assert!(!listeners.accept(other), "another address");
        let all = Listeners::of(["0.0.0.0:7", "[::]:8"].map(|it| it.parse().expect("an address")));
        let accepts = |it: &str| all.accept(it.parse().expect("an address"));
        assert_eq!(["10.0.0.1:7", "10.0.0.1:8", "10.0.0.1:9"].map(accepts), [true, true, false]);
        let lo = addresses().expect("addresses");
        assert!(lo.get(&IpAddr::from([127, 0, 0, 1])).is_some_and(|names| names.contains("lo")));
    }
}
