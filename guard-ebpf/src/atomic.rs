//! Atomic access to a word of a map value.
//!
//! `AtomicU64` has no read-modify-write operations for the BPF target, and its load and store need
//! cpu v4. The intrinsics below compile to `BPF_CMPXCHG` with cpu v3 (kernel 5.12 and later).

/// Reads a word that other CPUs may write at the same time.
///
/// # Safety
/// `word` must be valid for reads and aligned to 8 bytes.
#[inline(always)]
pub(crate) unsafe fn load(word: *const u64) -> u64 {
    // SAFETY: the caller guarantees a valid, aligned pointer. An aligned load of 8 bytes is one
    // instruction and is not torn on any 64-bit machine.
    unsafe { word.read_volatile() }
}

/// Stores `new` if the word is `old`. Returns whether it was.
///
/// # Safety
/// `word` must be valid for reads and writes and aligned to 8 bytes.
#[inline(always)]
pub(crate) unsafe fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
        // SAFETY: the caller guarantees a valid, aligned pointer.
        unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, old, new).1 }
    }
    // So that the crate can be checked and linted on the host.
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
        // SAFETY: the caller guarantees a valid, aligned pointer.
        unsafe { AtomicU64::from_ptr(word) }.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }
}
