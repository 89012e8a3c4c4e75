//! A model on its devices: once on each, however many encoders run its tasks there, while a lease keeps it.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::model::{DeviceModel, DeviceOptions};
use crate::error::Result;
use crate::kernel::Cuda;
use crate::weights::layout::Layout;
use crate::weights::model::Model;

/// The devices that one model is on. The model owns it, so that all of them go with the model.
#[derive(Debug, Default)]
struct DeviceRegistry(Mutex<Vec<LeasedDevice>>);

#[derive(Debug)]
struct LeasedDevice {
    device: Arc<DeviceModel>,
    /// The [`Layout::id`] of every lease.
    layouts: Vec<u64>,
}

impl DeviceRegistry {
    fn of(model: &Model) -> Arc<Self> {
        let registry = Arc::clone(model.devices.get_or_init(|| Arc::new(Self::default())));
        registry.downcast().expect("only this function fills the model's slot")
    }
}

/// Keeps a model on a device, and there what serves the tasks of one layout, while it lives or until the model is
/// dropped.
#[derive(Debug)]
pub(crate) struct DeviceLease {
    registry: Weak<DeviceRegistry>,
    device: Weak<DeviceModel>,
    layout: u64,
}

impl DeviceLease {
    /// A lease of the model on this device: where another one has it there, the same; else it is brought there now,
    /// with room for tasks in `layout`, and other threads that want it there wait.
    ///
    /// # Errors
    /// Those of [`DeviceModel::for_layout`].
    pub(crate) fn new(model: &Arc<Model>, cuda: &Cuda, options: &DeviceOptions, layout: &Arc<Layout>) -> Result<Self> {
        let registry = DeviceRegistry::of(model);
        let mut all = registry.0.lock();
        let at = match all.iter().position(|leased| leased.device.cuda().is_same(cuda)) {
            Some(at) => at,
            None => {
                let device = DeviceModel::for_layout(model, cuda, options, layout)?;
                all.push(LeasedDevice { device, layouts: Vec::new() });
                all.len() - 1
            }
        };
        all[at].layouts.push(layout.id());
        let device = Arc::downgrade(&all[at].device);
        Ok(Self { registry: Arc::downgrade(&registry), device, layout: layout.id() })
    }

    /// The model on the device; `None` once the model is dropped.
    pub(crate) fn device(&self) -> Option<Arc<DeviceModel>> {
        self.device.upgrade()
    }

    /// The model on this device, where any lease keeps it there.
    pub(crate) fn find(model: &Model, cuda: &Cuda) -> Option<Arc<DeviceModel>> {
        let registry = DeviceRegistry::of(model);
        let all = registry.0.lock();
        all.iter().find(|leased| leased.device.cuda().is_same(cuda)).map(|leased| Arc::clone(&leased.device))
    }
}

impl Drop for DeviceLease {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let mut all = registry.0.lock();
        let Some(at) = all.iter().position(|leased| std::ptr::eq(Arc::as_ptr(&leased.device), self.device.as_ptr()))
        else {
            return;
        };
        let layouts = &mut all[at].layouts;
        if let Some(own) = layouts.iter().position(|layout| *layout == self.layout) {
            layouts.swap_remove(own);
        }
        if layouts.is_empty() {
            let gone = all.swap_remove(at);
            // Freeing waits for the device.
            drop(all);
            drop(gone);
        } else if !layouts.contains(&self.layout) {
            // Under the lock, so that no new lease comes for the layout meanwhile.
            all[at].device.release(self.layout);
        }
    }
}
