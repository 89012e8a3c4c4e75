//! Reconstructed weights that are kept for the next time, within a budget of bytes.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Weights;
use crate::error::Result;

/// What determines the bits of weights, beside base and basis: the coefficients as the kernel takes them.
pub(super) type Key = Box<[u32]>;

/// How a cache has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Requests that found their weights.
    pub hits: u64,
    /// Requests that had to reconstruct.
    pub misses: u64,
    /// Weights dropped to keep within the budget.
    pub evictions: u64,
    /// Weights kept now.
    pub entries: usize,
    /// Bytes of memory that those take.
    pub bytes: usize,
    /// Bytes that may be kept.
    pub budget: usize,
    /// Time spent reconstructing, summed over all misses.
    pub reconstructing: Duration,
}

/// Least recently used goes first. Weights that are in use elsewhere stay alive there whatever the cache does, and are
/// found again as long as they live: a budget smaller than one task still works.
#[derive(Debug)]
pub(super) struct Cache {
    state: Mutex<State>,
    /// Some reconstruction has ended, well or not.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// Counts requests, to tell which entry was used last.
    clock: u64,
    stats: CacheStats,
}

#[derive(Debug)]
enum Entry {
    /// Somebody is at it; others wait instead of doing it again.
    Building,
    Kept(Arc<Weights>, u64),
    /// Dropped by the cache, perhaps still alive elsewhere.
    Dropped(Weak<Weights>),
}

impl Cache {
    pub(super) fn new(budget: usize) -> Self {
        let stats = CacheStats { budget, ..CacheStats::default() };
        Self { state: Mutex::new(State { stats, ..State::default() }), ended: Condvar::new() }
    }

    /// The weights of `key`, reconstructed by `build` unless they are there. However many threads ask at once, one
    /// reconstructs and the others wait for it; no lock is held meanwhile.
    pub(super) fn get_or_build(&self, key: &Key, build: impl FnOnce() -> Result<Weights>) -> Result<Arc<Weights>> {
        let mut state = self.lock();
        loop {
            match state.find(key) {
                Found::Ready(weights) => return Ok(weights),
                Found::Building => state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                Found::Nothing => break,
            }
        }
        state.entries.insert(key.clone(), Entry::Building);
        state.stats.misses += 1;
        drop(state);

        // Ends the wait of the others even where `build` fails or panics.
        let mut flight = Flight { cache: self, key, landed: None };
        let began = Instant::now();
        let weights = Arc::new(build()?);
        flight.landed = Some((Arc::clone(&weights), began.elapsed()));
        Ok(weights)
    }

    /// Whether the weights are there, without counting as a request.
    pub(super) fn contains(&self, key: &Key) -> bool {
        match self.lock().entries.get(key) {
            Some(Entry::Kept(..)) => true,
            Some(Entry::Dropped(weights)) => weights.strong_count() > 0,
            Some(Entry::Building) | None => false,
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        self.lock().stats
    }

    /// Sets the budget, and drops what no longer fits.
    pub(super) fn set_budget(&self, bytes: usize) {
        let mut state = self.lock();
        state.stats.budget = bytes;
        state.evict_down_to(bytes);
    }

    /// Drops the least recently used until at most `bytes` are kept; the budget stays as it is.
    pub(super) fn trim(&self, bytes: usize) {
        self.lock().evict_down_to(bytes);
    }

    /// A panic elsewhere leaves the state whole: every change is made in one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Found {
    Ready(Arc<Weights>),
    Building,
    Nothing,
}

impl State {
    fn find(&mut self, key: &Key) -> Found {
        self.clock += 1;
        let weights = match self.entries.get_mut(key) {
            None => return Found::Nothing,
            Some(Entry::Building) => return Found::Building,
            Some(Entry::Kept(weights, used)) => {
                *used = self.clock;
                Arc::clone(weights)
            }
            Some(Entry::Dropped(weights)) => match weights.upgrade() {
                Some(weights) => weights,
                None => return Found::Nothing,
            },
        };
        self.stats.hits += 1;
        self.keep(key, &weights);
        Found::Ready(weights)
    }

    /// Keeps the weights as the most recently used, as far as the budget goes.
    fn keep(&mut self, key: &Key, weights: &Arc<Weights>) {
        let old = self.entries.insert(key.clone(), Entry::Kept(Arc::clone(weights), self.clock));
        if !matches!(old, Some(Entry::Kept(..))) {
            self.stats.entries += 1;
            self.stats.bytes += weights.nbytes();
            self.evict_down_to(self.stats.budget);
        }
    }

    fn evict_down_to(&mut self, bytes: usize) {
        while self.stats.bytes > bytes {
            let kept = self.entries.iter_mut().filter_map(|(_, entry)| match entry {
                Entry::Kept(_, used) => Some((*used, entry)),
                _ => None,
            });
            let Some((_, entry)) = kept.min_by_key(|(used, _)| *used) else { break };
            if let Entry::Kept(weights, _) = entry {
                self.stats.entries -= 1;
                self.stats.bytes -= weights.nbytes();
                self.stats.evictions += 1;
                *entry = Entry::Dropped(Arc::downgrade(weights));
            }
        }
        self.entries.retain(|_, entry| !matches!(entry, Entry::Dropped(weights) if weights.strong_count() == 0));
    }
}

/// A reconstruction under way.
struct Flight<'a> {
    cache: &'a Cache,
    key: &'a Key,
    landed: Option<(Arc<Weights>, Duration)>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        match self.landed.take() {
            Some((weights, took)) => {
                state.stats.reconstructing += took;
                state.keep(self.key, &weights);
            }
            None => {
                state.entries.remove(self.key);
            }
        }
        drop(state);
        self.cache.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::checkpoint::{Checkpoint, Format};
    use crate::error::Error;
    use crate::tensor::{DType, Tensor};
    use crate::weights::ReconstructOptions;

    /// Weights of 256 bytes of their own (a base that is not f32 has to be converted).
    fn weights() -> Result<Weights> {
        let bytes = Arc::new(crate::Mapping::from_vec(vec![0; 128], "test"));
        let tensor = Tensor::contiguous(&bytes, 0..128, DType::F16, &[64]).unwrap();
        let base = Checkpoint::from_tensors("test", Format::Safetensors, vec![("visual.a".into(), tensor)]).unwrap();
        Weights::of_base(&base, &ReconstructOptions::default())
    }

    fn key(n: u32) -> Key {
        Box::new([n])
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = Cache::new(512);
        let get = |n| drop(cache.get_or_build(&key(n), weights).unwrap());
        for n in [1, 2, 1, 3] {
            get(n);
        }
        assert!(cache.contains(&key(1)) && !cache.contains(&key(2)) && cache.contains(&key(3)));
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.evictions, stats.entries, stats.bytes), (1, 3, 1, 2, 512));
        cache.trim(256);
        assert!(!cache.contains(&key(1)) && cache.contains(&key(3)));
        cache.set_budget(0);
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    }

    #[test]
    fn a_budget_smaller_than_one_task_still_works() {
        let cache = Cache::new(1);
        let first = cache.get_or_build(&key(1), weights).unwrap();
        assert_eq!(cache.stats().bytes, 0);
        let again = cache.get_or_build(&key(1), || unreachable!("it is alive: `first` holds it")).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        drop((first, again));
        cache.get_or_build(&key(1), weights).unwrap();
        assert_eq!(cache.stats().misses, 2);
    }

    #[test]
    fn one_reconstructs_and_the_others_wait() {
        let (cache, built) = (Cache::new(usize::MAX), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    cache.get_or_build(&key(7), || {
                        built.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(30));
                        weights()
                    })
                });
            }
        });
        assert_eq!(built.into_inner(), 1);
        assert_eq!((cache.stats().hits, cache.stats().misses), (7, 1));
    }

    #[test]
    fn a_failure_or_a_panic_leaves_no_trace() {
        let cache = Cache::new(usize::MAX);
        assert!(cache.get_or_build(&key(1), || Err(Error::invalid("no"))).is_err());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = cache.get_or_build(&key(1), || panic!("no"));
        }));
        assert!(panicked.is_err());
        assert!(cache.get_or_build(&key(1), weights).is_ok());
        assert_eq!(cache.stats().entries, 1);
    }
}
