//! The kernel object that is embedded in this binary, if it was built with one.

/// Returns the kernel object (an ELF file); none if the binary was built with `cargo build` alone,
/// without `cargo xtask build`.
pub fn kernel_object() -> Option<&'static [u8]> {
    #[cfg(kernel_object)]
    {
        // The parser reads the ELF headers in place, so they must be aligned.
        static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.o"));
        Some(OBJECT)
    }
    #[cfg(not(kernel_object))]
    None
}
