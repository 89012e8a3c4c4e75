//! The inputs that tasks are computed from: base and basis, as far as they stay on the device.

use std::sync::Arc;

use indexmap::IndexMap;

use super::added::Added;
use super::budget::{Demand, LayoutBytes};
use super::upload::send_inputs;
use crate::basis::Coefficients;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::cuda::tiles::{self, TILE};
use crate::kernel::cuda::{AddedTerms, Device, Event, Launch, Memory, Queue, Segment, Staging, Table, row_bytes};
use crate::tensor::{DType, Source, Tensor, VectorFormat};
use crate::weights::model::Model;
use crate::weights::plan::{self, Plan, Scope};

/// The place of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) enum TensorPlace {
    /// The task's own memory, this many bytes from its start.
    Arena(u64),
    /// Unchanged, at this address.
    Resident(u64),
}

/// A tensor of weights on a device.
#[derive(Debug)]
pub(super) struct PlacedTensor {
    pub(super) shape: Box<[usize]>,
    pub(super) dtype: DType,
    pub(super) place: TensorPlace,
}

/// Tensors by name.
pub(super) type Tensors = IndexMap<String, PlacedTensor>;

/// A parameter that vectors change, of one element or more.
#[derive(Debug)]
pub(super) struct ChangedParameter {
    /// The parameter's place in the basis.
    pub(super) index: usize,
    /// The base, then one per vector.
    inputs: Vec<Source>,
    /// The place of the result, in bytes from the arena's start.
    pub(super) out: u64,
    pub(super) tiles: usize,
}

impl ChangedParameter {
    /// The base, then the terms that are added.
    pub(super) fn inputs<'a>(&'a self, added: &'a Added<'_>) -> impl Iterator<Item = &'a Source> {
        let added = added.to(self.index).iter().map(|&(term, _)| &self.inputs[1 + term as usize]);
        self.inputs[..1].iter().chain(added)
    }

    /// Bytes of this many tiles of all inputs, with their place in a table and in one of rows.
    fn bytes(&self, tiles: usize) -> usize {
        let per_tile: usize = self.inputs.iter().map(|input| tiles::tile_bytes(tiles::format(input))).sum();
        let terms = self.inputs.len() - 1;
        tiles * per_tile + Table::segment_bytes(terms) + row_bytes(terms)
    }
}

/// The tensors of a model, and what of them is on the device.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) device: Arc<dyn Device>,
    /// The tensors in f32, by their canonical names.
    pub(super) tensors: Tensors,
    /// Bytes of one task's weights.
    pub(super) arena_bytes: usize,
    /// The parameters that stay on the device, as one launch computes them.
    table: Table,
    table_address: u64,
    /// Their places in the basis.
    resident: Vec<usize>,
    /// Room behind the table for the rows of any task.
    rows_bytes: usize,
    memory: Memory,
    /// The end of the upload.
    uploaded: Event,
    /// The parameters that come from the host every time.
    pub(super) streamed: Vec<ChangedParameter>,
}

/// What of a model is to go where, before anything is on the device.
struct UploadPlan {
    tensors: Tensors,
    /// The unchanged parameters in f32.
    unchanged: Vec<Source>,
    changed: Vec<ChangedParameter>,
    arena_bytes: usize,
}

/// A model that was brought to a device.
pub(super) struct Upload {
    pub(super) inputs: Inputs,
    /// Bytes that are left for weights and layouts.
    pub(super) budget: usize,
    /// What the rest is streamed through, and bytes of each of the two slots for it; 0 where everything stays.
    pub(super) staging: Option<Staging>,
    pub(super) slot: usize,
}

impl Inputs {
    /// Brings the model to the device, as far as there is room within `budget` beside tasks' weights, and beside what
    /// serves their layout.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where base and basis are not of one model;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a budget that is too small;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory); [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn upload(
        model: &Model,
        device: &Arc<dyn Device>,
        budget: usize,
        layout: Option<LayoutBytes>,
    ) -> Result<Upload> {
        let UploadPlan { mut tensors, unchanged, changed, arena_bytes } = plan_upload(model)?;
        let f32_bytes = tiles::tile_bytes(VectorFormat::F32);
        let wanted: Vec<usize> = changed.iter().map(|parameter| parameter.bytes(parameter.tiles)).collect();
        let unchanged_bytes = unchanged.iter().map(|tensor| tiles::count(tensor.numel()) * f32_bytes).sum::<usize>();
        let layout_bytes = layout.map_or(0, |layout| layout.shared + arena_bytes);
        let split = Demand {
            budget,
            unchanged: layout_bytes + unchanged_bytes,
            arena: layout.map_or(arena_bytes, |layout| layout.arena),
            inputs: &wanted,
            smallest_slot: changed.iter().map(|parameter| parameter.bytes(1)).max().unwrap_or(0),
        }
        .split()?;

        let (mut resident, mut streamed, mut bytes) = (Vec::new(), Vec::new(), unchanged_bytes);
        for ((changed, stays), wanted) in changed.into_iter().zip(&split.resident).zip(&wanted) {
            if *stays {
                bytes += wanted;
                resident.push(changed);
            } else {
                streamed.push(changed);
            }
        }
        let memory = Memory::new(device, bytes)?;
        let mut end = memory.address();
        let mut place = |input: &Source| {
            let (format, address) = (tiles::format(input), end);
            end += (tiles::count(input.numel()) * tiles::tile_bytes(format)) as u64;
            (format, address)
        };
        // Tensors and their sources in the same order.
        let resident_tensors = tensors.values_mut().filter_map(|tensor| match &mut tensor.place {
            TensorPlace::Resident(address) => Some(address),
            TensorPlace::Arena(_) => None,
        });
        for (address, source) in resident_tensors.zip(&unchanged) {
            *address = place(source).1;
        }
        let mut table = Table::default();
        for changed in &resident {
            let placed: Vec<_> = changed.inputs.iter().map(&mut place).collect();
            let (base, terms) = placed.split_at(1);
            table.push(&Segment { base: base.first().copied(), terms, out: changed.out, tiles: changed.tiles })?;
        }
        let table_address = end;
        let rows_bytes = resident.iter().map(|changed| row_bytes(changed.inputs.len() - 1)).sum();
        let resident_indices = resident.iter().map(|changed| changed.index).collect();

        // A slot holds at least one tile of anything.
        let slot = if split.slot > 0 { split.slot } else { bytes.clamp(f32_bytes, UPLOAD_SLOT) };
        let mut staging = Staging::new(device, Queue::Copy, slot.max(f32_bytes))?;
        let all = unchanged.iter().chain(resident.iter().flat_map(|parameter| &parameter.inputs));
        send_inputs(&mut staging, memory.address(), all, model.threads())?;
        staging.send_bytes(table_address, &table.to_bytes())?;
        let uploaded = Event::record(device, Queue::Copy)?;

        let device = Arc::clone(device);
        let inputs = Self {
            device,
            tensors,
            arena_bytes,
            table,
            table_address,
            resident: resident_indices,
            rows_bytes,
            memory,
            uploaded,
            streamed,
        };
        let staging = (split.slot > 0).then_some(staging);
        Ok(Upload { inputs, budget: split.arenas + layout_bytes, staging, slot: split.slot })
    }

    /// Computes what needs nothing from the host, but for the rows of coefficients, into the memory at `out`. `rows`
    /// is what those go through, made when the first task has some.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) where no memory can be pinned for them;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn combine(&self, out: u64, added: &Added<'_>, rows: &mut Option<Staging>) -> Result<()> {
        self.wait_for_upload()?;
        if self.table.is_empty() {
            return Ok(());
        }
        let multiprocessors = self.device.info().multiprocessors;
        let row_of: Vec<usize> = self.resident.iter().map(|&index| added.row_of(index)).collect();
        let added = AddedTerms { rows: &added.rows, row_of: &row_of };
        let (launch, table) = Launch::combine(&self.table, self.table_address, out, &added, multiprocessors)?;
        if let Some(table) = table {
            // In the kernels' own queue: behind what reads the rows of the task before, and ahead of what reads these.
            let staging = match rows {
                Some(staging) => staging,
                None => rows.insert(Staging::new(&self.device, Queue::Combine, self.rows_bytes)?),
            };
            staging.send_bytes(self.table_address + self.table.nbytes() as u64, &table)?;
        }
        self.device.launch(&launch)
    }

    /// Waits until all that stays on the device is there.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn synchronize(&self) -> Result<()> {
        self.uploaded.synchronize()
    }

    /// Makes the kernels wait until everything is there.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn wait_for_upload(&self) -> Result<()> {
        self.uploaded.wait_on(Queue::Combine)
    }

    /// Bytes that stay on the device.
    pub(super) fn resident_bytes(&self) -> usize {
        self.memory.nbytes()
    }
}

/// The size of the two pieces of pinned memory that an upload goes through where nothing is streamed afterwards.
const UPLOAD_SLOT: usize = 32 << 20;

impl Drop for Inputs {
    fn drop(&mut self) {
        for queue in [Queue::Copy, Queue::Combine] {
            // A failure has ended the work as well.
            let _ = Event::record(&self.device, queue).and_then(|end| end.synchronize());
        }
    }
}

/// The tensors of the image tower, with all that some task could ask for.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where base and basis are not of one model.
pub(super) fn everything(model: &Model) -> Result<Plan<'_>> {
    let (base, scope) = (model.base(), Scope::ImageTower);
    match model.basis() {
        Some(basis) => {
            let any = Coefficients { vectors: vec![1.0; basis.vectors()], ..Coefficients::zero(0) };
            plan::with_base(base, basis, &any.into(), scope)
        }
        None => Ok(plan::base_alone(base, scope)),
    }
}

/// The place in the basis of a parameter that it changes.
///
/// # Errors
/// [`ErrorKind::Internal`] for one that it does not have.
pub(super) fn index_of(model: &Model, parameter: &str) -> Result<usize> {
    let index = model.basis().and_then(|basis| basis.index_of(parameter));
    index.ok_or_else(|| Error::new(ErrorKind::Internal, "the basis has lost a parameter").tensor(parameter))
}

fn plan_upload(model: &Model) -> Result<UploadPlan> {
    let plan = everything(model)?;
    let (mut tensors, mut unchanged, mut changed, mut end) = (IndexMap::new(), Vec::new(), Vec::new(), 0u64);
    for planned in plan.tensors {
        // A plan with a base has it for every tensor. What is no float is no weight of a graph's.
        let Some(base) = planned.base.filter(|base| base.dtype().is_float()) else { continue };
        let place = match planned.change {
            None => {
                let tensor = if base.dtype() == DType::F32 {
                    base.clone()
                } else {
                    Tensor::from_f32(&base.to_f32()?, base.shape(), "the base in f32")?
                };
                unchanged.push(Source::from(tensor));
                TensorPlace::Resident(0)
            }
            Some((parameter, _)) => {
                let (tiles, out) = (tiles::count(base.numel()), end);
                end += (tiles * TILE * size_of::<f32>()) as u64;
                let base = std::iter::once(Source::from(base.clone()));
                let inputs = base.chain(parameter.sources().iter().cloned()).collect();
                let index = index_of(model, planned.name)?;
                // Of no elements nothing is computed.
                if tiles > 0 {
                    changed.push(ChangedParameter { index, inputs, out, tiles });
                }
                TensorPlace::Arena(out)
            }
        };
        tensors.insert(planned.name.to_owned(), PlacedTensor { shape: planned.shape.into(), dtype: DType::F32, place });
    }
    let arena_bytes = usize::try_from(end).map_err(|_| Error::out_of_memory(usize::MAX))?;
    Ok(UploadPlan { tensors, unchanged, changed, arena_bytes })
}
