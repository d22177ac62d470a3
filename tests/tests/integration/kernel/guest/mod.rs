//! Tests that need network cards: `cargo xtask vm` runs them in a guest.

mod virtio;
