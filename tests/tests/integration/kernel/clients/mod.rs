//! Clients of the daemon's sockets, and other programs that listen on them.

mod fake_daemons;
mod requests;
mod timeouts;
