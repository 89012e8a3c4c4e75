//! The state of a cache: what is kept, what is being reconstructed, and what goes first when room is needed.

use std::collections::HashMap;
use std::ops::{Add, Sub};
use std::sync::{Arc, Weak};

use lru::LruCache;

use super::item::{Derived, Key, Owner, Reconstructed};
use super::prefetch::{PrefetchQueue, unwant, want};
use super::stats::CacheStats;
use crate::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(super) struct CacheState<W> {
    /// Weights by their key alone, sessions with their owner.
    kept: LruCache<(Option<Owner>, Key), CacheSlot<W>>,
    building: HashMap<Key, Building>,
    /// Bytes of the budget that what is being reconstructed takes.
    reserved: usize,
    /// Weights that are kept no more, perhaps still alive elsewhere.
    evicted: HashMap<Key, Weak<W>>,
    pub(super) queue: PrefetchQueue<W>,
    pub(super) stats: CacheStats,
    /// What was dropped and still has to be freed, which takes milliseconds: outside the lock.
    pub(super) dropped: Vec<CacheSlot<W>>,
}

#[derive(Debug)]
pub(super) enum CacheSlot<W> {
    Weights(Arc<W>),
    /// A session with the bytes that it takes.
    Session(Derived, usize),
}

impl<W> Default for CacheState<W> {
    fn default() -> Self {
        Self {
            kept: LruCache::unbounded(),
            building: HashMap::new(),
            reserved: 0,
            evicted: HashMap::new(),
            queue: PrefetchQueue::default(),
            stats: CacheStats::default(),
            dropped: Vec::new(),
        }
    }
}

/// A reconstruction under way; those who need the same weights wait for it.
#[derive(Debug)]
pub(super) struct Building {
    /// The number of callers that need the weights, the caller that reconstructs for itself among them.
    waiting: usize,
    /// The owners that want them ahead.
    wanted: Vec<Owner>,
    cancel: Arc<AtomicBool>,
    /// Bytes of the budget that are reserved for it.
    reserved: usize,
}

impl Building {
    /// Building by a caller that needs the weights.
    pub(super) fn for_caller() -> Self {
        Self { waiting: 1, wanted: Vec::new(), cancel: Arc::default(), reserved: 0 }
    }

    /// Building in the background; `cancel` stops it.
    pub(super) fn ahead(wanted: Vec<Owner>, cancel: Arc<AtomicBool>) -> Self {
        Self { waiting: 0, wanted, cancel, reserved: 0 }
    }

    /// Whether it was stopped, and no caller has come to wait since.
    fn is_called_off(&self) -> bool {
        self.waiting == 0 && self.cancel.load(Ordering::Relaxed)
    }
}

pub(super) enum Lookup<W> {
    Ready(Arc<W>),
    Building,
    Missing,
}

impl<W: Reconstructed> CacheState<W> {
    /// Looks for weights, as a request: those who wanted them ahead have nothing more to wish for.
    pub(super) fn find(&mut self, key: &Key) -> Lookup<W> {
        self.queue.remove(key);
        if let Some(building) = self.building.get_mut(key) {
            building.waiting += 1;
            return Lookup::Building;
        }
        let weights = match self.kept.get(&(None, key.clone())) {
            Some(CacheSlot::Weights(weights)) => Arc::clone(weights),
            _ => {
                let Some(weights) = self.evicted.get(key).and_then(Weak::upgrade) else { return Lookup::Missing };
                self.keep(key, &weights);
                weights
            }
        };
        self.stats.hits += 1;
        Lookup::Ready(weights)
    }

    /// Whether the weights are there.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.kept.contains(&(None, key.clone())) || self.evicted.get(key).is_some_and(|left| left.strong_count() > 0)
    }

    /// Whether the weights are being reconstructed.
    pub(super) fn is_building(&self, key: &Key) -> bool {
        self.building.contains_key(key)
    }

    /// Notes a reconstruction that begins, and makes room for `bytes`, beside what others under way take. What does
    /// not fit into the whole budget gets none.
    pub(super) fn begin(&mut self, key: &Key, mut building: Building, bytes: usize) {
        self.stats.misses += 1;
        self.evicted.retain(|_, left| left.strong_count() > 0);
        building.reserved = if bytes <= self.stats.budget { bytes } else { 0 };
        self.reserved += building.reserved;
        self.building.insert(key.clone(), building);
        self.make_room();
    }

    /// Notes a reconstruction that has ended without weights.
    pub(super) fn give_up(&mut self, key: &Key) {
        if self.end(key).is_some_and(|building| building.cancel.load(Ordering::Relaxed)) {
            self.stats.cancelled += 1;
        }
    }

    /// Whether what is being reconstructed was stopped, and no caller has come to wait for it since.
    pub(super) fn is_called_off(&self, key: &Key) -> bool {
        self.building.get(key).is_some_and(Building::is_called_off)
    }

    /// Notes an owner that wants what is in the queue or being reconstructed; false where it is neither, or was
    /// stopped.
    pub(super) fn join(&mut self, key: &Key, by: Owner) -> bool {
        match self.building.get_mut(key) {
            Some(building) if !building.is_called_off() => {
                want(&mut building.wanted, by);
                true
            }
            _ => self.queue.join(key, by),
        }
    }

    /// Notes that an owner wants the weights no longer: where no other does either, and no caller waits, takes them out
    /// of the queue or stops their reconstruction. Whether that was so.
    pub(super) fn withdraw(&mut self, key: &Key, by: Owner) -> bool {
        if self.queue.withdraw(key, by) {
            self.stats.cancelled += 1;
            return true;
        }
        let Some(building) = self.building.get_mut(key) else { return false };
        let is_stopped = unwant(&mut building.wanted, by) && building.waiting == 0;
        if is_stopped {
            building.cancel.store(true, Ordering::Relaxed);
        }
        is_stopped
    }

    /// The number of callers that wait for what is being reconstructed.
    #[cfg(test)]
    pub(super) fn waiting(&self, key: &Key) -> usize {
        self.building.get(key).map_or(0, |building| building.waiting)
    }

    /// Keeps the weights as the most recently used, as far as the budget goes.
    pub(super) fn keep(&mut self, key: &Key, weights: &Arc<W>) {
        self.end(key);
        self.evicted.remove(key);
        self.put((None, key.clone()), CacheSlot::Weights(Arc::clone(weights)));
    }

    /// The session that this owner made of the weights.
    pub(super) fn find_derived(&mut self, owner: Owner, key: &Key) -> Option<Derived> {
        match self.kept.get(&(Some(owner), key.clone()))? {
            CacheSlot::Session(session, _) => Some(Arc::clone(session)),
            CacheSlot::Weights(_) => None,
        }
    }

    pub(super) fn contains_derived(&self, owner: Owner, key: &Key) -> bool {
        self.kept.contains(&(Some(owner), key.clone()))
    }

    /// Keeps a session as the most recently used; false where the budget has no room for it at all.
    pub(super) fn keep_derived(&mut self, owner: Owner, key: &Key, session: Derived, bytes: usize) -> bool {
        let slot = CacheSlot::Session(session, bytes);
        let fits = bytes <= self.stats.budget;
        if fits {
            self.put((Some(owner), key.clone()), slot);
        } else {
            self.dropped.push(slot);
        }
        fits
    }

    /// Drops a session; whether there was one.
    pub(super) fn drop_derived(&mut self, owner: Owner, key: &Key) -> bool {
        let id = (Some(owner), key.clone());
        self.kept.pop(&id).map(|session| self.release(id.1, session)).is_some()
    }

    /// Notes that a reconstruction is not under way any more.
    fn end(&mut self, key: &Key) -> Option<Building> {
        let building = self.building.remove(key)?;
        self.reserved -= building.reserved;
        Some(building)
    }

    /// Bytes of the budget that what is being reconstructed takes.
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Bytes of the budget that may be kept: what is not being reconstructed.
    pub(super) fn room(&self) -> usize {
        self.stats.budget.saturating_sub(self.reserved)
    }

    /// Drops the least recently used until what is kept has room beside what is being reconstructed.
    pub(super) fn make_room(&mut self) {
        self.evict_down_to(self.room());
    }

    /// Drops the least recently used until at most `bytes` are kept.
    pub(super) fn evict_down_to(&mut self, bytes: usize) {
        while self.stats.bytes > bytes
            && let Some(((_, key), slot)) = self.kept.pop_lru()
        {
            self.release(key, slot);
            self.stats.evictions += 1;
        }
    }

    /// Drops all weights and sessions, named by their owner and key, that `which` accepts.
    pub(super) fn forget(&mut self, which: impl Fn(Option<Owner>, &Key) -> bool) {
        let ids: Vec<_> =
            self.kept.iter().map(|(id, _)| id).filter(|(owner, key)| which(*owner, key)).cloned().collect();
        for id in ids {
            if let Some(slot) = self.kept.pop(&id) {
                self.release(id.1, slot);
            }
        }
    }

    fn put(&mut self, id: (Option<Owner>, Key), slot: CacheSlot<W>) {
        self.count(&slot, Add::add);
        if let Some(old) = self.kept.put(id, slot) {
            self.count(&old, Sub::sub);
            self.dropped.push(old);
        }
        self.make_room();
    }

    /// What has left the cache: still to be found where it is weights that live on elsewhere.
    fn release(&mut self, key: Key, slot: CacheSlot<W>) {
        self.count(&slot, Sub::sub);
        if let CacheSlot::Weights(weights) = &slot {
            self.evicted.insert(key, Arc::downgrade(weights));
        }
        self.dropped.push(slot);
    }

    fn count(&mut self, slot: &CacheSlot<W>, change: fn(usize, usize) -> usize) {
        let stats = &mut self.stats;
        let bytes = match slot {
            CacheSlot::Weights(weights) => {
                stats.entries = change(stats.entries, 1);
                weights.nbytes()
            }
            CacheSlot::Session(_, bytes) => {
                stats.promoted = change(stats.promoted, 1);
                stats.promoted_bytes = change(stats.promoted_bytes, *bytes);
                *bytes
            }
        };
        stats.bytes = change(stats.bytes, bytes);
    }
}
