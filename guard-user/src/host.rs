//! Facts about this machine and process: host name and addresses, which identify the node in a
//! manifest; the ssh session; and whether standard output is still read.

use std::{collections::BTreeSet, fs, io, net::IpAddr, os::fd::AsFd as _};

use nix::{
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::gethostname,
};

use crate::policy::NodeChoice;

/// Returns the criteria to find this node in a manifest: the given name, or else host name and
/// addresses.
pub fn node_choice(name: Option<&str>) -> NodeChoice {
    NodeChoice {
        name: name.map(str::to_owned),
        hostname: gethostname().ok().map(|name| name.to_string_lossy().into_owned()),
        addresses: addresses(),
    }
}

/// Reports whether the reader of standard output has gone. A program that writes rarely would
/// otherwise notice it late.
pub fn is_stdout_closed() -> bool {
    let stdout = io::stdout();
    // poll(2) always reports errors, so no events are requested.
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let ready = poll(&mut fds, PollTimeout::ZERO);
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    ready.is_ok_and(|count| count > 0)
        && fds.iter().filter_map(PollFd::revents).any(|events| events.intersects(gone))
}

/// Returns `SSH_CONNECTION` (ssh(1)) of the shell that runs this process. sudo removes it from the
/// environment, so the environments of the parent processes are read as well, as far as permissions
/// allow.
pub fn ssh_session() -> Option<String> {
    const NAME: &str = "SSH_CONNECTION";
    /// Maximum number of shells, sudo processes and multiplexers between this process and the
    /// session.
    const ANCESTORS: usize = 10;
    if let Ok(session) = std::env::var(NAME) {
        return Some(session);
    }
    let mut process = nix::unistd::getppid().as_raw();
    for _ in 0..ANCESTORS {
        let environment = fs::read(format!("/proc/{process}/environ")).ok()?;
        let found = environment.split(|byte| *byte == 0).find_map(|entry| {
            let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
            (name == NAME).then(|| value.to_owned())
        });
        if found.is_some() {
            return found;
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        process = parent.trim().parse().ok().filter(|parent| *parent > 1)?;
    }
    None
}

/// Returns the addresses of this network namespace, except loopback and link-local ones, which exist
/// on every machine.
fn addresses() -> Vec<IpAddr> {
    let Ok(found) = getifaddrs() else { return Vec::new() };
    let addresses: BTreeSet<IpAddr> = found
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .collect();
    addresses.into_iter().collect()
}
