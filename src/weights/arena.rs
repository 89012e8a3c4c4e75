//! The memory that reconstructed weights live in, and how it is used again.

use std::ops::Range;
use std::sync::{Arc, Weak};

use crate::error::{Error, Result};
use crate::mmap::Anonymous;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Every tensor begins at a multiple of this many elements: 256 bytes, whole cache lines for every kernel.
const ALIGNMENT: usize = 64;

/// Pages of f32; each fresh one is first touched by the thread that writes it.
#[derive(Debug)]
pub(super) struct Arena {
    memory: Anonymous,
    /// The pool that the memory goes to when these weights need it no more.
    home: Weak<BufferPool>,
}

impl Arena {
    /// An arena for tensors of `lengths` elements, and where in it each of them lies. It takes the memory of an arena
    /// that `spares` keeps, if one has the right size; its old values are then still there. Fresh memory is zero.
    pub(super) fn for_lengths(
        lengths: impl Iterator<Item = usize>,
        spares: Option<&Arc<BufferPool>>,
    ) -> Result<(Self, Vec<Range<usize>>)> {
        let mut end = 0usize;
        let places = lengths
            .map(|length| {
                let start = end;
                end = start.checked_add(length)?;
                let place = start..end;
                end = end.checked_next_multiple_of(ALIGNMENT)?;
                Some(place)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        let bytes = end.checked_mul(size_of::<f32>()).ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        let memory = match spares.and_then(|spares| spares.take(bytes)) {
            Some(memory) => memory,
            None => Anonymous::new(end)?,
        };
        Ok((Self { memory, home: spares.map(Arc::downgrade).unwrap_or_default() }, places))
    }

    pub(super) fn slice(&self, place: Range<usize>) -> &[f32] {
        &self.memory.as_f32()[place]
    }

    /// The places as disjoint slices; they must be as [`Arena::for_lengths`] gave them.
    pub(super) fn split_mut(&mut self, places: &[Range<usize>]) -> Vec<&mut [f32]> {
        let (mut rest, mut at) = (self.memory.as_f32_mut(), 0);
        places
            .iter()
            .map(|place| {
                let (piece, after) = std::mem::take(&mut rest)[place.start - at..].split_at_mut(place.len());
                (rest, at) = (after, place.end);
                piece
            })
            .collect()
    }

    /// Bytes that it holds.
    pub(super) fn nbytes(&self) -> usize {
        self.memory.nbytes()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(spares) = self.home.upgrade() {
            spares.keep(std::mem::take(&mut self.memory));
        }
    }
}

/// Memory that weights live in, and that other weights can take over.
pub trait ArenaMemory: std::fmt::Debug + Send + Sync {
    /// Bytes that it holds.
    fn nbytes(&self) -> usize;
}

impl ArenaMemory for Anonymous {
    fn nbytes(&self) -> usize {
        size_of_val(self.as_f32())
    }
}

/// Memory of arenas that are gone, for the next ones. Fresh pages have to be faulted in and zeroed by the kernel before
/// they are written, which costs about as much as a reconstruction reads in that time.
#[derive(Debug)]
pub(crate) struct BufferPool<M = Anonymous> {
    /// Bytes that may be kept; the cache lowers it as it fills.
    limit: AtomicUsize,
    kept: Mutex<Vec<M>>,
}

impl<M> Default for BufferPool<M> {
    fn default() -> Self {
        Self { limit: AtomicUsize::default(), kept: Mutex::default() }
    }
}

impl BufferPool {
    /// A pool that keeps what is given back, whatever its size.
    pub(crate) fn unlimited() -> Arc<Self> {
        let pool = Arc::<Self>::default();
        pool.limit.store(usize::MAX, Ordering::Relaxed);
        pool
    }

    /// Gives the memory back.
    pub(crate) fn drain(&self) {
        let kept = std::mem::take(&mut *self.kept());
        // Freed once the lock is open again.
        drop(kept);
    }
}

impl<M: ArenaMemory> BufferPool<M> {
    /// Sets how many bytes may be kept, and gives what is beyond: dropping it takes milliseconds, which can wait until
    /// a lock is open again.
    pub(super) fn set_limit(&self, bytes: usize) -> Vec<M> {
        // Under the lock, so that no memory that is just given back goes by the old limit.
        let mut kept = self.kept();
        self.limit.store(bytes, Ordering::Relaxed);
        let mut beyond = Vec::new();
        while total(&kept) > bytes {
            beyond.extend(kept.pop());
        }
        beyond
    }

    /// Bytes that are kept.
    pub(super) fn nbytes(&self) -> usize {
        total(&self.kept())
    }

    pub(super) fn keep(&self, memory: M) {
        /// The unused arenas, at most: more would be a leak of sorts, whatever the budget says.
        const MAX_ARENAS: usize = 2;

        // Freed once the lock is open again.
        let mut beyond = Vec::new();
        let mut kept = self.kept();
        let mut has_room = |kept: &mut Vec<M>| loop {
            if kept.len() < MAX_ARENAS && total(kept) + memory.nbytes() <= self.limit.load(Ordering::Relaxed) {
                return true;
            }
            // What was wanted last is wanted next, rather than a size that is wanted no more.
            match kept.iter().position(|other| other.nbytes() != memory.nbytes()) {
                Some(other) => beyond.push(kept.remove(other)),
                None => return false,
            }
        };
        if has_room(&mut kept) {
            kept.push(memory)
        } else {
            beyond.push(memory)
        }
        drop(kept);
    }

    /// Memory of exactly `bytes` bytes; all weights of one model take equally many.
    pub(super) fn take(&self, bytes: usize) -> Option<M> {
        let mut kept = self.kept();
        let at = kept.iter().position(|memory| memory.nbytes() == bytes)?;
        Some(kept.swap_remove(at))
    }

    fn kept(&self) -> MutexGuard<'_, Vec<M>> {
        self.kept.lock()
    }
}

fn total<M: ArenaMemory>(memory: &[M]) -> usize {
    memory.iter().map(M::nbytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_disjoint_and_aligned() {
        let (mut arena, places) = Arena::for_lengths([1, 64, 0, 65].into_iter(), None).unwrap();
        assert_eq!(places, [0..1, 64..128, 128..128, 128..193]);
        for (i, piece) in arena.split_mut(&places).into_iter().enumerate() {
            piece.fill(i as f32 + 1.0);
        }
        assert_eq!(arena.slice(64..128), [2.0; 64]);
        assert_eq!((arena.slice(0..1)[0], arena.slice(192..193)[0]), (1.0, 4.0));
        assert_eq!(arena.nbytes(), 256 * 4);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(Arena::for_lengths([usize::MAX, 2].into_iter(), None).is_err());
        assert!(Arena::for_lengths([usize::MAX / 8].into_iter(), None).is_err());
    }

    #[test]
    fn memory_is_used_again_within_the_limit() {
        let spares = Arc::new(BufferPool::default());
        let arena = |length: usize| Arena::for_lengths([length].into_iter(), Some(&spares)).unwrap().0;
        drop(arena(1024));
        assert_eq!(spares.nbytes(), 0, "nothing may be kept yet");

        spares.set_limit(8192);
        let first = arena(1024);
        let address = first.memory.as_f32().as_ptr();
        drop((first, arena(1024), arena(1024)));
        assert_eq!(spares.nbytes(), 8192, "two fit");
        let another = arena(512);
        assert_eq!((another.nbytes(), spares.nbytes()), (2048, 8192), "another size takes fresh memory");
        let (one, other) = (arena(1024), arena(1024));
        assert!([&one, &other].iter().any(|arena| arena.memory.as_f32().as_ptr() == address));
        assert_eq!(spares.nbytes(), 0);

        drop((one, other));
        spares.set_limit(4096);
        assert_eq!(spares.nbytes(), 4096);
        drop(another);
        assert_eq!(spares.nbytes(), 2048, "the size that came last takes the place of another");
        let left = arena(512);
        drop(spares);
        drop(left);
    }
}
