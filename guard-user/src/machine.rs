//! What this machine knows of itself: its host name and its addresses, by which it finds itself in
//! a manifest; and whether anybody reads what we say.

use std::{collections::BTreeSet, io, net::IpAddr, os::fd::AsFd as _};

use nix::{
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::gethostname,
};

use crate::policy::NodeChoice;

/// How to find this machine in a manifest: by the name given, else by what it knows of itself.
pub fn node_choice(name: Option<&str>) -> NodeChoice {
    NodeChoice {
        name: name.map(str::to_owned),
        hostname: gethostname().ok().map(|name| name.to_string_lossy().into_owned()),
        addresses: addresses(),
    }
}

/// Whether nobody reads standard output any more. Who writes now and then would notice late.
pub fn is_answer_unread() -> bool {
    let stdout = io::stdout();
    // Errors are told without being asked for.
    let mut asked = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let told = poll(&mut asked, PollTimeout::ZERO);
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    told.is_ok_and(|count| count > 0)
        && asked.iter().filter_map(PollFd::revents).any(|events| events.intersects(gone))
}

/// The addresses of this network namespace, loopback and link-local ones left out: every machine
/// has those.
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
