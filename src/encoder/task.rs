//! Encoding with the weights of a task: made ready, promoted, demoted.

use std::borrow::Cow;
use std::sync::Arc;

use super::engine::RunWeights;
use super::engine::blockwise;
use super::graph;
use super::image::Encoder;
use super::options::{Promotion, Residency};
use super::promote::PromotionState;
use crate::error::Result;
use crate::tensor::Tensor;
use crate::weights::{DeviceModel, DeviceStats, Layout, Model, TaskWeights, TensorSpec};

impl Encoder {
    /// The embeddings, `[n, e]`, of `n` images with the weights of a task: from its own session where it is promoted,
    /// else as [`Encoder::encode`] with its weights, which are reconstructed or come from the cache. With a user's
    /// graph a task that is run often gets promoted on the way ([`Promotion`]).
    ///
    /// # Errors
    /// As [`TaskWeights::get`] and [`Encoder::encode`].
    pub fn encode_task(&self, task: &TaskWeights, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        self.embeds(RunWeights::Task(&self.in_layout(task)), pixels, n)
    }

    /// Encodes with a task's weights into memory of the caller's: `out` is `[n, e]`.
    ///
    /// # Errors
    /// As [`Encoder::encode_task`] and [`Encoder::encode_into`]. On an error `out` is as it was.
    pub fn encode_task_into(&self, task: &TaskWeights, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        self.embeds_into(RunWeights::Task(&self.in_layout(task)), pixels, n, out)
    }

    /// Reconstructs the task's weights where this encoder reads them, unless they are there: the next run with them
    /// need not. On a device it returns when that is in the queue; the first task of a model brings the model there.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming a parameter, for weights of another architecture;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with [`Residency::Blockwise`]; as [`TaskWeights::get`]; on a
    /// device, as [`DeviceModel::new`] and [`DeviceModel::get`].
    pub fn prepare(&self, task: &TaskWeights) -> Result<()> {
        self.check_model(task.model())?;
        self.engine.prepare(&self.in_layout(task))
    }

    /// Whether the next run need not reconstruct the task's weights: they are kept where this encoder reads them, or
    /// the task is promoted. Never so for weights of another architecture. Asking brings nothing to a device.
    pub fn is_prepared(&self, task: &TaskWeights) -> bool {
        self.check_model(task.model()).is_ok()
            && (self.engine.is_prepared(&self.in_layout(task)) || self.is_promoted(task))
    }

    /// The statistics of a model on this encoder's device: nothing where it is not there, or
    /// weights are in the host's memory.
    pub fn device_stats(&self, model: &Model) -> DeviceStats {
        self.engine.device_stats(model)
    }

    /// The model on this encoder's device, brought there unless it is: to pin tasks there, or to have it there in time.
    /// Encoders on one device share it, with the budget of the first. `None` where weights are in the host's memory.
    ///
    /// # Errors
    /// As [`DeviceModel::new`] and [`DeviceModel::for_layout`].
    pub fn device_model(&self, model: &Arc<Model>) -> Result<Option<Arc<DeviceModel>>> {
        self.engine.device_model(model)
    }

    /// The layout in which this encoder takes weights: those that the caller gets and holds are best in this layout
    /// ([`TaskWeights::in_layout`]).
    pub fn layout(&self) -> &Arc<Layout> {
        self.feed.graph.layout()
    }

    /// Whether the weights of this model can be of this encoder's architecture: it has every parameter in its shape.
    /// Nothing is reconstructed for that. (Those of a user's graph are checked when they are laid out for it.)
    pub(super) fn check_model(&self, model: &Model) -> Result<()> {
        if self.graph().is_some() {
            return Ok(());
        }
        self.layout().tensors().iter().try_for_each(|TensorSpec { name, shape, .. }| {
            let tensor = model.base().get(name).filter(|tensor| tensor.dtype().is_float());
            graph::check_shape(name, shape, tensor.map(Tensor::shape))
        })
    }

    /// The task in this encoder's layout; what is pinned of canonical weights serves as it is.
    pub(super) fn in_layout<'a>(&self, task: &'a TaskWeights) -> Cow<'a, TaskWeights> {
        if self.layout().is_canonical() {
            return Cow::Borrowed(task);
        }
        task.model().prefer(self.layout());
        Cow::Owned(task.in_layout(self.layout()))
    }

    /// Gives the task a session with its weights frozen into it, and waits until it is there. It takes as much memory
    /// as the weights, in the budget of the model's cache, even where that memory is a GPU's. Where it would gain
    /// nothing, as the encoder takes weights packed ([`PromotionState::Unneeded`]), nothing is done.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) with [`Promotion::Off`];
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with [`Residency::Blockwise`];
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) where the whole budget has no room for it; as
    /// [`TaskWeights::get`]; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) when ONNX Runtime refuses.
    pub fn promote(&self, task: &TaskWeights) -> Result<()> {
        self.promote_in_background(task)?;
        if self.feed.graph.takes_packed() {
            return Ok(());
        }
        self.promotions.wait(&self.in_layout(task))
    }

    /// Promotes the task without waiting: the session is built by a thread of low priority and takes over from
    /// one run to the next. What goes wrong shows in [`Encoder::promotion`].
    ///
    /// # Errors
    /// As [`Encoder::promote`], of what can be told at once; when the operating system gives no thread.
    pub fn promote_in_background(&self, task: &TaskWeights) -> Result<()> {
        if self.residency == Residency::Blockwise {
            return Err(blockwise::never_whole());
        }
        if self.feed.graph.takes_packed() {
            tracing::debug!(task = task.name(), "not promoted: packed weights gain nothing from it");
            return self.check_model(task.model());
        }
        self.promotions.start(&self.in_layout(task))
    }

    /// Drops the task's session, if it has one: runs take its weights as inputs again. Whether it had one.
    pub fn demote(&self, task: &TaskWeights) -> bool {
        self.promotions.demote(&self.in_layout(task))
    }

    /// The stage of the task's promotion.
    pub fn promotion(&self, task: &TaskWeights) -> PromotionState {
        if self.feed.graph.takes_packed() {
            return PromotionState::Unneeded;
        }
        self.promotions.state(&self.in_layout(task))
    }

    /// Whether the task has a session of its own now.
    pub fn is_promoted(&self, task: &TaskWeights) -> bool {
        self.promotion(task) == PromotionState::Promoted
    }

    /// The tasks that are promoted.
    pub fn promotes(&self) -> Promotion {
        self.promotions.policy()
    }
}
