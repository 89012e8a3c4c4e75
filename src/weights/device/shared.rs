//! A model that is on a device once, however many encoders run its tasks there.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{DeviceModel, DeviceOptions};
use crate::error::Result;
use crate::kernel::Cuda;
use crate::weights::cache::Owner;
use crate::weights::layout::Layout;
use crate::weights::model::Model;

/// On which devices a model is, and for whom. It goes from a device with the last one who wants it there, or with the
/// model.
#[derive(Debug, Default)]
pub(in crate::weights) struct OnDevices(Mutex<Vec<Shared>>);

#[derive(Debug)]
struct Shared {
    device: Arc<DeviceModel>,
    /// With the layouts that they run tasks in.
    owners: Vec<(Owner, u64)>,
}

impl Model {
    /// This model on a device, for `owner`: as it is there for others, else brought there now, which others wait for,
    /// with room for tasks in `layout`.
    ///
    /// # Errors
    /// As [`DeviceModel::new`] and [`DeviceModel::for_layout`].
    pub(crate) fn on_device(
        self: &Arc<Self>,
        cuda: &Cuda,
        options: &DeviceOptions,
        layout: &Arc<Layout>,
        owner: Owner,
    ) -> Result<Arc<DeviceModel>> {
        let mut all = self.on_devices().0.lock();
        let owner = (owner, layout.id());
        if let Some(here) = all.iter_mut().find(|shared| shared.device.cuda().is_same(cuda)) {
            if !here.owners.contains(&owner) {
                here.owners.push(owner);
            }
            return Ok(Arc::clone(&here.device));
        }
        let device = if layout.is_canonical() {
            DeviceModel::new(self, cuda, options)?
        } else {
            DeviceModel::for_layout(self, cuda, options, layout)?
        };
        all.push(Shared { device: Arc::clone(&device), owners: vec![owner] });
        Ok(device)
    }

    /// This model on a device, where it is there for somebody.
    pub(crate) fn found_on(&self, cuda: &Cuda) -> Option<Arc<DeviceModel>> {
        let all = self.on_devices().0.lock();
        all.iter().find(|shared| shared.device.cuda().is_same(cuda)).map(|shared| Arc::clone(&shared.device))
    }

    /// Says that `owner` wants it on no device any more, nor what serves its layout, if it was the last in that.
    pub(crate) fn leave_devices(&self, owner: Owner) {
        let mut all = self.on_devices().0.lock();
        for shared in all.iter_mut() {
            let left: Vec<_> = shared.owners.extract_if(.., |(other, _)| *other == owner).collect();
            for (_, layout) in left {
                // Here, where nobody can come for it meanwhile.
                if !shared.owners.iter().any(|(_, other)| *other == layout) {
                    shared.device.leave(layout);
                }
            }
        }
        let gone: Vec<_> = all.extract_if(.., |shared| shared.owners.is_empty()).collect();
        // Freeing waits for the device.
        drop(all);
        drop(gone);
    }
}
