//! Giving memory back to the operating system.

/// Returns what the allocator keeps of memory that was freed.
///
/// A session copies its weights before it packs them, and frees the copies one by one. What is left between what stays
/// is of no use (ViT-B-32: 170 MB for a session of 350), and a dropped session leaves all of its memory that
/// way. Takes some 10 ms, and other threads wait for the allocator a part of that.
pub(super) fn release() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: takes a number, and touches only memory that is free.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}

/// Calls [`release`] when it is dropped: as the last field of a struct, after the others.
pub(super) struct ReleaseAfter;

impl Drop for ReleaseAfter {
    fn drop(&mut self) {
        release();
    }
}
