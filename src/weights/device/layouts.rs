//! The layouts of graphs that tasks on a device are in: they come with the first task, and go with the last encoder
//! that runs tasks in them, or when nobody has them any more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::DeviceModel;
use super::arena::{DeviceArena, Purpose};
use super::layout::{DeviceLayout, LayoutPlan};
use crate::error::{ErrorKind, Result};
use crate::weights::layout::Layout;
use crate::weights::model::Model;

/// Those in use, by [`Layout::id`].
#[derive(Debug, Default)]
pub(super) struct Layouts {
    known: HashMap<u64, Known>,
    /// That of [`DeviceLayout`], which keep it.
    scratch: Weak<DeviceArena>,
}

#[derive(Debug)]
struct Known {
    /// Whoever encodes has it; once nobody does, no task in it can be asked for.
    of: Weak<Layout>,
    here: Arc<DeviceLayout>,
    /// No encoder runs tasks in it any more: it stays for those that are pinned.
    is_left: bool,
}

impl DeviceModel {
    /// A layout on this device: as it is there, else brought there now.
    ///
    /// # Errors
    /// What [`DeviceModel::get`] says of layouts.
    pub(super) fn layout(&self, model: &Model, layout: &Arc<Layout>) -> Result<Arc<DeviceLayout>> {
        let mut layouts = self.layouts.lock();
        self.drop_gone(&mut layouts);
        if let Some(known) = layouts.known.get_mut(&layout.id()) {
            known.is_left = false;
            return Ok(Arc::clone(&known.here));
        }
        let plan = LayoutPlan::new(model, layout)?;
        let memory = |bytes: usize| {
            self.with_room(|| DeviceArena::new(&self.inputs.device, bytes, &self.allowance, Purpose::Layout))
        };
        let scratch = match layouts.scratch.upgrade() {
            Some(scratch) => scratch,
            None => {
                let scratch = Arc::new(memory(self.inputs.arena_bytes)?);
                layouts.scratch = Arc::downgrade(&scratch);
                scratch
            }
        };
        let memory = memory(plan.nbytes())?;
        let here = Arc::new(DeviceLayout::new(layout, plan, &self.inputs, memory, &scratch)?);
        let known = Known { of: Arc::downgrade(layout), here: Arc::clone(&here), is_left: false };
        layouts.known.insert(layout.id(), known);
        self.share_what_is_left();
        Ok(here)
    }

    /// Drops what serves a layout, and the weights in it that are kept, pinned ones too. It is made again for the next
    /// task in it; what is left of a layout that is gone is dropped without this, with the next call. Weights that are
    /// in use elsewhere keep what they need.
    pub fn forget(&self, layout: &Layout) {
        self.drop_layouts(&mut self.layouts.lock(), &HashSet::from([layout.id()]));
    }

    /// [`DeviceModel::forget`], for the last encoder that ran tasks in it. What is pinned stays, and the layout with
    /// it.
    pub(super) fn leave(&self, layout: u64) {
        if let Some(known) = self.layouts.lock().known.get_mut(&layout) {
            known.is_left = true;
        }
        self.drop_left(layout);
    }

    /// Drops a layout that no encoder wants any more, unless a task in it is pinned.
    pub(super) fn drop_left(&self, layout: u64) {
        let mut layouts = self.layouts.lock();
        let is_left = layouts.known.get(&layout).is_some_and(|known| known.is_left);
        if is_left && !self.pinned.lock().keys().any(|key| key.layout == layout) {
            self.drop_layouts(&mut layouts, &HashSet::from([layout]));
        }
    }

    /// Drops what is left of layouts that are gone, unless somebody is bringing one here.
    pub(super) fn forget_gone(&self) {
        if let Some(mut layouts) = self.layouts.try_lock() {
            self.drop_gone(&mut layouts);
        }
    }

    fn drop_gone(&self, layouts: &mut Layouts) {
        let is_gone = |known: &Known| known.of.strong_count() == 0;
        let gone: HashSet<u64> = layouts.known.iter().filter(|(_, known)| is_gone(known)).map(|(&id, _)| id).collect();
        if !gone.is_empty() {
            self.drop_layouts(layouts, &gone);
        }
    }

    fn drop_layouts(&self, layouts: &mut Layouts, ids: &HashSet<u64>) {
        let gone: Vec<_> = layouts.known.extract_if(|id, _| ids.contains(id)).collect();
        // Dropped after the lock is open: their drop frees memory of the device, which waits for it.
        let pinned: Vec<_> = self.pinned.lock().extract_if(|key, _| ids.contains(&key.layout)).collect();
        self.cache.forget(|key| ids.contains(&key.layout));
        drop(pinned);
        drop(gone);
        self.share_what_is_left();
    }

    /// The cache has what layouts leave.
    fn share_what_is_left(&self) {
        self.cache.set_budget(self.allowance.limit.saturating_sub(self.allowance.layouts()));
    }

    /// Memory, for which others make room: what waits to be used again and was not taken, then weights that are kept.
    /// The cache has made room before; but memory of another size is of no use, what it dropped may live on elsewhere,
    /// and others, at work at the same time, may have taken it.
    pub(super) fn with_room<T>(&self, take: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            let error = match take() {
                Err(error) if error.kind() == ErrorKind::OutOfMemory => error,
                done => return done,
            };
            let stats = self.cache.stats();
            if stats.spare_bytes > 0 {
                self.cache.trim(stats.bytes);
            } else if stats.bytes > 0 {
                self.cache.trim(stats.bytes - 1);
            } else {
                return Err(error);
            }
        }
    }
}
