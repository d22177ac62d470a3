//! What every kernel object needs besides its programs: a panic handler and a licence.

/// Loops forever, so that the verifier refuses a program in which a panic is reachable.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence that the kernel requires of programs. The helpers that are used require no
/// particular one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
