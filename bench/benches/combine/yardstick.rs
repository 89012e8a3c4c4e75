//! The yardstick of the memory: copies and reads without any other work.

use std::sync::atomic::{AtomicUsize, Ordering};

use taskbasis::mmap::Anonymous;

/// Threads take pieces of this many bytes, one after another, as the kernel's do.
const PIECE: usize = 1 << 20;

/// A way to copy: from, to, bytes (a multiple of 256).
type CopyFn = unsafe fn(*const u8, *mut u8, usize);
/// A way to read: from, bytes (a multiple of 1024).
type Read = unsafe fn(*const u8, usize);

pub(crate) const COPIES: [(&str, CopyFn); 3] =
    [("memcpy", memcpy), ("past the caches", stream), ("the same, fetching ahead", stream_ahead)];
pub(crate) const READS: [(&str, Read); 2] = [("one place at a time", read_one), ("four places at a time", read_four)];

/// Reads what the caches have no room for, so that no measurement pays for the lines that the one before it left dirty.
pub(crate) fn settle(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().take(96 << 20).step_by(64).fold(0u8, |any, &byte| any | byte));
}

/// Sources and as many bytes of memory for them to be copied to.
pub(crate) struct Copies<'a> {
    pairs: Vec<(&'a [u8], Anonymous)>,
}

impl<'a> Copies<'a> {
    /// The first `bytes` of the sources.
    pub(crate) fn new(sources: &[&'a [u8]], bytes: usize) -> Self {
        let mut left = bytes;
        let mut pairs = Vec::new();
        for source in sources {
            let length = source.len().min(left) / PIECE * PIECE;
            left -= length;
            if length > 0 {
                pairs.push((&source[..length], Anonymous::new(length / 4).expect("memory")));
            }
        }
        Self { pairs }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pairs.iter().map(|(source, _)| source.len()).sum()
    }

    pub(crate) fn run(&self, threads: usize, copy: CopyFn) {
        let pieces: Vec<(*const u8, *mut u8)> = self
            .pairs
            .iter()
            .flat_map(|(source, to)| {
                let to = to.as_f32().as_ptr().cast_mut().cast::<u8>();
                (0..source.len()).step_by(PIECE).map(move |at| (source[at..].as_ptr(), to.wrapping_add(at)))
            })
            .collect();
        let pieces = Shared(pieces);
        // SAFETY: every piece lies inside its source and its destination, which no other thread looks at meanwhile.
        share(threads, pieces.0.len(), |i| unsafe { copy(pieces.get(i).0, pieces.get(i).1, PIECE) });
    }
}

/// Reads everything.
pub(crate) fn read(sources: &[&[u8]], threads: usize, read: Read) {
    let pieces: Vec<&[u8]> = sources.iter().flat_map(|source| source.chunks_exact(PIECE)).collect();
    // SAFETY: every piece is a slice of that length.
    share(threads, pieces.len(), |i| unsafe { read(pieces[i].as_ptr(), PIECE) });
}

struct Shared(Vec<(*const u8, *mut u8)>);
// SAFETY: each piece is used by one thread alone.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self, i: usize) -> (*const u8, *mut u8) {
        self.0[i]
    }
}

fn share(threads: usize, pieces: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return;
            }
            work(piece);
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(run)));
        run();
    });
}

unsafe fn memcpy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) }
}

unsafe fn stream(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { stream_with::<false>(from, to, bytes) }
}

unsafe fn stream_ahead(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { stream_with::<true>(from, to, bytes) }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream_with<const AHEAD: bool>(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { memcpy(from, to, bytes) }
}

/// Copies with non-temporal stores; `to` is aligned to 16 bytes, as mappings are.
#[cfg(target_arch = "x86_64")]
unsafe fn stream_with<const AHEAD: bool>(from: *const u8, to: *mut u8, bytes: usize) {
    use std::arch::x86_64::*;

    // SAFETY: the caller's promise; SSE2 is part of x86-64, and prefetching never faults.
    unsafe {
        for at in (0..bytes).step_by(64) {
            if AHEAD {
                _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(at + 1024).cast());
            }
            for k in 0..4 {
                let line = _mm_loadu_si128(from.add(at + 16 * k).cast());
                _mm_stream_si128(to.add(at + 16 * k).cast(), line);
            }
        }
        _mm_sfence();
    }
}

unsafe fn read_one(from: *const u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { read_places::<1>(from, bytes) }
}

unsafe fn read_four(from: *const u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { read_places::<4>(from, bytes) }
}

/// Reads `N` stretches side by side, fetching ahead.
unsafe fn read_places<const N: usize>(from: *const u8, bytes: usize) {
    let stretch = bytes / N;
    let mut any = [0u64; 8];
    for at in (0..stretch).step_by(64) {
        for n in 0..N {
            let line = from.wrapping_add(n * stretch + at);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: SSE is part of x86-64, and prefetching never faults.
            unsafe {
                use std::arch::x86_64::*;
                _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(1024).cast());
            }
            for (k, any) in any.iter_mut().enumerate() {
                // SAFETY: the caller's promise; any address will do.
                *any |= unsafe { line.cast::<u64>().add(k).read_unaligned() };
            }
        }
    }
    std::hint::black_box(any);
}
