//! The weights of tasks that are kept on a device, and the layouts that they are in, within one budget.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::arena::{Allowance, DeviceArena, Purpose};
use super::inputs::Inputs;
use super::layout::{DeviceRelayout, RelayoutPlan};
use super::weights::DeviceWeights;
use crate::error::{ErrorKind, Result};
use crate::weights::arena::BufferPool;
use crate::weights::cache::{Holder, Keeper, Key, WeightsCache};
use crate::weights::layout::Layout;
use crate::weights::model::Model;

/// The cache of what is kept on a device beside base and basis.
#[derive(Debug)]
pub(super) struct DeviceCache {
    /// The cache, before the inputs as everything here: what it keeps is freed first.
    pub(super) weights: WeightsCache<DeviceWeights>,
    pinned: Mutex<HashMap<Key, Arc<DeviceWeights>>>,
    layouts: Mutex<LayoutRegistry>,
    pub(super) allowance: Arc<Allowance>,
    inputs: Arc<Inputs>,
}

/// The layouts in use, by [`Layout::id`]. The canonical one is none of them: it takes nothing.
#[derive(Debug, Default)]
struct LayoutRegistry {
    registered: HashMap<u64, RegisteredLayout>,
    /// The scratch memory of all [`DeviceRelayout`]s, which keep it.
    scratch: Weak<DeviceArena>,
}

#[derive(Debug)]
struct RegisteredLayout {
    on_device: Arc<DeviceRelayout>,
    /// The last lease has been released: it stays for the weights that are pinned.
    unreferenced: bool,
}

impl DeviceCache {
    /// An empty cache with this many bytes for weights and layouts.
    pub(super) fn new(inputs: &Arc<Inputs>, budget: usize) -> Arc<Self> {
        Arc::new(Self {
            weights: WeightsCache::with_budget(budget),
            pinned: Mutex::default(),
            layouts: Mutex::default(),
            allowance: Allowance::new(budget),
            inputs: Arc::clone(inputs),
        })
    }

    /// A layout on the device: as it is there, else brought there now. It stays until it is forgotten, or dropped
    /// everywhere.
    ///
    /// # Errors
    /// What [`DeviceModel::get`](super::DeviceModel::get) says of layouts.
    pub(super) fn layout(self: &Arc<Self>, model: &Model, layout: &Arc<Layout>) -> Result<Arc<DeviceRelayout>> {
        let mut layouts = self.layouts.lock();
        if let Some(known) = layouts.registered.get_mut(&layout.id()) {
            known.unreferenced = false;
            return Ok(Arc::clone(&known.on_device));
        }
        let plan = RelayoutPlan::new(model, layout)?;
        let scratch = match layouts.scratch.upgrade() {
            Some(scratch) => scratch,
            None => {
                let scratch = Arc::new(self.arena(self.inputs.arena_bytes, Purpose::Layout, None)?);
                layouts.scratch = Arc::downgrade(&scratch);
                scratch
            }
        };
        let memory = self.arena(plan.bytes().shared, Purpose::Layout, None)?;
        let on_device = Arc::new(DeviceRelayout::new(layout, plan, &self.inputs, memory, &scratch)?);
        let registered = RegisteredLayout { on_device: Arc::clone(&on_device), unreferenced: false };
        layouts.registered.insert(layout.id(), registered);
        layout.register_cache(self);
        self.rebalance();
        Ok(on_device)
    }

    /// Holds on to weights; gives those that are held under this key.
    pub(super) fn pin(&self, key: &Key, weights: Arc<DeviceWeights>) -> Arc<DeviceWeights> {
        Arc::clone(self.pinned.lock().entry(key.clone()).or_insert(weights))
    }

    /// Lets go of pinned weights; whether there were any.
    pub(super) fn unpin(&self, key: &Key) -> bool {
        let Some(pinned) = self.pinned.lock().remove(key) else { return false };
        drop(pinned);
        self.evict_unreferenced(key.layout);
        true
    }

    /// Takes note that the last lease of a layout is gone: what serves it goes now, or with the last pinned weights in
    /// it.
    pub(super) fn release(&self, layout: u64) {
        if let Some(known) = self.layouts.lock().registered.get_mut(&layout) {
            known.unreferenced = true;
        }
        self.evict_unreferenced(layout);
    }

    /// Drops what serves a layout, and the weights in it, pinned ones too. Weights in use elsewhere keep what they
    /// need.
    pub(super) fn forget(&self, layout: u64) {
        self.evict(&mut self.layouts.lock(), layout);
    }

    fn evict_unreferenced(&self, layout: u64) {
        let mut layouts = self.layouts.lock();
        let unreferenced = layouts.registered.get(&layout).is_some_and(|known| known.unreferenced);
        if unreferenced && !self.pinned.lock().keys().any(|key| key.layout == layout) {
            self.evict(&mut layouts, layout);
        }
    }

    fn evict(&self, layouts: &mut LayoutRegistry, layout: u64) {
        let gone = layouts.registered.remove(&layout);
        // Dropped after the lock is open: their drop frees memory of the device, which waits for it.
        let pinned: Vec<_> = self.pinned.lock().extract_if(|key, _| key.layout == layout).collect();
        self.weights.forget(|key| key.layout == layout);
        drop(pinned);
        drop(gone);
        self.rebalance();
    }

    /// Gives weights what layouts leave. What serves a layout may go later than the layout, with weights in use.
    pub(super) fn rebalance(&self) {
        let left = self.allowance.limit.saturating_sub(self.allowance.layouts());
        if self.weights.stats().budget != left {
            self.weights.set_budget(left);
        }
    }

    /// Memory, of `spares` or fresh, for which others make room: what waits to be used again and was not taken, then
    /// weights that are kept. The cache has made room before; but memory of another size is of no use, what it dropped
    /// may live on elsewhere, and other threads, at work at the same time, may have taken it.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] where weights in use leave too little.
    pub(super) fn arena(
        &self,
        bytes: usize,
        purpose: Purpose,
        spares: Option<&BufferPool<DeviceArena>>,
    ) -> Result<DeviceArena> {
        loop {
            if let Some(spare) = spares.and_then(|spares| spares.take(bytes)) {
                return Ok(spare);
            }
            let error = match DeviceArena::new(&self.inputs.device, bytes, &self.allowance, purpose) {
                Err(error) if error.kind() == ErrorKind::OutOfMemory => error,
                done => return done,
            };
            let stats = self.weights.stats();
            if stats.spare_bytes > 0 {
                self.weights.trim(stats.bytes);
            } else if stats.bytes > 0 {
                self.weights.trim(stats.bytes - 1);
            } else {
                return Err(error);
            }
        }
    }
}

impl Keeper for DeviceCache {
    fn forget_holder(&self, holder: Holder) {
        // Nothing is promoted here.
        if let Holder::Layout(layout) = holder {
            self.forget(layout);
        }
    }
}
