//! Weights on a GPU: ONNX Runtime's provider reads them where the kernel has written them.
//!
//! Each session runs in a stream of ours (`user_compute_stream`). So the order is one of streams: the images' copy and
//! the weights' kernel, then the run, then the embeddings' copy and whatever uses the weights' memory next. The host
//! waits for the embeddings alone. `io.rs` is what a run has for its images and embeddings,
//! `graphs.rs` records runs.

mod graphs;
mod io;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Weak};

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use parking_lot::Mutex;

pub(super) use self::io::DeviceLane;
use super::graph::{self, EncoderGraph};
use super::provider::{Provider, Target};
use super::session::{Elements, Input, OnDevice};
use super::{EncoderOptions, failed};
use crate::error::{Error, Result};
use crate::kernel::{Cuda, CudaStream};
use crate::weights::{DeviceModel, DeviceOptions, DeviceWeights, Layout, Model, Owner, TaskWeights, TensorSpec};

/// Where the weights of tasks are reconstructed, and so where the encoder reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightsOn {
    /// In the memory of the device that computes, where that can be had (`docs/gpu.md` says what it takes), else in the
    /// host's, with a warning and the reason in [`Execution`](super::Execution).
    #[default]
    Auto,
    /// In the host's memory. A GPU gets them anew in every run.
    Host,
    /// In the memory of the device that computes, or it is an error.
    Device,
}

impl WeightsOn {
    /// `auto`, `host`, `device`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Device => "device",
        }
    }
}

impl fmt::Display for WeightsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WeightsOn {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Auto, Self::Host, Self::Device];
        all.into_iter()
            .find(|place| place.name() == name)
            .ok_or_else(|| Error::invalid("no such place for weights").expected("auto, host or device").got(name))
    }
}

/// The GPU that an encoder's weights are on, and how ONNX Runtime calls its memory.
pub(super) struct Device {
    cuda: Cuda,
    memory: MemoryInfo<'static>,
    options: DeviceOptions,
    /// How the user's graph wants its weights, where it is one.
    layout: Arc<Layout>,
    /// Runs are recorded, and replayed.
    graphs: bool,
    owner: Owner,
    /// Those that were brought there for this encoder.
    models: Mutex<Vec<Weak<Model>>>,
}

impl Device {
    /// Where the weights for sessions of this target are to be, and why in the host's memory where that is not what one
    /// would expect.
    ///
    /// # Errors
    /// With [`WeightsOn::Device`], as [`Cuda::open`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for
    /// weights on a device where the CPU was asked to compute, and for CUDA graphs without CUDA or weights on the
    /// device.
    pub(super) fn choose(target: &Target, options: &EncoderOptions) -> Result<(Option<Self>, Option<String>)> {
        let can_record = matches!(options.provider, Provider::Cuda | Provider::Auto);
        if options.cuda_graphs && (!can_record || options.weights_on == WeightsOn::Host) {
            return Err(Error::unsupported("CUDA graphs need the provider `cuda`, and weights on the device"));
        }
        match options.weights_on {
            WeightsOn::Host => Ok((None, None)),
            WeightsOn::Device if target.is_cpu() && options.provider == Provider::Cpu => {
                Err(Error::unsupported("the CPU reads weights in the host's memory alone")
                    .hint("Weights on a device need a provider that computes there: cuda or tensorrt"))
            }
            // `auto` has fallen back, and told so.
            WeightsOn::Auto | WeightsOn::Device if target.is_cpu() => Ok((None, None)),
            WeightsOn::Device => Ok((Some(Self::open(target, options)?), None)),
            WeightsOn::Auto => match Self::open(target, options) {
                Ok(device) => Ok((Some(device), None)),
                Err(error) => {
                    tracing::warn!(%error, "every run copies the weights from the host: they cannot be on the device");
                    Ok((None, Some(error.to_string())))
                }
            },
        }
    }

    fn open(target: &Target, options: &EncoderOptions) -> Result<Self> {
        let cuda = Cuda::open(target.device() as usize)?;
        // `Target` has refused a larger number.
        let ordinal = i32::try_from(target.device()).unwrap_or(i32::MAX);
        let (kind, allocator) = (AllocationDevice::CUDA, AllocatorType::Device);
        let memory = MemoryInfo::new(kind, ordinal, allocator, MemoryType::Default);
        Ok(Self::on(cuda, memory.map_err(failed("cannot name the GPU's memory"))?, options))
    }

    fn on(cuda: Cuda, memory: MemoryInfo<'static>, options: &EncoderOptions) -> Self {
        let (graphs, options) = (options.cuda_graphs, DeviceOptions { budget: options.device_budget });
        Self {
            cuda,
            memory,
            options,
            layout: Layout::canonical(Vec::new()),
            graphs,
            owner: Owner::new(),
            models: Mutex::default(),
        }
    }

    /// Makes room on the device for weights as this graph wants them.
    pub(super) fn make_room_for(&mut self, signature: &EncoderGraph) {
        self.layout = Arc::clone(signature.layout());
    }

    /// The model on this device, brought there unless it is.
    ///
    /// # Errors
    /// As [`DeviceModel::new`] and [`DeviceModel::for_layout`].
    pub(super) fn model(&self, model: &Arc<Model>) -> Result<Arc<DeviceModel>> {
        let device = model.on_device(&self.cuda, &self.options, &self.layout, self.owner)?;
        let mut models = self.models.lock();
        if !models.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(model))) {
            models.retain(|known| known.strong_count() > 0);
            models.push(Arc::downgrade(model));
        }
        Ok(device)
    }

    /// The model on this device, where it is there, for this encoder or another.
    pub(super) fn find(&self, model: &Model) -> Option<Arc<DeviceModel>> {
        model.found_on(&self.cuda)
    }

    /// The weights of a task: kept ones, or in the queue now.
    ///
    /// # Errors
    /// As [`Device::model`] and [`DeviceModel::get`].
    pub(super) fn weights(&self, task: &TaskWeights) -> Result<Arc<DeviceWeights>> {
        self.model(task.model())?.get(task)
    }

    /// All parameters of the graph where they lie, checked.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, when a parameter is missing or has another
    /// shape.
    pub(super) fn inputs<'a>(
        &'a self,
        signature: &'a EncoderGraph,
        weights: &'a DeviceWeights,
    ) -> Result<Vec<Input<'a>>> {
        let tensors = signature.layout().tensors().iter();
        tensors
            .map(|TensorSpec { name, shape, .. }| {
                let tensor = weights
                    .get(name)
                    .ok_or_else(|| Error::mismatch("the weights lack a parameter of this encoder").tensor(name))?;
                graph::check_shape(name, shape, Some(tensor.shape))?;
                // SAFETY: so many values lie there as long as `weights` live, in the memory that `self` is of; a run
                // reads them after `wait_in`, and they are not overwritten before `used_in` allows it.
                let values = unsafe { OnDevice::new(tensor.address, &self.memory) };
                Ok(Input { name, shape, values: Elements::Device(tensor.dtype, values) })
            })
            .collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let models = self.models.get_mut();
        models.iter().filter_map(Weak::upgrade).for_each(|model| model.leave_devices(self.owner));
    }
}

/// Does something in a stream that reads these weights: after they are computed, and before their memory is used for
/// others.
fn in_stream<T>(weights: &DeviceWeights, stream: &CudaStream, run: impl FnOnce() -> Result<T>) -> Result<T> {
    weights.wait_in(stream)?;
    let done = run();
    // After a failure too, which may leave something at work.
    let used = weights.used_in(stream);
    let done = done?;
    used.map(|()| done)
}
