//! The yardstick that reconstruction is measured with: how fast this machine copies memory.

use std::thread;

use taskbasis::mmap::Anonymous;
use taskbasis::{Error, Result};

/// Two buffers, one to be copied to the other past the caches: one read and one write of every byte, no arithmetic and
/// no page fault. What reconstruction must move cannot be moved faster.
///
/// Shares no code with the kernels, so that a slow kernel does not make its own yardstick slow. The buffers are the
/// same kind of memory as reconstructed weights.
#[derive(Debug)]
pub struct MemcpyBaseline {
    from: Anonymous,
    to: Anonymous,
}

impl MemcpyBaseline {
    /// Buffers of `length` f32 values each.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](taskbasis::ErrorKind::OutOfMemory).
    pub fn new(length: usize) -> Result<Self> {
        let (mut from, mut to) = (Anonymous::new(length)?, Anonymous::new(length)?);
        // Written before they are read: pages of zeros that were never written are all the same page, which stays in
        // the cache.
        from.as_f32_mut().iter_mut().zip(0u32..).for_each(|(value, i)| *value = i as f32);
        to.as_f32_mut().fill(-1.0);
        Ok(Self { from, to })
    }

    /// Bytes that one [`MemcpyBaseline::run`] reads and writes.
    pub fn bytes(&self) -> usize {
        2 * size_of_val(self.from.as_f32())
    }

    /// Copies all of it on `threads` threads, the caller's among them, each an even part. `past_caches` chooses
    /// non-temporal stores, else it is the C library's `memcpy`. Where there are none here (not x86-64), both are
    /// `memcpy`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](taskbasis::ErrorKind::OutOfMemory) where the operating system refuses a thread: fewer
    /// would be another measurement.
    pub fn run(&mut self, threads: usize, past_caches: bool) -> Result<()> {
        let (from, to) = (self.from.as_f32(), self.to.as_f32_mut());
        // Whole pages, so that every part is aligned as the whole is.
        let length = to.len().div_ceil(threads).next_multiple_of(1024).max(1024);
        let copy = if past_caches { stream } else { <[f32]>::copy_from_slice };
        thread::scope(|scope| {
            let mut parts = to.chunks_mut(length).zip(from.chunks(length));
            let own = parts.next();
            for (to, from) in parts {
                let started = thread::Builder::new().spawn_scoped(scope, move || copy(to, from));
                started.map_err(Error::no_thread)?;
            }
            if let Some((to, from)) = own {
                copy(to, from);
            }
            Ok(())
        })
    }
}

/// Copies with the widest non-temporal stores there are.
fn stream(to: &mut [f32], from: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        assert_eq!(to.len(), from.len());
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: this machine has AVX-512F, and both slices have one length.
            return unsafe { x86::stream_avx512(to, from) };
        }
        if is_x86_feature_detected!("avx") {
            // SAFETY: this machine has AVX, and both slices have one length.
            return unsafe { x86::stream_avx(to, from) };
        }
    }
    to.copy_from_slice(from);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// One function an instruction set: `$width` f32 at a time from the first aligned element on.
    macro_rules! stream {
        ($name:ident, $feature:literal, $width:literal, $load:ident, $store:ident) => {
            /// # Safety
            /// The machine has the feature, and both slices have one length.
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $name(to: &mut [f32], from: &[f32]) {
                let head = to.as_ptr().align_offset(4 * $width).min(to.len());
                let (to_head, to) = to.split_at_mut(head);
                let (from_head, from) = from.split_at(head);
                to_head.copy_from_slice(from_head);
                let whole = to.len() / $width * $width;
                for i in (0..whole).step_by($width) {
                    // SAFETY: `i + width` is at most the length of both; `to` is aligned from `head` on.
                    unsafe { $store(to.as_mut_ptr().add(i), $load(from.as_ptr().add(i))) };
                }
                to[whole..].copy_from_slice(&from[whole..]);
                _mm_sfence();
            }
        };
    }

    stream!(stream_avx512, "avx512f", 16, _mm512_loadu_ps, _mm512_stream_ps);
    stream!(stream_avx, "avx", 8, _mm256_loadu_ps, _mm256_stream_ps);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_arrives() {
        for length in [0, 1, 1023, 5000] {
            for (threads, past_caches) in [(1, true), (3, true), (1, false), (2, false)] {
                let mut copy = MemcpyBaseline::new(length).unwrap();
                copy.run(threads, past_caches).unwrap();
                assert_eq!(copy.from.as_f32(), copy.to.as_f32(), "{length} {threads} {past_caches}");
                assert_eq!(copy.bytes(), 8 * length);
            }
        }
    }

    #[test]
    fn a_stream_may_begin_anywhere() {
        let from: Vec<f32> = (0..100).map(|i| i as f32).collect();
        for start in 0..20 {
            let mut to = vec![0.0; 100];
            stream(&mut to[start..], &from[start..]);
            assert_eq!(to[start..], from[start..]);
        }
    }
}
