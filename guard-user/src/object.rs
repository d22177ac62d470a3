//! The kernel object that this binary carries, if it was built with one.

/// The object; none if the binary was built without `cargo xtask build`.
pub fn kernel_object() -> Option<&'static [u8]> {
    None
}
