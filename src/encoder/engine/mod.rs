//! Engines, which execute the runs of an encoder. One file per way of doing it, of which an encoder has one: all
//! weights in the host's memory ([`host`]), all on a GPU ([`cuda`]), or a block at a time ([`blockwise`]). A promoted
//! task runs in a session of its own ([`promoted`]).

pub(super) mod blockwise;
pub(super) mod cuda;
pub(super) mod feed;
pub(super) mod host;
pub(super) mod promoted;

use std::sync::Arc;

use super::weight_source::WeightSource;
use crate::error::Result;
use crate::weights::{DeviceModel, DeviceStats, Model, TaskWeights};

/// Preprocessed images, f32 `[n, 3, S, S]`; at least one.
#[derive(Clone, Copy)]
pub(super) struct Images<'a> {
    pub(super) pixels: &'a [f32],
    pub(super) n: usize,
}

/// The weights that a run is asked for.
#[derive(Clone, Copy)]
pub(super) enum RunWeights<'a> {
    /// Values of the caller's, read where they are.
    Given(&'a dyn WeightSource),
    /// A task's, in the layout of the graph, which the engine brings to where it reads them.
    Task(&'a TaskWeights),
}

impl RunWeights<'_> {
    /// Calls `read` with all of them in the host's memory, where they stay meanwhile, whatever the cache does.
    ///
    /// # Errors
    /// As [`TaskWeights::get`], and what `read` says.
    pub(super) fn on_host<T>(self, read: impl FnOnce(&dyn WeightSource) -> Result<T>) -> Result<T> {
        match self {
            Self::Given(weights) => read(weights),
            Self::Task(task) => read(&*task.get()?),
        }
    }
}

/// A way of executing runs.
pub(super) trait Engine: Send + Sync {
    /// Runs the graph on images with these weights and writes the embeddings, f32 `[n, e]`, to `out`. It waits until no
    /// more runs are in progress than the encoder's options allow.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, when a parameter is missing or has another shape;
    /// those of bringing the weights to where they are read; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) when the
    /// run fails; [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory). On an error `out` may have been written to
    /// in part.
    fn run(&self, images: Images<'_>, weights: RunWeights<'_>, out: &mut [f32]) -> Result<()>;

    /// Reconstructs a task's weights where runs read them, unless they are there.
    ///
    /// # Errors
    /// As [`TaskWeights::get`], or as [`DeviceModel::get`].
    fn prepare(&self, task: &TaskWeights) -> Result<()> {
        task.get().map(drop)
    }

    /// Whether a task's weights are where runs read them.
    fn is_prepared(&self, task: &TaskWeights) -> bool {
        task.is_ready()
    }

    /// The model in the memory of a device, brought there unless it is; `None` where weights are in the host's.
    ///
    /// # Errors
    /// As [`DeviceModel::new`] and [`DeviceModel::for_layout`].
    fn device_model(&self, _: &Arc<Model>) -> Result<Option<Arc<DeviceModel>>> {
        Ok(None)
    }

    /// The statistics of a model in the memory of a device.
    fn device_stats(&self, _: &Model) -> DeviceStats {
        DeviceStats::default()
    }

    /// The number of graph nodes that each of ONNX Runtime's providers has got, where that is not all of them on the
    /// CPU.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    fn nodes(&self) -> Result<Vec<(String, usize)>> {
        Ok(Vec::new())
    }

    /// The number of runs that there are sessions for, idle ones included.
    fn sessions(&self) -> usize;

    /// Closes idle sessions.
    fn trim(&self);
}
