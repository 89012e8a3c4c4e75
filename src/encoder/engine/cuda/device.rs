//! The GPU that an encoder's weights are on.

use std::sync::Arc;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use parking_lot::Mutex;

use crate::encoder::graph::{self, EncoderGraph};
use crate::encoder::input::{Elements, Input, OnDevice};
use crate::encoder::options::{EncoderOptions, Provider, WeightsOn};
use crate::encoder::ort_error::failed;
use crate::encoder::provider::target::Target;
use crate::encoder::runtime::shutdown::ShutdownGuard;
use crate::error::{Error, Result};
use crate::kernel::{Cuda, CudaStream};
use crate::weights::{DeviceLease, DeviceModel, DeviceOptions, DeviceWeights, Layout, Model, TaskWeights, TensorSpec};

/// The GPU that an encoder's weights are on, and how ONNX Runtime calls its memory.
pub(in crate::encoder) struct Device {
    pub(super) cuda: Cuda,
    pub(super) memory: MemoryInfo<'static>,
    options: DeviceOptions,
    /// The layout in which the graph wants its weights.
    layout: Arc<Layout>,
    /// Runs are recorded, and replayed.
    pub(super) graphs: bool,
    /// What keeps models there for this encoder: one per model.
    leases: Mutex<Vec<DeviceLease>>,
}

impl Device {
    /// Chooses where the weights for sessions of this target are to be, and why in the host's memory where that is not
    /// what one would expect.
    ///
    /// # Errors
    /// With [`WeightsOn::Device`], as [`Cuda::open`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for
    /// weights on a device where the CPU was asked to compute, and for CUDA graphs without CUDA or weights on the
    /// device.
    pub(in crate::encoder) fn choose(
        target: &Target,
        options: &EncoderOptions,
    ) -> Result<(Option<Self>, Option<String>)> {
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
        // Dropping it frees memory, which may be done at any time.
        let _at_work = ShutdownGuard::for_session()?;
        let memory = MemoryInfo::new(kind, ordinal, allocator, MemoryType::Default);
        Ok(Self::on(cuda, memory.map_err(failed("cannot name the GPU's memory"))?, options))
    }

    pub(super) fn on(cuda: Cuda, memory: MemoryInfo<'static>, options: &EncoderOptions) -> Self {
        let (graphs, options) = (options.cuda_graphs, DeviceOptions { budget: options.device_budget });
        Self { cuda, memory, options, layout: Layout::canonical(Vec::new()), graphs, leases: Mutex::default() }
    }

    /// Makes room on the device for weights as this graph wants them.
    pub(super) fn make_room_for(&mut self, graph: &EncoderGraph) {
        self.layout = Arc::clone(graph.layout());
    }

    /// The model on this device, brought there unless it is.
    ///
    /// # Errors
    /// As [`DeviceModel::new`] and [`DeviceModel::for_layout`].
    pub(super) fn model(&self, model: &Arc<Model>) -> Result<Arc<DeviceModel>> {
        if let Some(device) = self.leased(model) {
            return Ok(device);
        }
        // Outside of the lock: other models' tasks run meanwhile.
        let lease = DeviceLease::new(model, &self.cuda, &self.options, &self.layout)?;
        let device = lease.device().ok_or_else(|| Error::invalid("the model was dropped meanwhile"))?;
        // Another thread may have one too by now, which does no harm.
        self.leases.lock().push(lease);
        Ok(device)
    }

    /// The model on this device, where this encoder has brought it there.
    fn leased(&self, model: &Arc<Model>) -> Option<Arc<DeviceModel>> {
        let mut leases = self.leases.lock();
        leases.retain(|lease| lease.device().is_some());
        leases.iter().filter_map(DeviceLease::device).find(|device| device.is_of(model))
    }

    /// The model on this device, where it is there, for this encoder or another.
    pub(super) fn find(&self, model: &Model) -> Option<Arc<DeviceModel>> {
        DeviceLease::find(model, &self.cuda)
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
        encoder_graph: &'a EncoderGraph,
        weights: &'a DeviceWeights,
    ) -> Result<Vec<Input<'a>>> {
        let tensors = encoder_graph.layout().tensors().iter();
        tensors
            .map(|TensorSpec { name, shape, .. }| {
                let tensor = weights
                    .get(name)
                    .ok_or_else(|| Error::mismatch("the weights lack a parameter of this encoder").tensor(name))?;
                graph::check_shape(name, shape, Some(tensor.shape))?;
                // SAFETY: the tensor's values lie there as long as `weights` live, in the memory that `self` is of; a
                // run reads them after `wait_in`, and they are not overwritten before `used_in` allows it.
                let values = unsafe { OnDevice::new(tensor.address, &self.memory) };
                Ok(Input { name, shape, values: Elements::Device(tensor.dtype, values) })
            })
            .collect()
    }
}

/// Does something in a stream that reads these weights: after they are computed, and before their memory is used for
/// others.
pub(super) fn in_stream<T>(weights: &DeviceWeights, stream: &CudaStream, run: impl FnOnce() -> Result<T>) -> Result<T> {
    weights.wait_in(stream)?;
    let done = run();
    // After a failure too, which may leave something at work.
    let used = weights.used_in(stream);
    let done = done?;
    used.map(|()| done)
}
