//! Sends raw Ethernet frames.

use std::{io, os::fd::AsRawFd as _, thread, time::Duration};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

/// Frames sent before a pause for the receiver; fewer than the ring of a veth holds.
const AT_A_TIME: usize = 64;

/// Sends frames out of an interface of this network namespace and returns how many the interface
/// accepted. Of frames that fill a page, only the Ethernet header is in the first buffer of the packet
/// (`packet_alloc_skb`, `net/packet/af_packet.c`).
pub fn send(interface: &str, frames: &[Vec<u8>]) -> io::Result<usize> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
    let to = address(interface)?;
    let mut sent = 0;
    for some in frames.chunks(AT_A_TIME) {
        for frame in some {
            sent += usize::from(sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty()).is_ok());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(sent)
}

fn address(interface: &str) -> io::Result<LinkAddr> {
    let found = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied());
    found.ok_or_else(|| io::Error::other(format!("no interface `{interface}`")))
}
