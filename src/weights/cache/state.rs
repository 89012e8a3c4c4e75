//! What is kept, who is at work on what, and who goes first when room is needed.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::prefetch::{Queue, Wanted, unwant, want};
use super::{CacheStats, Key, Owner, Reconstructed};

/// Something that was made of weights and serves in their place: a session with the weights frozen into it.
pub(crate) type Derived = Arc<dyn Any + Send + Sync>;

#[derive(Debug)]
pub(super) struct State<W> {
    entries: HashMap<Key, Entry<W>>,
    derived: HashMap<(Owner, Key), Kept<Derived>>,
    pub(super) queue: Queue<W>,
    /// Counts requests, to tell what was used last.
    clock: u64,
    pub(super) stats: CacheStats,
    /// What was dropped and still has to be freed, which takes milliseconds: outside the lock.
    pub(super) dropped: Vec<Dropped<W>>,
}

impl<W> Default for State<W> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            derived: HashMap::new(),
            queue: Queue::default(),
            clock: 0,
            stats: CacheStats::default(),
            dropped: Vec::new(),
        }
    }
}

/// The last references to what is kept no more, or what is left of them.
#[derive(Debug)]
#[allow(dead_code)] // Held only to be dropped.
pub(super) enum Dropped<W> {
    Weights(Arc<W>),
    Derived(Derived),
    Wanted(Wanted<W>),
}

#[derive(Debug)]
enum Entry<W> {
    /// Somebody is at it; others wait instead of doing it again.
    Building(Building),
    Kept(Kept<Arc<W>>),
    /// Dropped by the cache, perhaps still alive elsewhere.
    Dropped(Weak<W>),
}

#[derive(Debug)]
pub(super) struct Building {
    /// Those who need the weights, whoever reconstructs for itself among them.
    waiting: usize,
    /// Those who want them ahead.
    wanted: Vec<Owner>,
    cancel: Arc<AtomicBool>,
}

impl Building {
    /// By somebody who needs them.
    pub(super) fn for_caller() -> Self {
        Self { waiting: 1, wanted: Vec::new(), cancel: Arc::default() }
    }

    /// In the background; `cancel` stops it.
    pub(super) fn ahead(wanted: Vec<Owner>, cancel: Arc<AtomicBool>) -> Self {
        Self { waiting: 0, wanted, cancel }
    }

    /// Whether it was stopped, and nobody has come to wait since.
    fn is_called_off(&self) -> bool {
        self.waiting == 0 && self.cancel.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Kept<T> {
    what: T,
    bytes: usize,
    /// The clock at the last request.
    used: u64,
}

pub(super) enum Found<W> {
    Ready(Arc<W>),
    Building,
    Nothing,
}

impl<W: Reconstructed> State<W> {
    /// Looks for weights, as a request: whoever wanted them ahead has nothing more to wish for.
    pub(super) fn find(&mut self, key: &Key) -> Found<W> {
        self.clock += 1;
        self.dropped.extend(self.queue.remove(key).map(Dropped::Wanted));
        let weights = match self.entries.get_mut(key) {
            None => return Found::Nothing,
            Some(Entry::Building(building)) => {
                building.waiting += 1;
                return Found::Building;
            }
            Some(Entry::Kept(kept)) => {
                kept.used = self.clock;
                Arc::clone(&kept.what)
            }
            Some(Entry::Dropped(weights)) => match weights.upgrade() {
                Some(weights) => {
                    self.keep(key, &weights);
                    weights
                }
                None => return Found::Nothing,
            },
        };
        self.stats.hits += 1;
        Found::Ready(weights)
    }

    /// Whether the weights are there.
    pub(super) fn contains(&self, key: &Key) -> bool {
        match self.entries.get(key) {
            Some(Entry::Kept(_)) => true,
            Some(Entry::Dropped(weights)) => weights.strong_count() > 0,
            Some(Entry::Building(_)) | None => false,
        }
    }

    /// Whether somebody is at it.
    pub(super) fn is_building(&self, key: &Key) -> bool {
        matches!(self.entries.get(key), Some(Entry::Building(_)))
    }

    /// Somebody begins, and there is to be room for so many bytes.
    pub(super) fn begin(&mut self, key: &Key, building: Building, bytes: usize) {
        self.stats.misses += 1;
        self.entries.insert(key.clone(), Entry::Building(building));
        if let Some(rest) = self.stats.budget.checked_sub(bytes) {
            self.evict_down_to(rest);
        }
    }

    /// Whoever began has ended without weights.
    pub(super) fn give_up(&mut self, key: &Key) {
        if let Some(Entry::Building(building)) = self.entries.remove(key)
            && building.cancel.load(Ordering::Relaxed)
        {
            self.stats.cancelled += 1;
        }
    }

    /// Whether what is being reconstructed was stopped, and nobody has come to wait for it since.
    pub(super) fn is_called_off(&self, key: &Key) -> bool {
        matches!(self.entries.get(key), Some(Entry::Building(building)) if building.is_called_off())
    }

    /// Wants what is being reconstructed; false where nobody is at it, or it has been stopped.
    pub(super) fn join(&mut self, key: &Key, by: Owner) -> bool {
        match self.entries.get_mut(key) {
            Some(Entry::Building(building)) if !building.is_called_off() => {
                want(&mut building.wanted, by);
                true
            }
            _ => false,
        }
    }

    /// `by` no longer wants the weights: where nobody else does either, and nobody waits, takes them out of the queue
    /// or stops their reconstruction. Whether that was so.
    pub(super) fn withdraw(&mut self, key: &Key, by: Owner) -> bool {
        if let Some(wanted) = self.queue.withdraw(key, by) {
            self.dropped.push(Dropped::Wanted(wanted));
            self.stats.cancelled += 1;
            return true;
        }
        let Some(Entry::Building(building)) = self.entries.get_mut(key) else { return false };
        let is_stopped = unwant(&mut building.wanted, by) && building.waiting == 0;
        if is_stopped {
            building.cancel.store(true, Ordering::Relaxed);
        }
        is_stopped
    }

    /// How many wait for what is being reconstructed.
    #[cfg(test)]
    pub(super) fn waiting(&self, key: &Key) -> usize {
        match self.entries.get(key) {
            Some(Entry::Building(building)) => building.waiting,
            _ => 0,
        }
    }

    /// Keeps the weights as the most recently used, as far as the budget goes.
    pub(super) fn keep(&mut self, key: &Key, weights: &Arc<W>) {
        self.clock += 1;
        let kept = Kept { what: Arc::clone(weights), bytes: weights.nbytes(), used: self.clock };
        self.stats.entries += 1;
        self.stats.bytes += kept.bytes;
        if let Some(Entry::Kept(old)) = self.entries.insert(key.clone(), Entry::Kept(kept)) {
            self.stats.entries -= 1;
            self.stats.bytes -= old.bytes;
            self.dropped.push(Dropped::Weights(old.what));
        }
        self.evict_down_to(self.stats.budget);
    }

    /// What was derived from the weights by this owner.
    pub(super) fn find_derived(&mut self, id: &(Owner, Key)) -> Option<Derived> {
        self.clock += 1;
        let kept = self.derived.get_mut(id)?;
        kept.used = self.clock;
        Some(Arc::clone(&kept.what))
    }

    pub(super) fn contains_derived(&self, id: &(Owner, Key)) -> bool {
        self.derived.contains_key(id)
    }

    /// Keeps it as the most recently used; false where the budget has no room for it at all.
    pub(super) fn keep_derived(&mut self, id: (Owner, Key), what: Derived, bytes: usize) -> bool {
        if bytes > self.stats.budget {
            self.dropped.push(Dropped::Derived(what));
            return false;
        }
        self.drop_derived(&id);
        self.clock += 1;
        self.derived.insert(id, Kept { what, bytes, used: self.clock });
        self.stats.promoted += 1;
        self.stats.promoted_bytes += bytes;
        self.stats.bytes += bytes;
        self.evict_down_to(self.stats.budget);
        true
    }

    pub(super) fn drop_derived(&mut self, id: &(Owner, Key)) -> bool {
        let Some(kept) = self.derived.remove(id) else { return false };
        self.stats.promoted -= 1;
        self.stats.promoted_bytes -= kept.bytes;
        self.stats.bytes -= kept.bytes;
        self.dropped.push(Dropped::Derived(kept.what));
        true
    }

    pub(super) fn drop_owner(&mut self, owner: Owner) {
        let ids: Vec<_> = self.derived.keys().filter(|(of, _)| *of == owner).cloned().collect();
        for id in ids {
            self.drop_derived(&id);
        }
    }

    /// Drops the least recently used until at most `bytes` are kept.
    pub(super) fn evict_down_to(&mut self, bytes: usize) {
        while self.stats.bytes > bytes {
            let weights = self.entries.iter().filter_map(|(key, entry)| match entry {
                Entry::Kept(kept) => Some((kept.used, key)),
                _ => None,
            });
            let weights = weights.min_by_key(|(used, _)| *used);
            let derived = self.derived.iter().map(|(id, kept)| (kept.used, id)).min_by_key(|(used, _)| *used);
            match (weights, derived) {
                (Some((used, _)), Some((other, id))) if other < used => {
                    let id = id.clone();
                    self.drop_derived(&id);
                }
                (Some((_, key)), _) => {
                    let key = key.clone();
                    self.drop_weights(&key);
                }
                (None, Some((_, id))) => {
                    let id = id.clone();
                    self.drop_derived(&id);
                }
                (None, None) => break,
            }
            self.stats.evictions += 1;
        }
        self.entries.retain(|_, entry| !matches!(entry, Entry::Dropped(weights) if weights.strong_count() == 0));
    }

    /// Drops the weights of all keys that `which` accepts.
    pub(super) fn forget(&mut self, which: impl Fn(&Key) -> bool) {
        let keys: Vec<Key> = self.entries.keys().filter(|key| which(key)).cloned().collect();
        keys.iter().for_each(|key| self.drop_weights(key));
    }

    fn drop_weights(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Entry::Kept(kept) = entry {
            self.stats.entries -= 1;
            self.stats.bytes -= kept.bytes;
            let left = Entry::Dropped(Arc::downgrade(&kept.what));
            if let Entry::Kept(kept) = std::mem::replace(entry, left) {
                self.dropped.push(Dropped::Weights(kept.what));
            }
        }
    }
}
