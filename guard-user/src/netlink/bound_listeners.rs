//! Listening TCP sockets that are bound to a device.

use std::{collections::BTreeSet, io};

use netlink_packet_sock_diag::{
    AF_INET, AF_INET6,
    inet::{SocketId, StateFlags},
};

use super::sock_diag::{self, Completeness, MAX_SOCKETS};

/// Ports at which a TCP socket listens that is bound to a device, with the index of the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoundListeners {
    /// Port and index of the device.
    pub ports: BTreeSet<(u16, u32)>,
    /// Whether there are more sockets than are read.
    pub are_missing: bool,
}

/// Lists them in the network namespace of this thread. The kernel goes through the listening sockets
/// only, so open connections cost nothing. Requires no permissions.
///
/// # Errors
/// The kernel does not answer, or has no support for listing TCP sockets (`CONFIG_INET_DIAG`).
pub fn bound_listeners() -> io::Result<BoundListeners> {
    let mut found = BoundListeners::default();
    let protocol = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    for family in [AF_INET, AF_INET6] {
        // A socket for each family, because the unread rest of an answer stays in its receive queue.
        let socket = sock_diag::open()?;
        let listed = sock_diag::dump(
            &socket,
            family,
            protocol,
            StateFlags::LISTEN,
            MAX_SOCKETS,
            &mut |header| {
                let SocketId { source_port, interface_id, .. } = header.socket_id;
                if interface_id != 0 {
                    found.ports.insert((source_port, interface_id));
                }
            },
        );
        match listed {
            Ok(Completeness::Yes) => {}
            Ok(Completeness::No) => found.are_missing = true,
            // A kernel without IPv6 has no such sockets.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) && family == AF_INET6 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    #[test]
    fn a_listener_is_found_once_it_is_bound_to_a_device() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let found = |port| {
            let found = bound_listeners().expect("the sockets").ports;
            found.into_iter().find(|(of, _)| *of == port)
        };
        assert_eq!(found(port), None);
        let lo = std::ffi::OsString::from("lo");
        setsockopt(&listener, sockopt::BindToDevice, &lo).expect("binding to a device");
        assert_eq!(found(port), Some((port, 1)));
    }
}
