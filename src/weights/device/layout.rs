//! The layout of a user's graph on a device: what of it is made once and stays, and how a task's part is made.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::added::Added;
use super::arena::DeviceArena;
use super::budget::LayoutBytes;
use super::inputs::{Inputs, PlacedTensor, TensorPlace, Tensors, everything, index_of};
use crate::error::{Error, Result};
use crate::kernel::cuda::{Event, Launch, Queue, Staging, StridedPart, Table};
use crate::tensor::{DType, Tensor, contiguous_strides};
use crate::weights::layout::{Layout, Strided, TensorSpec};
use crate::weights::model::Model;
use crate::weights::plan::{self, Plan, Planned, Scope};
use crate::weights::reconstruct::{as_it_is, changed_of_kept, of_another};

/// Every tensor begins at a multiple of this many bytes.
const ALIGNMENT: u64 = 256;

/// The base's own bytes go to the device through two slots of at most this size.
const MAX_SLOT: usize = 8 << 20;

/// The work to be done for a layout, found out before anything is on the device.
#[derive(Debug)]
pub(super) struct RelayoutPlan {
    /// One per tensor of the layout.
    origins: Vec<Origin>,
    /// Bytes of one task's weights.
    arena_bytes: u64,
    /// Bytes of what all tasks share: tensors that are made once, and the base's own.
    shared_bytes: u64,
    /// The base's own bytes, and where they go, in bytes behind the start of what tasks share.
    uploads: Vec<(u64, Tensor)>,
    base_copies: Vec<BaseCopy>,
    /// The parameters that the graph holds itself and that the basis changes.
    changed_of_kept: Vec<KeptParameter>,
    /// Bytes of both tables.
    table_bytes: usize,
}

/// The origin of a tensor of a layout.
#[derive(Debug)]
enum Origin {
    /// Made for every task, this many bytes behind its arena's start.
    Task(u64),
    /// Made once, this many bytes behind the start of what tasks share.
    Shared(u64),
    /// The base's own bytes, this many bytes behind the start of what tasks share.
    Base(u64),
    /// The canonical tensor serves as it is, from this many bytes behind its start on.
    Canonical(String, u64),
}

/// A parameter that the graph holds itself and that the basis changes: only tasks that add nothing to it fit.
#[derive(Debug)]
struct KeptParameter {
    name: String,
    /// The parameter's place in the basis.
    index: usize,
}

/// A changed tensor that is the base's own bytes where nothing is added: f64, of which f32 keeps but a part.
#[derive(Debug)]
struct BaseCopy {
    /// The place in the basis of the parameter that the tensor is of.
    parameter: usize,
    /// The place that the bytes come from, behind the start of what tasks share.
    from: u64,
    /// The place that the bytes go to, behind the start of a task's arena.
    to: u64,
    bytes: usize,
}

impl RelayoutPlan {
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where the layout is of another model;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a tensor too large, or one that a batch
    /// normalisation is folded into.
    pub(super) fn new(model: &Model, layout: &Layout) -> Result<Self> {
        let (any_task, base) =
            (by_name(everything(model)?), by_name(plan::base_alone(model.base(), Scope::ImageTower)));
        let find = |name: &str| any_task.get(name).ok_or_else(|| missing(name));
        let find_base = |name: &str| base.get(name).ok_or_else(|| missing(name));
        // What a launch reads is where the layout says: nothing checks it there.
        for (name, shape) in layout.parameters() {
            let own = find(name)?.shape;
            if own != shape {
                return Err(Error::mismatch("the layout is of another model")
                    .tensor(name)
                    .expected(format_args!("{shape:?}"))
                    .got(format_args!("{own:?}")));
            }
        }

        let (mut arena_bytes, mut shared_bytes) = (0, 0);
        let next = |end: &mut u64, bytes: usize| {
            let start = *end;
            *end = (start + bytes as u64).next_multiple_of(ALIGNMENT);
            start
        };
        let (mut origins, mut uploads, mut base_copies) = (Vec::new(), Vec::new(), Vec::new());
        for tensor in layout.tensors() {
            if tensor.parts.iter().any(|part| part.norm.is_some()) {
                return Err(Error::unsupported("weights with a folded batch normalisation are not made on a GPU")
                    .tensor(&tensor.name)
                    .hint("Run on the CPU, or export the graph with its batch normalisations"));
            }
            let mut is_changed = false;
            for part in &tensor.parts {
                is_changed |= find(&part.parameter)?.change.is_some();
            }
            let own = as_it_is(tensor, &find_base)?.filter(|_| tensor.dtype != DType::F32);
            let bytes = tensor.nbytes();
            origins.push(match (is_changed, own) {
                (true, own) => {
                    let to = next(&mut arena_bytes, bytes);
                    if let Some(own) = own.filter(|_| tensor.dtype == DType::F64) {
                        let from = next(&mut shared_bytes, bytes);
                        uploads.push((from, own));
                        let parameter = index_of(model, &tensor.parts[0].parameter)?;
                        base_copies.push(BaseCopy { parameter, from, to, bytes });
                    }
                    Origin::Task(to)
                }
                (false, Some(own)) => {
                    let at = next(&mut shared_bytes, bytes);
                    uploads.push((at, own));
                    Origin::Base(at)
                }
                (false, None) => match serves(tensor, find(&tensor.parts[0].parameter)?)? {
                    Some((name, behind)) => Origin::Canonical(name, behind),
                    None => Origin::Shared(next(&mut shared_bytes, bytes)),
                },
            });
        }
        let kept = changed_of_kept(layout, &find)?.into_iter();
        let changed_of_kept = kept
            .map(|name| Ok(KeptParameter { name: name.to_owned(), index: index_of(model, name)? }))
            .collect::<Result<_>>()?;
        let table_bytes = 0;
        let mut plan = Self { origins, arena_bytes, shared_bytes, uploads, base_copies, changed_of_kept, table_bytes };
        // Addresses do not change their size.
        let (for_tasks, for_shared) = plan.tables(layout, |_| Ok(0))?;
        plan.table_bytes = for_tasks.nbytes() + for_shared.nbytes();
        Ok(plan)
    }

    /// Bytes that it takes on the device.
    pub(super) fn bytes(&self) -> LayoutBytes {
        LayoutBytes { shared: self.shared_bytes as usize + self.table_bytes, arena: self.arena_bytes as usize }
    }

    /// What makes a task's tensors, and what makes those that are made once, of parameters that lie where `address`
    /// says.
    fn tables(&self, layout: &Layout, address: impl Fn(&str) -> Result<u64>) -> Result<(Table, Table)> {
        let mut tables = (Table::default(), Table::default());
        let shapes: HashMap<&str, &[usize]> = layout.parameters().collect();
        for (tensor, origin) in layout.tensors().iter().zip(&self.origins) {
            let (table, out) = match origin {
                Origin::Task(at) => (&mut tables.0, *at),
                Origin::Shared(at) => (&mut tables.1, *at),
                Origin::Base(_) | Origin::Canonical(..) => continue,
            };
            let mut parts = Vec::with_capacity(tensor.parts.len());
            for part in &tensor.parts {
                let shape = shapes.get(part.parameter.as_str()).ok_or_else(|| missing(&part.parameter))?;
                let Strided { offset, shape, strides } = part.strided(shape)?;
                let address = address(&part.parameter)? + (offset * size_of::<f32>()) as u64;
                parts.push(StridedPart { address, shape, strides, scale: part.scale });
            }
            table.push_relayout(out, tensor.dtype, &parts).map_err(|e| e.tensor(&tensor.name))?;
        }
        Ok(tables)
    }
}

fn by_name(plan: Plan<'_>) -> HashMap<&str, Planned<'_>> {
    plan.tensors.into_iter().map(|planned| (planned.name, planned)).collect()
}

fn missing(parameter: &str) -> Error {
    Error::mismatch("the model lacks a parameter of the layout").tensor(parameter)
}

/// The parameter, and how many bytes behind its start, where the canonical tensor in f32 holds this one as it is.
fn serves(tensor: &TensorSpec, of: &Planned<'_>) -> Result<Option<(String, u64)>> {
    let ([part], DType::F32) = (tensor.parts.as_slice(), tensor.dtype) else { return Ok(None) };
    let Strided { offset, shape, strides } = part.strided(of.shape)?;
    let behind = (offset * size_of::<f32>()) as u64;
    let is_as_it_is = part.scale.is_none() && strides == contiguous_strides(&shape);
    Ok((is_as_it_is && behind.is_multiple_of(ALIGNMENT)).then(|| (part.parameter.clone(), behind)))
}

/// A layout on a device.
#[derive(Debug)]
pub(super) struct DeviceRelayout {
    /// What is made once, and the tables. Before what its work reads: dropping it waits for that.
    memory: Mutex<DeviceArena>,
    /// The memory that a task is reconstructed in before it is laid out; the same for all layouts.
    scratch: Arc<DeviceArena>,
    inputs: Arc<Inputs>,
    pub(super) tensors: Tensors,
    pub(super) arena_bytes: usize,
    table: Table,
    table_address: u64,
    /// The address where what tasks share begins.
    shared: u64,
    base_copies: Vec<BaseCopy>,
    changed_of_kept: Vec<KeptParameter>,
}

impl DeviceRelayout {
    /// Puts into the queue what is made once, into `memory`, which has [`RelayoutPlan::bytes`].
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) where no memory can be pinned;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn new(
        layout: &Layout,
        plan: RelayoutPlan,
        inputs: &Arc<Inputs>,
        mut memory: DeviceArena,
        scratch: &Arc<DeviceArena>,
    ) -> Result<Self> {
        let shared = memory.address();
        let place = |name: &str| {
            let tensor = inputs.tensors.get(name);
            tensor
                .map(|tensor| tensor.place)
                .ok_or_else(|| Error::mismatch("a parameter of the layout is no float").tensor(name))
        };
        let (for_tasks, for_shared) = plan.tables(layout, |name| {
            Ok(match place(name)? {
                TensorPlace::Arena(at) => scratch.address() + at,
                TensorPlace::Resident(address) => address,
            })
        })?;
        let table_address = shared + plan.shared_bytes;
        let mut tensors = Tensors::with_capacity(plan.origins.len());
        for (tensor, origin) in layout.tensors().iter().zip(&plan.origins) {
            let place = match origin {
                Origin::Task(at) => TensorPlace::Arena(*at),
                Origin::Shared(at) | Origin::Base(at) => TensorPlace::Resident(shared + at),
                Origin::Canonical(name, behind) => match place(name)? {
                    TensorPlace::Resident(address) => TensorPlace::Resident(address + behind),
                    TensorPlace::Arena(_) => return Err(Error::mismatch("the basis has changed").tensor(name)),
                },
            };
            tensors.insert(
                tensor.name.clone(),
                PlacedTensor { shape: tensor.shape.as_slice().into(), dtype: tensor.dtype, place },
            );
        }

        let device = &inputs.device;
        let tables = [for_tasks.to_bytes(), for_shared.to_bytes()].concat();
        let largest = plan.uploads.iter().map(|(_, tensor)| tensor.nbytes()).max().unwrap_or(0).max(tables.len());
        let mut staging = Staging::new(device, Queue::Copy, largest.clamp(1, MAX_SLOT))?;
        let mut put_into_queue = || {
            for (at, tensor) in &plan.uploads {
                let bytes = tensor.bytes().ok_or_else(|| Error::invalid("the base's own bytes are gone"))?;
                staging.send_bytes(shared + at, bytes)?;
            }
            staging.send_bytes(table_address, &tables)?;
            Event::record(device, Queue::Copy)?.wait_on(Queue::Combine)?;
            inputs.wait_for_upload()?;
            let address = table_address + for_tasks.nbytes() as u64;
            device.launch(&Launch::relayout(&for_shared, address, shared, device.info().multiprocessors))
        };
        let queued = put_into_queue();
        // Even after a failure something may be at work in it.
        memory.used_until(Arc::new(Event::record(device, Queue::Combine)?));
        queued?;
        Ok(Self {
            memory: Mutex::new(memory),
            scratch: Arc::clone(scratch),
            inputs: Arc::clone(inputs),
            tensors,
            arena_bytes: plan.arena_bytes as usize,
            table: for_tasks,
            table_address,
            shared,
            base_copies: plan.base_copies,
            changed_of_kept: plan.changed_of_kept,
        })
    }

    /// Whether a task fits the graph, which may hold parameters itself.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the parameter.
    pub(super) fn check(&self, added: &Added<'_>) -> Result<()> {
        let changed = self.changed_of_kept.iter().find(|kept| !added.to(kept.index).is_empty());
        changed.map_or(Ok(()), |kept| Err(of_another(&kept.name)))
    }

    /// The address where a task has to be reconstructed first.
    pub(super) fn scratch(&self) -> u64 {
        self.scratch.address()
    }

    /// Makes the weights of the task that was reconstructed last, which has these terms, in the memory at `out`.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn fill(&self, out: u64, added: &Added<'_>) -> Result<()> {
        let device = &self.inputs.device;
        device.launch(&Launch::relayout(&self.table, self.table_address, out, device.info().multiprocessors))?;
        for copy in self.base_copies.iter().filter(|copy| added.to(copy.parameter).is_empty()) {
            device.copy_within(self.shared + copy.from, out + copy.to, copy.bytes)?;
        }
        Ok(())
    }

    /// Keeps the layout from being freed before this event.
    pub(super) fn used_until(&self, event: Arc<Event>) {
        self.lock().used_until(event);
    }

    fn lock(&self) -> MutexGuard<'_, DeviceArena> {
        self.memory.lock()
    }
}
