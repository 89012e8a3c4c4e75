//! Weights that are wanted before they are used: one thread per cache reconstructs them, one after the other.
//!
//! A reconstruction takes every thread it may have, so that two at once would take twice the memory and end no sooner.

use std::collections::HashMap;
use std::sync::Arc;

use super::item::{Key, Owner, Reconstructed};
use crate::background::{JobId, Priority, Worker};
use crate::error::Result;
use crate::sync::atomic::AtomicBool;
use crate::weights::arena::BufferPool;

/// A reconstruction that no caller waits for.
pub(in crate::weights) trait PrefetchJob<W: Reconstructed>: std::fmt::Debug + Send {
    /// Holds on to what the reconstruction needs, until `self` is dropped; the bytes that the weights will take. `None`
    /// where it is gone, and with it everything that could ask for them. Called while the cache is locked.
    fn hold(&mut self) -> Option<usize>;

    /// Reconstructs, until it is called off.
    ///
    /// # Errors
    /// Not reported: a caller who needs the weights tries again.
    fn build(&self, spares: &Arc<BufferPool<W::Memory>>, cancel: &AtomicBool) -> Result<W>;
}

/// The weights that are wanted and not begun.
#[derive(Debug)]
pub(super) struct PrefetchQueue<W> {
    wanted: HashMap<Key, Wanted<W>>,
    worker: Worker,
}

#[derive(Debug)]
pub(super) struct Wanted<W> {
    pub(super) job: Box<dyn PrefetchJob<W>>,
    pub(super) by: Vec<Owner>,
    turn: JobId,
}

impl<W> Default for PrefetchQueue<W> {
    fn default() -> Self {
        Self { wanted: HashMap::new(), worker: Worker::new("taskbasis-prefetch", Priority::Inherited) }
    }
}

impl<W: Reconstructed> PrefetchQueue<W> {
    /// Puts weights at the end; `on_turn` is then called by the worker's thread, unless they are removed before.
    ///
    /// # Errors
    /// When the operating system gives no thread; nothing is wanted then.
    pub(super) fn push(
        &mut self,
        key: &Key,
        by: Owner,
        job: Box<dyn PrefetchJob<W>>,
        on_turn: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let turn = self.worker.submit(on_turn)?;
        self.wanted.insert(key.clone(), Wanted { job, by: vec![by], turn });
        Ok(())
    }

    /// Notes another owner that wants weights in the queue; tells whether they are there.
    pub(super) fn join(&mut self, key: &Key, by: Owner) -> bool {
        let Some(wanted) = self.wanted.get_mut(key) else { return false };
        want(&mut wanted.by, by);
        true
    }

    /// Takes out what is needed no more, is there already, or has its turn.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Wanted<W>> {
        let wanted = self.wanted.remove(key)?;
        self.worker.cancel(wanted.turn);
        Some(wanted)
    }

    /// Notes that an owner wants weights no longer; tells whether that took them out of the queue.
    pub(super) fn withdraw(&mut self, key: &Key, by: Owner) -> bool {
        let is_last = self.wanted.get_mut(key).is_some_and(|wanted| unwant(&mut wanted.by, by));
        is_last && self.remove(key).is_some()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }

    #[cfg(test)]
    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }
}

/// Adds an owner, once.
pub(super) fn want(wanted: &mut Vec<Owner>, by: Owner) {
    if !wanted.contains(&by) {
        wanted.push(by);
    }
}

/// Removes an owner; whether it was the last.
pub(super) fn unwant(wanted: &mut Vec<Owner>, by: Owner) -> bool {
    let Some(place) = wanted.iter().position(|&other| other == by) else { return false };
    wanted.swap_remove(place);
    wanted.is_empty()
}
