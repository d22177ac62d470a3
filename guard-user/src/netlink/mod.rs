//! Queries of devices, addresses, sockets and offloads with netlink.

pub mod connections;
pub mod devices;
pub mod ethtool;
pub mod sock_diag;
pub mod topology;
