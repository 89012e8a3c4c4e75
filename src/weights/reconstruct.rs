//! Reconstruction: one pass from base and vectors into the layout that is wanted, whichever it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::arena::{Arena, BufferPool};
use super::layout::{Layout, TensorSpec, View};
use super::plan::{self, Factors, Plan, Planned, Scope};
use super::sum::{Norms, SumOfParts, is_multiplied_in_place};
use super::values::{StoredTensor, TensorMemory, Values, Weights};
use crate::basis::{Basis, CoefficientMatrix, Coefficients, TaskExpr};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{self, Kernel, Output, TensorJob};
use crate::mmap::Mapping;
use crate::tensor::{DType, Tensor, f32_bytes_mut, try_zeroed};

/// The options of a reconstruction; `default()` is right nearly always.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReconstructOptions<'a> {
    /// The parameters to reconstruct.
    pub scope: Scope,
    /// Threads; 0 means one per processor. The result is the same, bit for bit, whatever their number.
    pub threads: usize,
    /// The kernel; `None` means the fastest that this machine has, or the one that `TASKBASIS_KERNEL` names.
    pub kernel: Option<Kernel>,
    /// Calls it off: once this is true, reconstruction ends soon with
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    pub cancel: Option<&'a AtomicBool>,
}

impl Plan<'_> {
    /// Computes it in this layout, in memory that `spares` keeps, where it has some. The bits are those of the sum in
    /// f32, afterwards put in the layout's order, scaled, added up and rounded to its types.
    pub(super) fn run(
        self,
        layout: &Layout,
        options: &ReconstructOptions<'_>,
        spares: Option<&Arc<BufferPool>>,
    ) -> Result<Weights> {
        let kernel = options.kernel.map_or_else(kernel::active, Ok)?;
        let planned: HashMap<&str, &Planned<'_>> = self.tensors.iter().map(|planned| (planned.name, planned)).collect();
        let find = |name: &str| {
            planned
                .get(name)
                .copied()
                .ok_or_else(|| Error::mismatch("the model lacks a parameter of the layout").tensor(name))
        };
        if let Some(name) = changed_of_kept(layout, &find)?.first() {
            return Err(of_another(name));
        }
        for (name, shape) in layout.parameters() {
            let got = find(name)?.shape;
            if got != shape {
                return Err(Error::mismatch("the weights are not of the layout's architecture")
                    .tensor(name)
                    .expected(format_args!("{shape:?}"))
                    .got(format_args!("{got:?}")));
            }
        }

        let mut views = Vec::with_capacity(layout.tensors().len());
        for tensor in layout.tensors() {
            views.push(as_it_is(tensor, &find)?);
        }
        let computed: Vec<&TensorSpec> =
            layout.tensors().iter().zip(&views).filter(|(_, view)| view.is_none()).map(|(tensor, _)| tensor).collect();
        let lengths = computed.iter().map(|tensor| tensor.nbytes().div_ceil(size_of::<f32>()));
        let (mut arena, places) = Arena::for_lengths(lengths, spares)?;

        // Outputs by parameter, so that each is read once however many tensors it goes to.
        let mut outputs: HashMap<&str, Vec<Output<'_>>> = HashMap::new();
        let mut sums = Vec::new();
        let mut norms = Norms::of(layout)?;
        for (name, values) in norms.inputs() {
            outputs.entry(name).or_default().push(Output::whole(values));
        }
        for (tensor, out) in computed.iter().copied().zip(arena.split_mut(&places)) {
            let out = &mut f32_bytes_mut(out)[..tensor.nbytes()];
            match (tensor.parts.as_slice(), tensor.packed) {
                ([part], Some(packed)) => {
                    let elements = part.elements(find(&part.parameter)?.shape)?;
                    let start = part.rows.is_some().then_some(elements.start);
                    let output = Output::packed(packed, start, out).map_err(|e| e.tensor(&tensor.name))?;
                    outputs.entry(&part.parameter).or_default().push(output);
                }
                ([part], None) if part.norm.is_none() || is_multiplied_in_place(tensor) => {
                    let once = part.elements(find(&part.parameter)?.shape)?.len() * tensor.dtype.size();
                    // `Layout::new` has checked that they fill it.
                    for out in out.chunks_mut(once.max(1)) {
                        let output = output(part, find(&part.parameter)?.shape, tensor.dtype, out);
                        outputs.entry(&part.parameter).or_default().push(output.map_err(|e| e.tensor(&tensor.name))?);
                    }
                }
                (parts, _) => {
                    let values = |part: &View| try_zeroed(part.elements(find(&part.parameter)?.shape)?.len());
                    let parts = parts.iter().map(values).collect::<Result<_>>()?;
                    sums.push(SumOfParts { tensor, parts, out });
                }
            }
        }
        for SumOfParts { tensor, parts, .. } in &mut sums {
            for (part, values) in tensor.parts.iter().zip(parts) {
                let output = output(part, find(&part.parameter)?.shape, DType::F32, f32_bytes_mut(values));
                outputs.entry(&part.parameter).or_default().push(output.map_err(|e| e.tensor(&tensor.name))?);
            }
        }

        let mut jobs = Vec::with_capacity(outputs.len());
        for &Planned { name, base, change, .. } in &self.tensors {
            let Some(outputs) = outputs.remove(name) else { continue };
            let terms: Vec<_> = change.map_or(&[][..], |(parameter, _)| parameter.sources()).iter().collect();
            let coefficients = change.map_or(&[][..], |(_, row)| &self.factors.rows[row]);
            jobs.push(TensorJob { name, base, coefficients, terms, outputs });
        }
        kernel::combine(kernel, options.threads, jobs, options.cancel)?;
        let factors = norms.factors()?;
        sums.into_iter().try_for_each(|sum| sum.add_up(layout, &factors))?;
        let in_place = computed.into_iter().zip(arena.split_mut(&places));
        factors.multiply(layout, in_place.filter(|(tensor, _)| is_multiplied_in_place(tensor)), options.threads)?;

        let mut places = places.into_iter();
        let tensors = layout.tensors().iter().zip(views).map(|(tensor, view)| {
            let memory = view.map(TensorMemory::Base).or_else(|| places.next().map(TensorMemory::Arena));
            let memory = memory.ok_or_else(|| Error::new(ErrorKind::Internal, "a tensor has no memory"))?;
            Ok((
                tensor.name.clone(),
                StoredTensor { shape: tensor.shape.clone(), dtype: tensor.dtype, packed: tensor.packed, memory },
            ))
        });
        let tensors = tensors.collect::<Result<_>>()?;
        Ok(Weights { coefficients: self.coefficients, tensors, arena, layout: layout.id() })
    }
}

/// The output that the elements of a part go to; `out` has room for them once.
fn output<'a>(part: &View, parameter: &[usize], dtype: DType, out: &'a mut [u8]) -> Result<Output<'a>> {
    let (elements, seen) = (part.elements(parameter)?, part.seen(parameter)?);
    Output::new(elements, &seen, part.permute.as_deref(), part.scale, dtype, out)
}

impl Weights {
    /// The weights of `expr`: `base + Σ_m a_m·s_m`, with the coefficients a that the basis gives for it.
    ///
    /// # Errors
    /// What [`Basis::coefficients`] says of the expression; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch),
    /// naming the tensor, where base and basis are not of one model;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn reconstruct(
        base: &Checkpoint,
        basis: &Basis,
        expr: &TaskExpr,
        options: &ReconstructOptions<'_>,
    ) -> Result<Self> {
        Self::from_coefficients(base, basis, &basis.coefficients(expr)?, options)
    }

    /// The weights that these coefficients give.
    ///
    /// # Errors
    /// As [`Weights::reconstruct`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a number of
    /// coefficients that is not M, or one that is not finite.
    pub fn from_coefficients(
        base: &Checkpoint,
        basis: &Basis,
        coefficients: &CoefficientMatrix,
        options: &ReconstructOptions<'_>,
    ) -> Result<Self> {
        Self::canonical(plan::with_base(base, basis, coefficients, options.scope)?, options)
    }

    /// The base's own weights; nothing is computed where the base is f32.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn of_base(base: &Checkpoint, options: &ReconstructOptions<'_>) -> Result<Self> {
        Self::canonical(plan::base_alone(base, options.scope), options)
    }

    /// The combined task vector `Σ_m a_m·s_m`, without a base.
    ///
    /// # Errors
    /// As [`Weights::from_coefficients`].
    pub fn task_vector(
        basis: &Basis,
        coefficients: &CoefficientMatrix,
        options: &ReconstructOptions<'_>,
    ) -> Result<Self> {
        Self::canonical(plan::vector_alone(basis, coefficients, options.scope)?, options)
    }

    fn canonical(plan: Plan<'_>, options: &ReconstructOptions<'_>) -> Result<Self> {
        let layout = plan.canonical();
        plan.run(&layout, options, None)
    }

    /// The base's own values in a layout; views of it where the layout wants them as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where the base's image tower lacks a parameter;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn of_base_in(base: &Checkpoint, layout: &Layout) -> Result<Self> {
        plan::base_alone(base, Scope::of_layout(base, layout)).run(layout, &ReconstructOptions::default(), None)
    }

    /// Whether the tensors have the names, shapes and types of this layout.
    pub fn is_in(&self, layout: &Layout) -> bool {
        self.layout == layout.id()
    }

    /// Canonical weights, which `parameter` gives by name, put into a layout: a copy of all of them.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, where a parameter is missing or has another
    /// size; [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn relayout<'a>(layout: &Layout, parameter: impl Fn(&str) -> Option<&'a [f32]>) -> Result<Self> {
        for (name, held) in layout.kept() {
            let same = match parameter(name) {
                Some(values) => values == &*held.to_f32()?,
                None => false,
            };
            if !same {
                return Err(holds_another(name));
            }
        }
        let mut bases = Vec::new();
        for (name, shape) in layout.parameters() {
            let values = parameter(name)
                .ok_or_else(|| Error::mismatch("the weights lack a parameter of this encoder").tensor(name))?;
            if values.len() != shape.iter().product::<usize>() {
                return Err(Error::mismatch("the weights are not of this encoder's architecture")
                    .tensor(name)
                    .expected(format_args!("{shape:?}"))
                    .got(format_args!("{} values", values.len())));
            }
            bases.push((name, shape, Tensor::from_f32(values, shape, "weights")?));
        }
        let tensors =
            bases.iter().map(|(name, shape, base)| Planned { name, shape, base: Some(base), change: None }).collect();
        let plan = Plan { coefficients: Coefficients::zero(0).into(), factors: Factors::default(), tensors };
        plan.run(layout, &ReconstructOptions::default(), None)
    }
}

impl Weights {
    /// These, which are in the layout `own`, put into the layout `packed` that was made of it: a copy of all of them.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where they are in another layout;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn packed(&self, own: &Layout, packed: &Layout) -> Result<Self> {
        let mut bases = Vec::with_capacity(self.len());
        for (from, to) in own.tensors().iter().zip(packed.tensors()) {
            let (name, shape, values) = self.at(self.index_of(&from.name)?)?;
            let base = match values {
                Values::F32(values) => Tensor::from_f32(values, shape, name)?,
                Values::Cast(dtype, bytes) => {
                    let bytes = Arc::new(Mapping::from_vec(bytes.to_vec(), name));
                    let all = 0..bytes.len();
                    Tensor::contiguous(&bytes, all, dtype, shape)?
                }
                Values::Carried(_) | Values::Packed(..) => return Err(Error::mismatch("no floats").tensor(name)),
            };
            let is_turned =
                to.packed.is_some() && from.parts.iter().any(|part| part.permute.as_deref() == Some(&[1, 0]));
            bases.push((&*to.name, &*to.shape, if is_turned { base.transposed()?.to_contiguous()? } else { base }));
        }
        let whole = |tensor: &TensorSpec| TensorSpec { parts: vec![View::whole(&tensor.name)], ..tensor.clone() };
        let layout = Layout::canonical(packed.tensors().iter().map(whole).collect());
        let planned = |(name, shape, base)| Planned { name, shape, base: Some(base), change: None };
        let tensors = bases.iter().map(|(name, shape, base)| planned((*name, *shape, base))).collect();
        let plan = Plan { coefficients: self.coefficients.clone(), factors: Factors::default(), tensors };
        let weights = plan.run(&layout, &ReconstructOptions::default(), None)?;
        Ok(Self { layout: packed.id(), ..weights })
    }
}

/// Which of the parameters that the graph holds itself are changed.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where one is not that of the base that the graph was bound with.
pub(super) fn changed_of_kept<'a, 'l>(
    layout: &'l Layout,
    find: &impl Fn(&str) -> Result<&'a Planned<'a>>,
) -> Result<Vec<&'l str>> {
    let mut changed = Vec::new();
    for (name, held) in layout.kept() {
        let own = find(name)?;
        let same = own.base.is_some_and(|base| {
            // Of the same bytes of the same file. Else its values are compared, which costs as much as reconstructing:
            // a file that was opened twice and read has two identities.
            base.mapping().identity() == held.mapping().identity() && base.offset() == held.offset()
                || base.dtype() == held.dtype()
                    && base.shape() == held.shape()
                    && base.to_bytes().is_ok_and(|own| held.to_bytes().is_ok_and(|held| own == held))
        });
        if !same {
            return Err(of_another(name));
        }
        changed.extend(own.change.is_some().then_some(name));
    }
    Ok(changed)
}

/// The graph holds the parameter itself, and these weights have another.
pub(super) fn of_another(parameter: &str) -> Error {
    holds_another(parameter).hint("Bind the graph with this base and this basis")
}

fn holds_another(parameter: &str) -> Error {
    Error::mismatch(
        "the graph holds this parameter as the basis that it was bound with leaves it, and these weights have another",
    )
    .tensor(parameter)
}

/// The base's own bytes, where nothing changes and they are wanted as they are.
pub(super) fn as_it_is<'a>(
    tensor: &TensorSpec,
    find: &impl Fn(&str) -> Result<&'a Planned<'a>>,
) -> Result<Option<Tensor>> {
    let ([part], None) = (tensor.parts.as_slice(), tensor.packed) else { return Ok(None) };
    let planned = find(&part.parameter)?;
    let Some(base) = planned.base.filter(|base| planned.change.is_none() && base.dtype() == tensor.dtype) else {
        return Ok(None);
    };
    if !tensor.dtype.is_float() {
        return Ok(Some(base.clone()));
    }
    // A sparse use of memory is fine; a copy of the base is not a view.
    let is_computed = part.permute.is_some() || part.scale.is_some() || part.norm.is_some();
    if is_computed || part.count() != 1 || !base.is_contiguous() {
        return Ok(None);
    }
    let view = part.of(base)?.reshaped(&tensor.shape)?;
    // ONNX Runtime reads whole elements.
    let is_aligned = view.bytes().is_some_and(|bytes| bytes.as_ptr().addr().is_multiple_of(tensor.dtype.size()));
    Ok(is_aligned.then_some(view))
}
