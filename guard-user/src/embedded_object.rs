//! The kernel object that this binary carries, if it was built with one.

/// The object; none if the binary was built by `cargo build` alone, without `cargo xtask build`.
pub fn kernel_object() -> Option<&'static [u8]> {
    #[cfg(kernel_object)]
    {
        // The parser of the object reads its headers in place, which must be aligned.
        static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.o"));
        Some(OBJECT)
    }
    #[cfg(not(kernel_object))]
    None
}
