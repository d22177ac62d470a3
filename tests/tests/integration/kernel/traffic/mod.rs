//! Which packets are the node's: real packets to real sockets, to containers behind the node and to
//! other hosts, and what is counted for each.
//!
//! Every test states all counters that move, `unguarded` and `not_ip` included. `site.rs` is the
//! topology, on which nothing is sent that the test does not send; `packets.rs` builds packets.

mod addresses;
mod buckets;
mod connections;
mod datagrams;
mod forwarding;
mod obstacles;
mod packets;
mod site;
mod translation;
mod upper_devices;
