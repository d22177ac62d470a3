//! Devices, addresses, sockets and offloads, by netlink.

pub mod connections;
pub mod devices;
pub mod ethtool;
pub mod sock_diag;
pub mod topology;
