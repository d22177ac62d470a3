//! What connects to the sockets, and what may be at the other end of them.

mod fake_daemons;
mod requests;
mod timeouts;
