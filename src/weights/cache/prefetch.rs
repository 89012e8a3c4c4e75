//! Weights that are wanted before anybody needs them: one thread a cache reconstructs them, one after the other.
//!
//! A reconstruction takes every thread it may have, so that two at once would take twice the memory and end no sooner.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indexmap::IndexMap;
use indexmap::map::Entry;

use super::state::Building;
use super::{Key, Owner, Reconstructed, Spares, WeightsCache};
use crate::error::{Error, Result};

/// How weights come about that nobody waits for.
pub(in crate::weights) trait Ahead<W: Reconstructed>: std::fmt::Debug + Send {
    /// Holds on to what the reconstruction needs, until `self` is dropped; the bytes that the weights will take. `None`
    /// where it is gone, and with it everybody who could ask for them. Called while the cache is locked.
    fn hold(&mut self) -> Option<usize>;

    /// Reconstructs, until it is called off.
    ///
    /// # Errors
    /// Nobody hears of them: whoever needs the weights tries again.
    fn build(&self, spares: &Arc<Spares<W::Memory>>, cancel: &AtomicBool) -> Result<W>;
}

type How<W> = Box<dyn Ahead<W>>;

/// What is wanted and not begun.
#[derive(Debug)]
pub(super) struct Queue<W> {
    /// The first come first.
    wanted: IndexMap<Key, Wanted<W>>,
    /// The thread looks into the queue again before it ends.
    has_worker: bool,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { wanted: IndexMap::new(), has_worker: false }
    }
}

/// Weights, and who wants them.
#[derive(Debug)]
pub(super) struct Wanted<W> {
    how: How<W>,
    by: Vec<Owner>,
}

impl<W: Reconstructed> Queue<W> {
    /// At the end, or one more who wants the same. Gives back what is not needed for that.
    fn push(&mut self, key: &Key, by: Owner, how: How<W>) -> Option<How<W>> {
        match self.wanted.entry(key.clone()) {
            Entry::Occupied(mut wanted) => {
                want(&mut wanted.get_mut().by, by);
                Some(how)
            }
            Entry::Vacant(place) => {
                place.insert(Wanted { how, by: vec![by] });
                None
            }
        }
    }

    /// Takes out what is needed no more, or is there already.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Wanted<W>> {
        self.wanted.shift_remove(key)
    }

    /// `by` no longer wants it: taken out, where nobody else does.
    pub(super) fn withdraw(&mut self, key: &Key, by: Owner) -> Option<Wanted<W>> {
        unwant(&mut self.wanted.get_mut(key)?.by, by).then(|| self.remove(key)).flatten()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }

    #[cfg(test)]
    pub(super) fn has_worker(&self) -> bool {
        self.has_worker
    }
}

/// One more who wants it; the same twice is one.
pub(super) fn want(wanted: &mut Vec<Owner>, by: Owner) {
    if !wanted.contains(&by) {
        wanted.push(by);
    }
}

/// One less, where it was one; whether that was the last.
pub(super) fn unwant(wanted: &mut Vec<Owner>, by: Owner) -> bool {
    let Some(place) = wanted.iter().position(|&other| other == by) else { return false };
    wanted.swap_remove(place);
    wanted.is_empty()
}

impl<W: Reconstructed + 'static> WeightsCache<W> {
    /// Has the weights of `key` reconstructed in the background, unless they are there, are wanted already, or are
    /// being reconstructed.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(in crate::weights) fn prefetch(self: &Arc<Self>, key: &Key, by: Owner, how: Box<dyn Ahead<W>>) -> Result<()> {
        self.enqueue(key, by, how, |cache| {
            let work = move || cache.work();
            std::thread::Builder::new().name("taskbasis-prefetch".into()).spawn(work).map(drop)
        })
    }

    pub(super) fn enqueue(
        self: &Arc<Self>,
        key: &Key,
        by: Owner,
        how: How<W>,
        start: impl FnOnce(Arc<Self>) -> std::io::Result<()>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        if state.contains(key) || state.join(key, by) {
            return Ok(());
        }
        let spurned = state.queue.push(key, by, how);
        // Started while the lock is held: whoever comes next must not rely on a thread that then does not start.
        let started = if state.queue.has_worker { Ok(()) } else { start(Arc::clone(self)) };
        state.queue.has_worker = started.is_ok();
        let failed = if started.is_err() { state.queue.remove(key) } else { None };
        drop(state);
        drop((spurned, failed));
        started.map_err(Error::no_thread)
    }

    /// `by` no longer wants the weights of `key`. Where nobody else does, and nobody waits for them, they are not
    /// reconstructed, or no further; whether that was so.
    pub(in crate::weights) fn cancel(&self, key: &Key, by: Owner) -> bool {
        self.change(|state| state.withdraw(key, by))
    }

    /// Until nothing is wanted.
    fn work(&self) {
        while let Some((key, how, cancel)) = self.begin_next() {
            // A panic has been reported by the panic hook, and an error is for whoever needs the weights. What is
            // wanted next has nothing to do with either.
            let build = || drop(self.fly(&key, |spares| how.build(spares, &cancel)));
            let _ = catch_unwind(AssertUnwindSafe(build));
        }
    }

    /// Begins what has been wanted for longest. `None`: nothing is wanted, and the thread is to end.
    fn begin_next(&self) -> Option<(Key, How<W>, Arc<AtomicBool>)> {
        // Dropped after the lock: a layout that goes with it takes its weights out of the cache.
        let mut passed_over = Vec::new();
        let mut state = self.state.lock();
        loop {
            let Some((key, mut wanted)) = state.queue.wanted.shift_remove_index(0) else {
                state.queue.has_worker = false;
                drop(state);
                return None;
            };
            // It may be there by now, or somebody who needs it is at it.
            let bytes = if state.contains(&key) || state.is_building(&key) { None } else { wanted.how.hold() };
            let Some(bytes) = bytes else {
                passed_over.push(wanted.how);
                continue;
            };
            let cancel: Arc<AtomicBool> = Arc::default();
            state.begin(&key, Building::ahead(wanted.by, Arc::clone(&cancel)), bytes);
            self.settle(state);
            return Some((key, wanted.how, cancel));
        }
    }
}
