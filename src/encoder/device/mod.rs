//! An encoder on a GPU whose weights are there already: ONNX Runtime's CUDA provider reads them where the kernel has
//! written them.
//!
//! Each session runs in a stream of ours (`user_compute_stream`). So the order is one of streams: the weights' kernel,
//! then the run, then whatever uses the weights' memory next; the host waits for the embeddings alone.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;

use super::pool::Pool;
use super::provider::{self, Execution, Provider, Target};
use super::runtime::Runtime;
use super::session::{self, Elements, Input, OnDevice};
use super::signature::Signature;
use super::{EncoderOptions, check_pixels, failed};
use crate::clip::arch::Arch;
use crate::error::{Error, Result};
use crate::kernel::CudaStream;
use crate::tensor::try_zeroed;
use crate::weights::{DeviceModel, DeviceWeights, TaskWeights};

/// The image encoder over weights in device memory. Images come from the host's memory, embeddings go there; nothing
/// of the weights does. Shareable between threads.
///
/// ```no_run
/// # fn run(arch: &taskbasis::Arch, model: &std::sync::Arc<taskbasis::Model>, pixels: &[f32]) -> taskbasis::Result<()> {
/// use taskbasis::{Cuda, DeviceEncoder, DeviceModel, DeviceOptions, EncoderOptions};
///
/// let device = DeviceModel::new(model, &Cuda::open(0)?, &DeviceOptions::default())?;
/// let encoder = DeviceEncoder::new(arch, &device, &EncoderOptions::default())?;
/// let embeds = encoder.encode(&model.weights(&"MNIST@0.3".parse()?)?, pixels, 8)?; // eight images
/// # Ok(())
/// # }
/// ```
pub struct DeviceEncoder {
    arch: Arch,
    signature: Signature,
    device: Arc<DeviceModel>,
    place: Place,
    runtime: &'static Runtime,
    threads: usize,
    execution: Execution,
    lanes: Pool<Lane>,
}

/// What computes, and how ONNX Runtime calls the memory in which the weights lie.
struct Place {
    target: Target,
    memory: MemoryInfo<'static>,
}

impl Place {
    /// The CUDA provider on the model's GPU.
    fn of(runtime: &Runtime, device: &DeviceModel, options: &EncoderOptions) -> Result<Self> {
        let ordinal = device.cuda().ordinal();
        let (target, _) = provider::choose(runtime, Provider::Cuda, ordinal, &options.tensorrt)?;
        let (kind, allocator) = (AllocationDevice::CUDA, AllocatorType::Device);
        // `choose` has refused a larger number.
        let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let memory = MemoryInfo::new(kind, ordinal, allocator, MemoryType::Default);
        Ok(Self { target, memory: memory.map_err(failed("cannot name the GPU's memory"))? })
    }
}

/// A session, and the stream that it runs in.
struct Lane {
    /// Before the stream: dropped first.
    session: Session,
    stream: CudaStream,
}

impl Lane {
    fn open(
        runtime: &Runtime,
        signature: &Signature,
        device: &DeviceModel,
        threads: usize,
        target: &Target,
    ) -> Result<Self> {
        let stream = device.cuda().stream()?;
        // SAFETY: the stream is kept beside the session, and dropped after it.
        let target = unsafe { target.in_stream(stream.as_raw()) };
        let level = session::level(signature.is_users());
        Ok(Self { session: session::create(runtime, &signature.model, threads, level, &target)?, stream })
    }
}

impl DeviceEncoder {
    /// Builds the graph of `arch` and opens a session over it, for the CUDA provider on the GPU that `device` is on. Of
    /// the options, `runtime`, `concurrency` and `threads` (for what is left to the CPU) apply.
    ///
    /// ONNX Runtime computes in device memory beside the budget of `device`, which must leave room for it.
    ///
    /// # Errors
    /// As [`Runtime::load`], [`Runtime::check_provider`] for CUDA, and [`Arch::check`];
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for thousands of threads;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn new(arch: &Arch, device: &Arc<DeviceModel>, options: &EncoderOptions) -> Result<Self> {
        let runtime = Runtime::load(options.runtime.as_deref())?;
        Self::at(Place::of(runtime, device, options)?, arch, device, options)
    }

    fn at(place: Place, arch: &Arch, device: &Arc<DeviceModel>, options: &EncoderOptions) -> Result<Self> {
        let (threads, concurrency) = options.threads_a_run()?;
        let runtime = Runtime::load(options.runtime.as_deref())?;
        let signature = Signature::built(arch)?;
        let first = Lane::open(runtime, &signature, device, threads, &place.target)?;
        let (provider, ordinal) = (place.target.provider(), place.target.device());
        let nodes = place.target.nodes(&first.session)?;
        tracing::info!(provider = provider.name(), device = ordinal, "encoder over device weights");
        Ok(Self {
            arch: arch.clone(),
            signature,
            device: Arc::clone(device),
            place,
            runtime,
            threads,
            execution: Execution { provider, device: ordinal, fallback: None, nodes },
            lanes: Pool::new(first, concurrency),
        })
    }

    /// The embeddings, `[n, e]`, of `n` images, preprocessed, f32 `[n, 3, S, S]`, with the weights of a task; not
    /// normalised. The weights are reconstructed on the device unless they are there. No images give no embeddings.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when `pixels` is not `n` images; as
    /// [`DeviceModel::get`]; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, when a parameter is missing
    /// or has another shape; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) when the run fails.
    pub fn encode(&self, task: &TaskWeights, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        check_pixels(&self.arch, pixels, n)?;
        let mut embeds = try_zeroed(n.saturating_mul(self.arch.embed_dim))?;
        if n == 0 {
            return Ok(embeds);
        }
        let open = || Lane::open(self.runtime, &self.signature, &self.device, self.threads, &self.place.target);
        // Before the weights: who waits for a turn holds no device memory.
        let mut lane = self.lanes.lend(open)?;
        let Lane { session, stream } = &mut *lane;
        let weights = self.device.get(task)?;
        let inputs = self.inputs(&weights)?;
        let (name, size) = (self.signature.pixels.to_string_lossy(), self.arch.image_size());
        let pixels = Input { name: &name, shape: &[n, 3, size, size], values: Elements::F32(pixels) };
        in_stream(&weights, stream.as_raw(), || {
            // Returns when the embeddings are in `embeds`.
            session::run(session, &self.signature, pixels, inputs.into_iter(), &mut embeds)
        })
        .map_err(|e| self.place.target.explain(self.runtime, e))?;
        Ok(embeds)
    }

    /// All parameters where they lie, checked.
    fn inputs<'a>(&'a self, weights: &'a DeviceWeights) -> Result<Vec<Input<'a>>> {
        let parameters = self.signature.parameters.iter();
        parameters
            .map(|(name, shape)| {
                let tensor = weights
                    .get(name)
                    .ok_or_else(|| Error::mismatch("the weights lack a parameter of this encoder").tensor(name))?;
                if tensor.shape != shape {
                    return Err(Error::mismatch("the weights are not of this encoder's architecture")
                        .tensor(name)
                        .expected(format_args!("{shape:?}"))
                        .got(format_args!("{:?}", tensor.shape)));
                }
                // SAFETY: so many f32 lie there as long as `weights` live, in the memory that `place` was made for; a
                // run reads them after `wait_in`, and they are not overwritten before `used_in` allows it.
                let values = unsafe { OnDevice::new(tensor.address, &self.place.memory) };
                Ok(Input { name, shape, values: Elements::Device(values) })
            })
            .collect()
    }

    /// The architecture that this encoder was made for.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// Where its weights come from.
    pub fn device(&self) -> &Arc<DeviceModel> {
        &self.device
    }

    /// What it runs on.
    pub fn execution(&self) -> &Execution {
        &self.execution
    }

    /// Sessions that are open, idle ones included. They are opened when calls overlap, and then kept.
    pub fn sessions(&self) -> usize {
        self.lanes.made()
    }
}

impl std::fmt::Debug for DeviceEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceEncoder({}; {}, {} sessions)", self.arch, self.execution, self.sessions())
    }
}

/// Does something in a stream that reads these weights: after they are computed, and before their memory is used for
/// others.
fn in_stream<T>(weights: &DeviceWeights, stream: u64, run: impl FnOnce() -> Result<T>) -> Result<T> {
    weights.wait_in(stream)?;
    let done = run();
    // After a failure too, which may leave something at work.
    let used = weights.used_in(stream);
    let done = done?;
    used.map(|()| done)
}
