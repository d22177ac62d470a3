//! What needs network cards that a test may take: run in a guest by `cargo xtask vm` only.

mod virtio;
