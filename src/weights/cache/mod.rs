//! Reconstructed weights that are kept for the next time, within a budget of bytes.
//!
//! What promoted sessions take counts against the same budget (`state.rs`: who goes first), and so does memory that
//! waits to be used again ([`BufferPool`]).

mod item;
mod kept;
mod prefetch;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

pub use self::item::Reconstructed;
pub(crate) use self::item::{Derived, Key, Owner};
use self::kept::{Building, CacheState, Lookup};
pub(super) use self::prefetch::PrefetchJob;
pub use self::stats::CacheStats;
use super::arena::BufferPool;
use super::values::Weights;
use crate::error::Result;
use crate::mmap::Anonymous;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Condvar, Mutex, MutexGuard};

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
/// thread per cache, one after the other, which ends when nothing is wanted. Shareable between threads and, in an
/// [`Arc`], between models ([`ModelOptions::cache`](super::ModelOptions::cache)): those of the same mapped files have
/// the same weights in it, while one of them is open ([`Mapping::identity`](crate::Mapping::identity)); files that are
/// read, and those that were closed meanwhile, are files of their own.
#[derive(Debug)]
pub struct WeightsCache<W: Reconstructed = Weights> {
    state: Mutex<CacheState<W>>,
    /// Some reconstruction has ended, well or not.
    ended: Condvar,
    spares: Arc<BufferPool<W::Memory>>,
}

impl WeightsCache {
    /// An empty cache that keeps at most `budget` bytes; 0 keeps nothing.
    pub fn new(budget: usize) -> Self {
        Self::with_budget(budget)
    }
}

impl<W: Reconstructed> WeightsCache<W> {
    /// [`WeightsCache::new`], for weights of any kind.
    pub(crate) fn with_budget(budget: usize) -> Self {
        let cache = Self { state: Mutex::default(), ended: Condvar::new(), spares: Arc::default() };
        cache.set_budget(budget);
        cache
    }

    /// The statistics of the cache: how it has done so far, and what it holds.
    pub fn stats(&self) -> CacheStats {
        let stats = self.state.lock().stats;
        CacheStats { spare_bytes: self.spares.nbytes(), ..stats }
    }

    /// Sets the budget, and drops what no longer fits.
    pub fn set_budget(&self, bytes: usize) {
        self.change(|state| {
            state.stats.budget = bytes;
            state.make_room();
        });
    }

    /// Drops the least recently used until at most `bytes` are kept; the budget stays as it is.
    pub fn trim(&self, bytes: usize) {
        self.change(|state| state.evict_down_to(bytes));
        // BufferPool too: the caller wants memory back now.
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
        build: impl FnOnce(&Arc<BufferPool<W::Memory>>) -> Result<W>,
    ) -> Result<Arc<W>> {
        let mut state = self.state.lock();
        loop {
            match state.find(key) {
                Lookup::Ready(weights) => {
                    self.settle(state);
                    return Ok(weights);
                }
                Lookup::Building => self.ended.wait(&mut state),
                Lookup::Missing => break,
            }
        }
        state.begin(key, Building::for_caller(), bytes);
        self.settle_before(state, bytes);
        self.fly(key, build)
    }

    /// Reconstructs what has been begun, and ends the wait of the others even where `build` fails or panics.
    fn fly(&self, key: &Key, build: impl FnOnce(&Arc<BufferPool<W::Memory>>) -> Result<W>) -> Result<Arc<W>> {
        let mut flight = Flight { cache: self, key, landed: None };
        let began = Instant::now();
        let weights = Arc::new(build(&self.spares)?);
        flight.landed = Some((Arc::clone(&weights), began.elapsed()));
        Ok(weights)
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

    /// The session that this owner made of the weights of `key`, if it is still kept. Counts as a use of it.
    pub(crate) fn find_derived(&self, owner: Owner, key: &Key) -> Option<Derived> {
        self.state.lock().find_derived(owner, key)
    }

    /// Whether it is kept, without counting as a use.
    pub(crate) fn contains_derived(&self, owner: Owner, key: &Key) -> bool {
        self.state.lock().contains_derived(owner, key)
    }

    /// Keeps a session, which takes `bytes`; false where the whole budget is too small for it.
    pub(crate) fn keep_derived(&self, owner: Owner, key: &Key, session: Derived, bytes: usize) -> bool {
        self.change(|state| state.keep_derived(owner, key, session, bytes))
    }

    /// Drops a session; whether there was one. Runs that use it end as if nothing had happened.
    pub(crate) fn drop_derived(&self, owner: Owner, key: &Key) -> bool {
        self.change(|state| state.drop_derived(owner, key))
    }

    /// Drops the weights of all keys that `which` accepts, which will not be asked for again.
    pub(super) fn forget(&self, which: impl Fn(&Key) -> bool) {
        self.change(|state| state.forget(|owner, key| owner.is_none() && which(key)));
        // Their memory too: the weights of others seldom have its size.
        self.drop_spares(0);
    }

    /// Notes that the owner wants the weights of `key` no longer. Where no other does, and no caller waits for them,
    /// they are not reconstructed, or no further; whether that was so.
    pub(super) fn cancel(&self, key: &Key, by: Owner) -> bool {
        self.change(|state| state.withdraw(key, by))
    }

    fn change<T>(&self, change: impl FnOnce(&mut CacheState<W>) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.settle(state);
        result
    }

    /// Ends a change: what was dropped is freed, or kept as spare memory where the budget has room.
    fn settle(&self, state: MutexGuard<'_, CacheState<W>>) {
        self.settle_before(state, 0);
    }

    /// [`WeightsCache::settle`], where `bytes` of spare memory are about to be used.
    fn settle_before(&self, mut state: MutexGuard<'_, CacheState<W>>, bytes: usize) {
        let dropped = std::mem::take(&mut state.dropped);
        let left = state.room().saturating_sub(state.stats.bytes).saturating_add(bytes).min(state.stats.budget);
        // What is being reconstructed may be about to take spare memory: it is not taken away in between.
        let limit = left.max(self.spares.nbytes().min(state.reserved()));
        // While the lock is held, so that the last change has the last word.
        let beyond = self.spares.set_limit(limit);
        drop(state);
        drop((dropped, beyond));
    }
}

impl<W: Reconstructed + 'static> WeightsCache<W> {
    /// Reconstructs the weights of `key` in the background, unless they are there, are wanted already, or are
    /// being reconstructed.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(super) fn prefetch(self: &Arc<Self>, key: &Key, by: Owner, job: Box<dyn PrefetchJob<W>>) -> Result<()> {
        let mut state = self.state.lock();
        if state.contains(key) || state.join(key, by) {
            return Ok(());
        }
        let (cache, wanted) = (Arc::downgrade(self), key.clone());
        let on_turn = move || {
            if let Some(cache) = cache.upgrade() {
                cache.fly_wanted(&wanted);
            }
        };
        state.queue.push(key, by, job, on_turn)
    }

    /// Reconstructs what was prefetched, unless it is wanted no more, is there by now, or a caller is at it.
    fn fly_wanted(&self, key: &Key) {
        let mut state = self.state.lock();
        let Some(mut wanted) = state.queue.remove(key) else { return };
        let bytes = if state.contains(key) || state.is_building(key) { None } else { wanted.job.hold() };
        let Some(bytes) = bytes else {
            // A layout that goes with the job takes its weights out of the cache.
            drop(state);
            drop(wanted);
            return;
        };
        let cancel: Arc<AtomicBool> = Arc::default();
        state.begin(key, Building::ahead(wanted.by, Arc::clone(&cancel)), bytes);
        self.settle_before(state, bytes);
        // An error is for those who need the weights: they try again, and get it then.
        let _ = self.fly(key, |spares| wanted.job.build(spares, &cancel));
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
            // No caller came to wait after it was called off, and it ended before it noticed.
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

/// The reason why caches keep something.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holder {
    /// The layout of this number, which weights are in.
    Layout(u64),
    /// The encoder that has promoted sessions.
    Encoder(Owner),
}

/// A cache that can let go of what it keeps for a holder.
pub(crate) trait Keeper: std::fmt::Debug + Send + Sync {
    fn forget_holder(&self, holder: Holder);
}

impl Keeper for WeightsCache {
    fn forget_holder(&self, holder: Holder) {
        match holder {
            Holder::Layout(layout) => self.forget(|key| key.layout == layout),
            Holder::Encoder(owner) => self.change(|state| state.forget(|other, _| other == Some(owner))),
        }
    }
}

/// The caches that keep something for a holder; dropping it takes that out of them.
#[derive(Debug)]
pub(crate) struct CacheLease {
    holder: Holder,
    caches: Mutex<Vec<Weak<dyn Keeper>>>,
}

impl CacheLease {
    pub(crate) fn new(holder: Holder) -> Self {
        Self { holder, caches: Mutex::default() }
    }

    /// Notes a cache that may keep something for the holder from now on.
    pub(crate) fn register_cache<K: Keeper + 'static>(&self, cache: &Arc<K>) {
        let mut caches = self.caches.lock();
        if !caches.iter().any(|known| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(cache))) {
            caches.retain(|known| known.strong_count() > 0);
            let cache: Arc<dyn Keeper> = Arc::<K>::clone(cache);
            caches.push(Arc::downgrade(&cache));
        }
    }
}

impl Drop for CacheLease {
    fn drop(&mut self) {
        self.caches.get_mut().iter().filter_map(Weak::upgrade).for_each(|cache| cache.forget_holder(self.holder));
    }
}
