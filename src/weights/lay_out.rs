//! Reconstruction straight into the layout that a graph wants: one pass, no canonical copy on the way.

use std::collections::HashMap;
use std::sync::Arc;

use super::arena::{Arena, Spares};
use super::layout::{Layout, TensorSpec};
use super::plan::{self, Plan, Planned};
use super::{Entry, Place, ReconstructOptions, Scope, Weights};
use crate::basis::Coefficients;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernel::{self, Destination, Kernel, Scattered};
use crate::tensor::{DType, Tensor, f32_bytes_mut, try_zeroed};

impl Plan<'_> {
    /// Computes it in this layout; the bits are those of [`Plan::run_in`] afterwards put in that order, scaled, added
    /// up and rounded to the layout's types.
    pub(super) fn run_laid_out(
        self,
        options: &ReconstructOptions<'_>,
        spares: Option<&Arc<Spares>>,
        layout: &Layout,
    ) -> Result<Weights> {
        let kernel = options.kernel.map_or_else(kernel::active, Ok)?;
        let planned: HashMap<&str, &Planned<'_>> = self.tensors.iter().map(|planned| (planned.name, planned)).collect();
        let find = |name: &str| {
            planned
                .get(name)
                .copied()
                .ok_or_else(|| Error::mismatch("the model lacks a parameter of the layout").tensor(name))
        };

        if let Some(name) = changed_of_kept(layout, &find)? {
            return Err(of_another(name));
        }

        let mut views = Vec::with_capacity(layout.tensors().len());
        for tensor in layout.tensors() {
            views.push(as_it_is(tensor, &find)?);
        }
        let computed: Vec<&TensorSpec> =
            layout.tensors().iter().zip(&views).filter(|(_, view)| view.is_none()).map(|(tensor, _)| tensor).collect();
        let lengths = computed.iter().map(|tensor| tensor.nbytes().div_ceil(size_of::<f32>()));
        let (mut arena, places) = Arena::for_lengths(lengths, spares)?;

        // Destinations by parameter, so that each is read once however many tensors it goes to.
        let mut of_parameter: HashMap<&str, Vec<Destination<'_>>> = HashMap::new();
        let mut sums = Vec::new();
        for (tensor, out) in computed.iter().zip(arena.split_mut(&places)) {
            let out = &mut f32_bytes_mut(out)[..tensor.nbytes()];
            let [part] = tensor.parts.as_slice() else {
                sums.push((*tensor, out));
                continue;
            };
            let shape = find(&part.parameter)?.shape;
            let (seen, elements) = (part.seen(shape)?, part.elements(shape)?);
            let bytes = elements.len() * tensor.dtype.size();
            // `Layout::new` has checked that they fill it.
            for out in out.chunks_mut(bytes.max(1)) {
                let (order, elements) = (part.permute.as_deref(), elements.clone());
                let destination = Destination::new(elements, &seen, order, part.scale, tensor.dtype, out)
                    .map_err(|e| e.tensor(&tensor.name))?;
                of_parameter.entry(&part.parameter).or_default().push(destination);
            }
        }

        let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
        for planned in &self.tensors {
            let Some(destinations) = of_parameter.remove(planned.name) else { continue };
            let scattered = planned.scattered(destinations)?;
            if scattered.terms.is_empty() { unchanged.push(scattered) } else { changed.push(scattered) }
        }
        kernel::scatter(kernel, options.threads, &self.factors, changed, options.cancel)?;
        kernel::scatter(kernel, options.threads, &[], unchanged, options.cancel)?;
        for (tensor, out) in sums {
            add_up(tensor, out, &find, kernel, options, &self.factors)?;
        }

        let mut places = places.into_iter();
        let tensors = layout
            .tensors()
            .iter()
            .zip(views)
            .map(|(tensor, view)| {
                let place = match view {
                    Some(view) => Place::Base(view),
                    None => Place::Arena(places.next().unwrap_or_default()),
                };
                (tensor.name.clone(), Entry { shape: tensor.shape.clone(), dtype: tensor.dtype, place })
            })
            .collect();
        Ok(Weights { coefficients: self.coefficients, tensors, arena, layout: Some(layout.id()) })
    }
}

impl Weights {
    /// The base's own values in a layout; views of it where the layout wants them as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where the base's image tower lacks a parameter;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn of_base_in(base: &Checkpoint, layout: &Layout) -> Result<Self> {
        plan::base_alone(base, Scope::ImageTower).run_laid_out(&ReconstructOptions::default(), None, layout)
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
        let plan = Plan { coefficients: Coefficients::zero(0), factors: Vec::new(), tensors };
        plan.run_laid_out(&ReconstructOptions::default(), None, layout)
    }
}

/// Which of the parameters that the graph holds itself is changed; the first one.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where one is not that of the base that the graph was bound with.
pub(super) fn changed_of_kept<'a, 'l>(
    layout: &'l Layout,
    find: &impl Fn(&str) -> Result<&'a Planned<'a>>,
) -> Result<Option<&'l str>> {
    let mut changed = None;
    for (name, held) in layout.kept() {
        let own = find(name)?;
        // Of the same bytes of the same file; comparing values would cost as much as reconstructing.
        let same = own.base.is_some_and(|base| {
            base.mapping().identity() == held.mapping().identity() && base.offset() == held.offset()
        });
        if !same {
            return Err(of_another(name));
        }
        changed = changed.or(own.change.is_some().then_some(name));
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

/// The base's own bytes, where nothing changes and the graph wants them as they are.
pub(super) fn as_it_is<'a>(
    tensor: &TensorSpec,
    find: &impl Fn(&str) -> Result<&'a Planned<'a>>,
) -> Result<Option<Tensor>> {
    let [part] = tensor.parts.as_slice() else { return Ok(None) };
    let planned = find(&part.parameter)?;
    let Some(base) = planned.base.filter(|base| planned.change.is_none() && base.dtype() == tensor.dtype) else {
        return Ok(None);
    };
    // A sparse use of memory is fine; a copy of the base is not a view.
    if part.permute.is_some() || part.scale.is_some() || part.count() != 1 || !base.is_contiguous() {
        return Ok(None);
    }
    let view = part.of(base)?.reshaped(&tensor.shape)?;
    // ONNX Runtime reads whole elements.
    let is_aligned = view.bytes().is_some_and(|bytes| bytes.as_ptr().addr().is_multiple_of(tensor.dtype.size()));
    Ok(is_aligned.then_some(view))
}

/// The sum of a tensor's parts; they are a few rows each.
fn add_up<'a>(
    tensor: &TensorSpec,
    out: &mut [u8],
    find: &impl Fn(&str) -> Result<&'a Planned<'a>>,
    kernel: Kernel,
    options: &ReconstructOptions<'_>,
    factors: &[f32],
) -> Result<()> {
    let mut sum = try_zeroed::<f32>(tensor.numel())?;
    for (i, part) in tensor.parts.iter().enumerate() {
        let planned = find(&part.parameter)?;
        let (seen, elements) = (part.seen(planned.shape)?, part.elements(planned.shape)?);
        let mut values = try_zeroed::<f32>(elements.len())?;
        let destination = Destination::new(
            elements,
            &seen,
            part.permute.as_deref(),
            part.scale,
            DType::F32,
            f32_bytes_mut(&mut values),
        )?;
        let scattered = planned.scattered(vec![destination])?;
        let factors = if scattered.terms.is_empty() { &[] } else { factors };
        kernel::scatter(kernel, options.threads, factors, vec![scattered], options.cancel)?;
        let repeated = sum.iter_mut().zip(values.iter().cycle());
        repeated.for_each(|(sum, value)| *sum = if i == 0 { *value } else { *sum + value });
    }
    kernel::cast(&sum, tensor.dtype, out);
    Ok(())
}

impl<'a> Planned<'a> {
    fn scattered<'d>(&self, destinations: Vec<Destination<'d>>) -> Result<Scattered<'d>>
    where
        'a: 'd,
    {
        let base = self.base.ok_or_else(|| Error::invalid("a task vector alone has no layout").tensor(self.name))?;
        let terms = self.change.map(|parameter| parameter.sources().iter().collect()).unwrap_or_default();
        Ok(Scattered { name: self.name, base, terms, destinations })
    }
}
