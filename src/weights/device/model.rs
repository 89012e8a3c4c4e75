//! A model on a device: base and basis there, and the weights of its tasks.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::added::Added;
use super::arena::{DeviceArena, Purpose};
use super::budget::LayoutBytes;
use super::cache::DeviceCache;
use super::inputs::{Inputs, Upload};
use super::layout::{DeviceRelayout, RelayoutPlan};
use super::stream::Stream;
use super::weights::DeviceWeights;
use crate::error::{Error, Result};
use crate::kernel::Cuda;
use crate::kernel::cuda::{Event, Queue, Staging};
use crate::weights::arena::BufferPool;
use crate::weights::cache::CacheStats;
use crate::weights::layout::Layout;
use crate::weights::model::{Model, TaskWeights};

/// The options of a [`DeviceModel`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceOptions {
    /// Bytes of device memory for everything: base, basis and the weights of tasks. `None` is three quarters of what is
    /// free, which leaves room for what the encoder computes with.
    pub budget: Option<usize>,
}

/// The statistics of a [`DeviceModel`]: what it takes, and how it has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Bytes of base and basis that stay on the device.
    pub resident_bytes: usize,
    /// Bytes of the slots that the rest is streamed through; 0 where everything stays.
    pub slot_bytes: usize,
    /// Bytes that have been streamed so far.
    pub streamed: u64,
    /// Bytes that weights take now, those in use elsewhere and memory that waits for others among them.
    pub weights_bytes: usize,
    /// Bytes that the layouts of graphs take: their tensors that no vector changes, and one task's weights in f32,
    /// which all layouts are made from. 0 where no layout is in use.
    pub layout_bytes: usize,
    /// The weights that are kept, within a budget of their own: what base, basis, slots and layouts leave. Its time is
    /// that until they are in the queue, not until they are computed.
    pub cache: CacheStats,
}

/// A [`Model`] on a GPU: base and basis in device memory, and the weights of the tasks that were asked for last.
///
/// The bits are those of [`Weights`](crate::Weights). Where the budget has no room for all of the basis, as many
/// parameters stay as it has room for, and the others are brought from the host for every task. Shareable between
/// threads.
///
/// ```no_run
/// # fn run(model: &std::sync::Arc<taskbasis::Model>) -> taskbasis::Result<()> {
/// use taskbasis::{Cuda, DeviceModel, DeviceOptions};
///
/// let cuda = Cuda::open(0)?;
/// let (device, stream) = (DeviceModel::new(model, &cuda, &DeviceOptions::default())?, cuda.stream()?);
/// let weights = device.get(&model.weights(&"MNIST@0.3 + SVHN@0.3".parse()?)?)?;
/// weights.wait_in(&stream)?;
/// for tensor in weights.iter() {
///     // Give `tensor.address` to what runs in the stream …
/// }
/// weights.used_in(&stream)?; // … and let go of the weights whenever you like
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DeviceModel {
    /// The model may own this value.
    model: Weak<Model>,
    /// The cache, before the inputs: what it keeps is freed first.
    cache: Arc<DeviceCache>,
    /// Held while a task is put into the queue: one at a time.
    ways: Mutex<Ways>,
    slot_bytes: usize,
    pub(super) inputs: Arc<Inputs>,
}

/// The ways from the host that a task's own part takes.
#[derive(Debug)]
struct Ways {
    /// The way of rows of coefficients, once a task had some.
    rows: Option<Staging>,
    /// The way of parameters that do not stay on the device, where there are any.
    stream: Option<Stream>,
}

impl DeviceModel {
    /// Brings base and basis to the device, as far as there is room; returns while the last of it is on its way.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where base and basis are not of one model;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a budget that is too small for the
    /// weights of one task and what never changes; [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) where the
    /// device has less than the budget, or no memory can be pinned; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn new(model: &Arc<Model>, cuda: &Cuda, options: &DeviceOptions) -> Result<Arc<Self>> {
        Self::open(model, cuda, options, None)
    }

    /// Brings a model to a device for tasks in the layout of a graph ([`TaskWeights::in_layout`]): what it takes, and
    /// room for two tasks' weights in it, come before as much of the basis as there is room for. After `new`, a layout
    /// gets what is left, and may find no room in a small budget.
    ///
    /// # Errors
    /// As [`DeviceModel::new`], and what [`DeviceModel::get`] says of layouts.
    pub fn for_layout(
        model: &Arc<Model>,
        cuda: &Cuda,
        options: &DeviceOptions,
        layout: &Arc<Layout>,
    ) -> Result<Arc<Self>> {
        if layout.is_canonical() {
            return Self::new(model, cuda, options);
        }
        let this = Self::open(model, cuda, options, Some(RelayoutPlan::new(model, layout)?.bytes()))?;
        this.cache.layout(model, layout)?;
        Ok(this)
    }

    fn open(
        model: &Arc<Model>,
        cuda: &Cuda,
        options: &DeviceOptions,
        layout: Option<LayoutBytes>,
    ) -> Result<Arc<Self>> {
        let device = cuda.device();
        let budget = match options.budget {
            Some(budget) => budget,
            None => device.memory()?.0 / 4 * 3,
        };
        let Upload { inputs, budget, staging, slot } = Inputs::upload(model, device, budget, layout)?;
        let stream = staging.map(|staging| Stream::new(&inputs, staging, slot, model.threads())).transpose()?;
        let inputs = Arc::new(inputs);
        Ok(Arc::new(Self {
            model: Arc::downgrade(model),
            cache: DeviceCache::new(&inputs, budget),
            ways: Mutex::new(Ways { rows: None, stream }),
            slot_bytes: 2 * slot,
            inputs,
        }))
    }

    /// Waits until base and basis are on the device, as far as they stay there. It need not be called:
    /// [`DeviceModel::get`] puts its work behind them.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime), where bringing them there failed.
    pub fn synchronize(&self) -> Result<()> {
        self.inputs.synchronize()
    }

    /// The weights of a task of this model: kept ones, or put into the queue now. Returns before they are computed,
    /// unless parameters have to be streamed. A task with coefficients by groups of parameters may wait for the one
    /// before the last.
    ///
    /// With [`TaskWeights::in_layout`] they are in the layout of a graph. Its tensors that no vector changes are made
    /// the first time, and stay until the last encoder over that graph is dropped, the layout itself is gone, or
    /// [`DeviceModel::forget`] is called.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a task of another model;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a layout of another base, or one whose graph holds a
    /// parameter that the task changes; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a tensor of a
    /// layout with 2³¹ elements or more;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) where the weights that others hold leave no room;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn get(&self, task: &TaskWeights) -> Result<Arc<DeviceWeights>> {
        if !self.is_of(task.model()) {
            return Err(Error::invalid("the weights are of another model than the one on the device"));
        }
        let is_canonical = task.layout().is_canonical();
        let layout = (!is_canonical).then(|| self.cache.layout(task.model(), task.layout())).transpose()?;
        let bytes = layout.as_ref().map_or(self.inputs.arena_bytes, |layout| layout.arena_bytes);
        let build = |spares: &Arc<_>| self.reconstruct(task, layout.as_ref(), bytes, spares);
        self.cache.rebalance();
        self.cache.weights.get_or_build(task.key(), bytes, build)
    }

    fn reconstruct(
        &self,
        task: &TaskWeights,
        layout: Option<&Arc<DeviceRelayout>>,
        bytes: usize,
        spares: &Arc<BufferPool<DeviceArena>>,
    ) -> Result<DeviceWeights> {
        let added = Added::of(task);
        layout.map_or(Ok(()), |layout| layout.check(&added))?;
        let mut ways = self.ways.lock();
        let mut arena = self.cache.arena(bytes, Purpose::Weights, Some(spares))?;
        let mut put_into_queue = || {
            // What still reads this memory reads it to the end.
            for event in arena.uses.drain(..) {
                event.wait_on(Queue::Combine)?;
            }
            let out = layout.map_or(arena.address(), |layout| layout.scratch());
            self.inputs.combine(out, &added, &mut ways.rows)?;
            if let Some(stream) = &mut ways.stream {
                stream.combine(&self.inputs, out, &added)?;
            }
            layout.map_or(Ok(()), |layout| layout.fill(arena.address(), &added))
        };
        let queued = put_into_queue();
        // Even after a failure something may be at work in it.
        let ready = Arc::new(Event::record(&self.inputs.device, Queue::Combine)?);
        arena.uses.push(Arc::clone(&ready));
        if let Some(layout) = layout {
            layout.used_until(Arc::clone(&ready));
        }
        queued?;
        Ok(DeviceWeights::new(&self.inputs, layout, task.coefficients(), arena, ready, spares))
    }

    /// Gets the weights, and holds on to them until [`DeviceModel::unpin`]; to the layout that they are in, too.
    ///
    /// # Errors
    /// As [`DeviceModel::get`].
    pub fn pin(&self, task: &TaskWeights) -> Result<Arc<DeviceWeights>> {
        Ok(self.cache.pin(task.key(), self.get(task)?))
    }

    /// Lets go of what [`DeviceModel::pin`] holds; whether it held anything.
    pub fn unpin(&self, task: &TaskWeights) -> bool {
        self.cache.unpin(task.key())
    }

    /// Drops what serves a layout, and the weights in it that are kept, pinned ones too. It is made again for the next
    /// task in it. Weights that are in use elsewhere keep what they need.
    pub fn forget(&self, layout: &Layout) {
        self.cache.forget(layout.id());
    }

    /// Takes note that no lease wants this layout here any more. What is pinned stays, and the layout with it.
    pub(super) fn release(&self, layout: u64) {
        self.cache.release(layout);
    }

    /// Whether [`DeviceModel::get`] would find the weights.
    pub fn is_ready(&self, task: &TaskWeights) -> bool {
        self.cache.weights.contains(task.key())
    }

    /// Drops the weights that were used least recently until at most `bytes` are kept.
    pub fn trim(&self, bytes: usize) {
        self.cache.rebalance();
        self.cache.weights.trim(bytes);
    }

    /// The statistics of the model: what it takes, and how it has done so far.
    pub fn stats(&self) -> DeviceStats {
        self.cache.rebalance();
        let layout_bytes = self.cache.allowance.layouts();
        DeviceStats {
            resident_bytes: self.inputs.resident_bytes(),
            slot_bytes: self.slot_bytes,
            streamed: self.ways.lock().stream.as_ref().map_or(0, |stream| stream.copied),
            weights_bytes: self.cache.allowance.taken().saturating_sub(layout_bytes),
            layout_bytes,
            cache: self.cache.weights.stats(),
        }
    }

    /// The device that it is on.
    pub(crate) fn cuda(&self) -> Cuda {
        Cuda::on(&self.inputs.device)
    }

    /// Whether it is this model that is on the device.
    pub(crate) fn is_of(&self, model: &Arc<Model>) -> bool {
        std::ptr::eq(Arc::as_ptr(model), self.model.as_ptr())
    }

    /// The model that is on the device; `None` once it is dropped.
    pub fn model(&self) -> Option<Arc<Model>> {
        self.model.upgrade()
    }
}
