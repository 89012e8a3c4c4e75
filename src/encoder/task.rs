//! Encoding with the weights of a task: on a device where they are, promoted tasks in sessions of their own.

use std::borrow::Cow;
use std::sync::Arc;

use super::device::Device;
use super::lane::Lane;
use super::promote::{self, PromotionState};
use super::session::Input;
use super::{Encoder, Promotion, graph};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{Tensor, try_zeroed};
use crate::weights::{DeviceModel, DeviceStats, Layout, Model, TaskWeights, TensorSpec};

impl Encoder {
    /// The embeddings, `[n, e]`, of `n` images with the weights of a task: from its own session where it is promoted,
    /// else as [`Encoder::encode`] with its weights, which are reconstructed or come from the cache. A task that is run
    /// often gets promoted on the way ([`Promotion`]).
    ///
    /// # Errors
    /// As [`TaskWeights::get`] and [`Encoder::encode`].
    pub fn encode_task(&self, task: &TaskWeights, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        self.check_pixels(pixels, n)?;
        let mut embeds = try_zeroed(n.saturating_mul(self.arch.embed_dim))?;
        self.encode_task_into(task, pixels, n, &mut embeds)?;
        Ok(embeds)
    }

    /// As [`Encoder::encode_task`], into memory of the caller's: `out` is `[n, e]`.
    ///
    /// # Errors
    /// As [`Encoder::encode_task`] and [`Encoder::encode_into`]. On an error `out` is as it was.
    pub fn encode_task_into(&self, task: &TaskWeights, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        self.check_pixels(pixels, n)?;
        self.check_out(n, out)?;
        self.test_once()?;
        let mut embeds = try_zeroed(out.len())?;
        self.run_task(&self.in_layout(task), pixels, n, &mut embeds)?;
        self.check_finite(&embeds, pixels, || task.why_not_finite())?;
        out.copy_from_slice(&embeds);
        Ok(())
    }

    /// One run with the weights of a task, whatever comes of it.
    fn run_task(&self, task: &TaskWeights, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        let Some(frozen) = self.promotions.find(task) else {
            if let Some(device) = &self.device {
                return self.encode_on(device, task, pixels, n, out);
            }
            // Held on to for the whole run; whatever the cache does meanwhile.
            let (weights, mut converted) = (task.get()?, None);
            self.run_inputs(&self.signature.inputs(&*weights, &mut converted)?, pixels, n, out)?;
            self.promotions.count(task);
            return Ok(());
        };
        if n == 0 {
            return Ok(());
        }
        // Not to be run, but so that never more runs are in progress than there may be.
        let turn = self.lanes.lend(|| self.lane())?;
        let run = |out: &mut [f32]| {
            self.in_runs(pixels, n, out, |pixels, out| {
                promote::run(&frozen, &self.signature, &pixels, self.arch.embed_dim, out)
            })
            .map_err(|e| self.target.explain(self.runtime, e))
        };
        let on_cpu = |pixels: &[f32], n, out: &mut [f32]| self.run_task_on_cpu(task, pixels, n, out);
        self.with_precision(frozen.is_precise(), (pixels, n), out, run, on_cpu)?;
        drop(turn);
        Ok(())
    }

    /// With weights that are reconstructed on the device, in this encoder's layout.
    fn encode_on(&self, device: &Device, task: &TaskWeights, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        // Before the weights: who waits for a turn holds no device memory.
        let mut lane = self.lanes.lend(|| self.lane())?;
        let Lane { session, device: Some(own) } = &mut *lane else {
            return Err(Error::new(ErrorKind::Internal, "a session without a stream"));
        };
        let weights = device.weights(task)?;
        let inputs = device.inputs(&self.signature, &weights)?;
        let name = self.signature.pixels.to_string_lossy();
        let run = |out: &mut [f32]| {
            self.in_runs(pixels, n, out, |pixels, out| {
                let pixels = Input { name: &name, ..pixels };
                own.run(device, (session, &self.signature), &pixels, (&weights, &inputs), out)
            })
            .map_err(|e| self.target.explain(self.runtime, e))
        };
        let on_cpu = |pixels: &[f32], n, out: &mut [f32]| self.run_task_on_cpu(task, pixels, n, out);
        self.with_precision(&self.is_precise, (pixels, n), out, run, on_cpu)
    }

    fn run_task_on_cpu(&self, task: &TaskWeights, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        let (weights, mut converted) = (task.get()?, None);
        self.run_on_cpu(&self.signature.inputs(&*weights, &mut converted)?, pixels, n, out)
    }

    /// Reconstructs the task's weights where this encoder reads them, unless they are there: the next run with them
    /// need not. On a device it returns when that is in the queue; the first task of a model brings the model there.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`], naming a parameter, for weights of another architecture; as [`TaskWeights::get`]; on a
    /// device, as [`DeviceModel::new`] and [`DeviceModel::get`].
    pub fn prepare(&self, task: &TaskWeights) -> Result<()> {
        self.check_model(task.model())?;
        let task = &*self.in_layout(task);
        match &self.device {
            Some(device) => device.weights(task).map(drop),
            None => task.get().map(drop),
        }
    }

    /// Whether the next run need not reconstruct the task's weights: they are kept where this encoder reads them, or
    /// the task is promoted. Never so for weights of another architecture. Asking brings nothing to a device.
    pub fn is_prepared(&self, task: &TaskWeights) -> bool {
        if self.check_model(task.model()).is_err() {
            return false;
        }
        let task = &*self.in_layout(task);
        let is_ready = match &self.device {
            Some(device) => device.find(task.model()).is_some_and(|model| model.is_ready(task)),
            None => task.is_ready(),
        };
        is_ready || self.is_promoted(task)
    }

    /// What a model takes on this encoder's device, and how it has done there: nothing where it is not there, or
    /// weights are in the host's memory.
    pub fn device_stats(&self, model: &Model) -> DeviceStats {
        let there = self.device.as_ref().and_then(|device| device.find(model));
        there.map_or_else(DeviceStats::default, |model| model.stats())
    }

    /// The model on this encoder's device, brought there unless it is: to pin tasks there, or to have it there in time.
    /// Encoders on one device share it, with the budget of the first. `None` where weights are in the host's memory.
    ///
    /// # Errors
    /// As [`DeviceModel::new`] and [`DeviceModel::for_layout`].
    pub fn device_model(&self, model: &Arc<Model>) -> Result<Option<Arc<DeviceModel>>> {
        self.device.as_ref().map(|device| device.model(model)).transpose()
    }

    /// How this encoder takes weights: those that the caller gets and holds are best in this layout
    /// ([`TaskWeights::in_layout`]).
    pub fn layout(&self) -> &Arc<Layout> {
        self.signature.layout()
    }

    /// Whether the weights of this model can be of this encoder's architecture: it has every parameter in its shape.
    /// Nothing is reconstructed for that. (Those of a user's graph are checked when they are laid out for it.)
    fn check_model(&self, model: &Model) -> Result<()> {
        let layout = self.signature.layout();
        if !layout.is_canonical() {
            return Ok(());
        }
        layout.tensors().iter().try_for_each(|TensorSpec { name, shape, .. }| {
            let tensor = model.base().get(name).filter(|tensor| tensor.dtype().is_float());
            graph::check_shape(name, shape, tensor.map(Tensor::shape))
        })
    }

    /// The task in this encoder's layout; what is pinned of canonical weights serves as it is.
    fn in_layout<'a>(&self, task: &'a TaskWeights) -> Cow<'a, TaskWeights> {
        if self.layout().is_canonical() { Cow::Borrowed(task) } else { Cow::Owned(task.in_layout(self.layout())) }
    }

    /// Gives the task a session with its weights frozen into it, and waits until it is there. It takes as much memory
    /// as the weights, in the budget of the model's cache, even where that memory is a GPU's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] with [`Promotion::Off`];
    /// [`ErrorKind::OutOfMemory`] where the whole budget has no room for it; as
    /// [`TaskWeights::get`]; [`ErrorKind::Runtime`] when ONNX Runtime refuses.
    pub fn promote(&self, task: &TaskWeights) -> Result<()> {
        self.promotions.start(&self.in_layout(task))?;
        self.promotions.wait(&self.in_layout(task))
    }

    /// As [`Encoder::promote`], without waiting: the session is built by a thread of low priority and takes over from
    /// one run to the next. What goes wrong shows in [`Encoder::promotion`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] with [`Promotion::Off`]; when the operating
    /// system gives no thread.
    pub fn promote_in_background(&self, task: &TaskWeights) -> Result<()> {
        self.promotions.start(&self.in_layout(task))
    }

    /// Drops the task's session, if it has one: runs take its weights as inputs again. Whether it had one.
    pub fn demote(&self, task: &TaskWeights) -> bool {
        self.promotions.demote(&self.in_layout(task))
    }

    /// How far the task has come.
    pub fn promotion(&self, task: &TaskWeights) -> PromotionState {
        self.promotions.state(&self.in_layout(task))
    }

    /// Whether the task has a session of its own now.
    pub fn is_promoted(&self, task: &TaskWeights) -> bool {
        self.promotion(task) == PromotionState::Promoted
    }

    /// Which tasks are promoted.
    pub fn promotes(&self) -> Promotion {
        self.promotions.policy()
    }
}
