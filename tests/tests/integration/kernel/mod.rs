//! Tests that need bpf(2), network namespaces or root. `cargo xtask test --quick` leaves them out.

mod clients;
mod daemon;
mod earlier;
mod exclusive;
mod guest;
mod interfaces;
mod program;
mod takeover;
mod telemetry;
mod traffic;
