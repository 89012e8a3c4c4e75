//! Reconstructed weights that are kept for the next time, within a budget of bytes.
//!
//! What promoted sessions take counts against the same budget (`state.rs`: who goes first), and so does memory that
//! waits to be used again ([`Spares`]).

mod prefetch;
mod state;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

pub(super) use self::prefetch::Ahead;
pub(crate) use self::state::Derived;
use self::state::{Building, Found, State};
pub use self::stats::CacheStats;
use super::arena::{ArenaMemory, Spares};
use super::layout::LayoutKeeper;
use super::values::Weights;
use crate::error::Result;
use crate::mmap::Anonymous;
use crate::mmap::Identity;

/// What determines the bits of weights: the files of base and basis, and the coefficients as the kernel takes them.
/// Expressions that mean the same have the same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(super) files: Arc<[Identity]>,
    /// Bits of f32.
    pub(super) factors: Arc<[u32]>,
    /// The [`Layout`](super::Layout) that they are in; 0 is none.
    pub(super) layout: u64,
}

/// Whose promoted session it is, or who wants weights ahead. Each encoder and each
/// [`TaskWeights`](super::TaskWeights) has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner(u64);

impl Owner {
    /// Different from every other in this process.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Weights that a [`WeightsCache`] can keep: those in memory, or those on a device.
pub trait Reconstructed: std::fmt::Debug + Send + Sync {
    /// The memory that they live in.
    type Memory: ArenaMemory;

    /// Bytes of it.
    fn nbytes(&self) -> usize;
}

impl Reconstructed for Weights {
    type Memory = Anonymous;

    fn nbytes(&self) -> usize {
        self.nbytes()
    }
}

/// Weights of any number of models, and the sessions promoted from them, within one budget of bytes.
///
/// Least recently used goes first. What is in use elsewhere stays alive there whatever the cache does, and is found
/// again as long as it lives: a budget smaller than one task still works. What is prefetched is reconstructed by one
/// thread a cache, one after the other, which ends when nothing is wanted. Shareable between threads and, in an
/// [`Arc`], between models ([`ModelOptions::cache`](super::ModelOptions::cache)).
#[derive(Debug)]
pub struct WeightsCache<W: Reconstructed = Weights> {
    state: Mutex<State<W>>,
    /// Some reconstruction has ended, well or not.
    ended: Condvar,
    spares: Arc<Spares<W::Memory>>,
}

impl WeightsCache {
    /// An empty cache that keeps at most `budget` bytes; 0 keeps nothing.
    pub fn new(budget: usize) -> Self {
        Self::with_budget(budget)
    }
}

impl LayoutKeeper for WeightsCache {
    fn forget_layout(&self, id: u64) {
        self.forget(|key| key.layout == id);
    }
}

impl<W: Reconstructed> WeightsCache<W> {
    /// [`WeightsCache::new`], for weights of any kind.
    pub(crate) fn with_budget(budget: usize) -> Self {
        let cache = Self { state: Mutex::default(), ended: Condvar::new(), spares: Arc::default() };
        cache.set_budget(budget);
        cache
    }

    /// How it has done so far, and what it holds.
    pub fn stats(&self) -> CacheStats {
        let stats = self.state.lock().stats;
        CacheStats { spare_bytes: self.spares.nbytes(), ..stats }
    }

    /// Sets the budget, and drops what no longer fits.
    pub fn set_budget(&self, bytes: usize) {
        self.change(|state| {
            state.stats.budget = bytes;
            state.evict_down_to(bytes);
        });
    }

    /// Drops the least recently used until at most `bytes` are kept; the budget stays as it is.
    pub fn trim(&self, bytes: usize) {
        self.change(|state| state.evict_down_to(bytes));
        // Spares too: the caller wants memory back now.
        let kept = self.state.lock().stats.bytes;
        self.drop_spares(bytes.saturating_sub(kept));
    }

    /// The weights of `key`, reconstructed by `build` unless they are there. However many threads ask at once, one
    /// reconstructs and the others wait for it; no lock is held meanwhile. `bytes` is what they will take: room for
    /// that is made before, so that the budget holds while `build` runs, and `build` can use the memory that became
    /// free.
    ///
    /// # Errors
    /// Those of `build`.
    pub(super) fn get_or_build(
        &self,
        key: &Key,
        bytes: usize,
        build: impl FnOnce(&Arc<Spares<W::Memory>>) -> Result<W>,
    ) -> Result<Arc<W>> {
        let mut state = self.state.lock();
        loop {
            match state.find(key) {
                Found::Ready(weights) => {
                    self.settle(state);
                    return Ok(weights);
                }
                Found::Building => self.ended.wait(&mut state),
                Found::Nothing => break,
            }
        }
        state.begin(key, Building::for_caller(), bytes);
        self.settle(state);
        self.fly(key, build)
    }

    /// Reconstructs what has been begun, and ends the wait of the others even where `build` fails or panics.
    fn fly(&self, key: &Key, build: impl FnOnce(&Arc<Spares<W::Memory>>) -> Result<W>) -> Result<Arc<W>> {
        let mut flight = Flight { cache: self, key, landed: None };
        let began = Instant::now();
        let weights = Arc::new(build(&self.spares)?);
        flight.landed = Some((Arc::clone(&weights), began.elapsed()));
        Ok(weights)
    }

    /// Drops the weights of all keys that `which` accepts, which nobody will ask for again.
    pub(super) fn forget(&self, which: impl Fn(&Key) -> bool) {
        self.change(|state| state.forget(which));
        // Their memory too: the weights of others seldom have its size.
        self.drop_spares(0);
    }

    /// Gives spare memory back until at most `bytes` of it are left; what becomes free later is kept as before.
    fn drop_spares(&self, bytes: usize) {
        drop(self.spares.set_limit(bytes));
        self.change(|_| ());
    }

    /// Whether the weights are there, without counting as a request.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.state.lock().contains(key)
    }

    /// What the owner derived from the weights of `key`, if it is still kept. Counts as a use of it.
    pub(crate) fn find_derived(&self, id: &(Owner, Key)) -> Option<Derived> {
        self.state.lock().find_derived(id)
    }

    /// Whether it is kept, without counting as a use.
    pub(crate) fn contains_derived(&self, id: &(Owner, Key)) -> bool {
        self.state.lock().contains_derived(id)
    }

    /// Keeps what was derived, which takes `bytes`; false where the whole budget is too small for it.
    pub(crate) fn keep_derived(&self, id: (Owner, Key), what: Derived, bytes: usize) -> bool {
        self.change(|state| state.keep_derived(id, what, bytes))
    }

    /// Drops what was derived; whether there was anything. Runs that use it end as if nothing had happened.
    pub(crate) fn drop_derived(&self, id: &(Owner, Key)) -> bool {
        self.change(|state| state.drop_derived(id))
    }

    /// Drops all that this owner derived.
    pub(crate) fn drop_owner(&self, owner: Owner) {
        self.change(|state| state.drop_owner(owner));
    }

    fn change<T>(&self, change: impl FnOnce(&mut State<W>) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.settle(state);
        result
    }

    /// Ends a change: what was dropped is freed, or kept as spare memory where the budget has room.
    fn settle(&self, mut state: MutexGuard<'_, State<W>>) {
        let dropped = std::mem::take(&mut state.dropped);
        let limit = state.stats.budget.saturating_sub(state.stats.bytes);
        // While the lock is held, so that the last change has the last word.
        let beyond = self.spares.set_limit(limit);
        drop(state);
        drop((dropped, beyond));
    }
}

/// A reconstruction under way.
struct Flight<'a, W: Reconstructed> {
    cache: &'a WeightsCache<W>,
    key: &'a Key,
    landed: Option<(Arc<W>, Duration)>,
}

impl<W: Reconstructed> Drop for Flight<'_, W> {
    fn drop(&mut self) {
        self.cache.change(|state| match self.landed.take() {
            // Nobody came to wait after it was called off, and it ended before it noticed.
            Some(_) if state.is_called_off(self.key) => state.give_up(self.key),
            Some((weights, took)) => {
                state.stats.reconstructing += took;
                state.keep(self.key, &weights);
            }
            None => state.give_up(self.key),
        });
        self.cache.ended.notify_all();
    }
}
