//! Queries of devices, addresses, sockets, offloads, forwarding and `nf_tables` with netlink.

pub mod bound_listeners;
pub mod connections;
pub mod devices;
pub mod ethtool;
pub mod follow;
pub mod forwarding;
pub mod links;
mod message;
pub mod nftables;
pub mod own_addresses;
pub mod sock_diag;
pub mod topology;

pub use message::{Drained, Notifications};
