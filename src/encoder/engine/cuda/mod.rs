//! All weights of a task on a GPU: ONNX Runtime's provider reads them where the kernel has written them.
//!
//! Each session runs in a stream of ours (`user_compute_stream`). So the order is one of streams: the images' copy and
//! the weights' kernel, then the run, then the embeddings' copy and whatever uses the weights' memory next. The host
//! waits for the embeddings alone.

pub(in crate::encoder) mod device;
mod graphs;
mod slot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::device::Device;
use self::slot::SessionSlot;
use super::feed::Feed;
use super::{Engine, Images, RunWeights};
use crate::encoder::pool::{Pool, Turns};
use crate::encoder::session::SessionSetup;
use crate::error::Result;
use crate::weights::{DeviceModel, DeviceStats, Model, TaskWeights};

/// Runs the graph with weights that are reconstructed in the memory of the device.
pub(in crate::encoder) struct DeviceEngine {
    feed: Arc<Feed>,
    setup: SessionSetup,
    /// The sessions, before the device: dropped first.
    slots: Pool<SessionSlot>,
    device: Device,
}

impl DeviceEngine {
    /// An engine with its first session.
    ///
    /// # Errors
    /// As [`SessionSetup::open`]; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) where there is no stream to be had.
    pub(in crate::encoder) fn new(
        feed: &Arc<Feed>,
        setup: &SessionSetup,
        turns: &Arc<Turns>,
        mut device: Device,
    ) -> Result<Self> {
        device.make_room_for(&feed.graph);
        let slots = Pool::new(SessionSlot::open(feed, setup, &device)?, Arc::clone(turns));
        Ok(Self { feed: Arc::clone(feed), setup: setup.clone(), slots, device })
    }

    fn open(&self) -> Result<SessionSlot> {
        SessionSlot::open(&self.feed, &self.setup, &self.device)
    }
}

impl Engine for DeviceEngine {
    /// Weights of the caller's are copied there in every run.
    fn run(&self, images: Images<'_>, weights: RunWeights<'_>, out: &mut [f32]) -> Result<()> {
        let Self { feed, device, .. } = self;
        match weights {
            RunWeights::Given(weights) => {
                let mut converted = None;
                let inputs = feed.graph.inputs(weights, &mut converted)?;
                let slot = self.slots.lend(|| self.open())?;
                feed.run(slot.session(), &inputs, slot.without_graph()?.as_ref(), images, out)
            }
            RunWeights::Task(task) => {
                // Before the weights: a run that waits for its turn holds no device memory.
                let mut slot = self.slots.lend(|| self.open())?;
                let weights = device.weights(task)?;
                let inputs = device.inputs(&feed.graph, &weights)?;
                feed.each(images, out, |pixels, out| slot.run(device, &feed.graph, &pixels, &weights, &inputs, out))
            }
        }
    }

    /// Returns when that is in the queue; the first task of a model brings the model there.
    fn prepare(&self, task: &TaskWeights) -> Result<()> {
        self.device.weights(task).map(drop)
    }

    fn is_prepared(&self, task: &TaskWeights) -> bool {
        self.device.find(task.model()).is_some_and(|model| model.is_ready(task))
    }

    fn device_model(&self, model: &Arc<Model>) -> Result<Option<Arc<DeviceModel>>> {
        self.device.model(model).map(Some)
    }

    fn device_stats(&self, model: &Model) -> DeviceStats {
        self.device.find(model).map_or_else(DeviceStats::default, |model| model.stats())
    }

    fn nodes(&self) -> Result<Vec<(String, usize)>> {
        self.slots.lend(|| self.open())?.session().nodes()
    }

    fn sessions(&self) -> usize {
        self.slots.made()
    }

    fn trim(&self) {
        self.slots.trim();
    }
}
