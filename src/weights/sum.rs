//! Tensors that are finished when all of their parts are there: sums, and rows that a batch normalisation multiplies.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::batch_norm::BatchNorm;
use super::layout::{Layout, TensorSpec, View};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{self, threads};
use crate::tensor::{DType, try_zeroed};

/// A tensor of several parts, which are a few rows each, or of one that is multiplied before it is rounded.
pub(super) struct SumOfParts<'a> {
    pub(super) tensor: &'a TensorSpec,
    pub(super) parts: Vec<Vec<f32>>,
    pub(super) out: &'a mut [u8],
}

impl SumOfParts<'_> {
    pub(super) fn add_up(self, layout: &Layout, factors: &Factors<'_>) -> Result<()> {
        let mut sum = try_zeroed::<f32>(self.tensor.numel())?;
        for (i, (view, mut part)) in self.tensor.parts.iter().zip(self.parts).enumerate() {
            factors.apply(layout, view, &mut part)?;
            let repeated = sum.iter_mut().zip(part.iter().cycle());
            repeated.for_each(|(sum, value)| *sum = if i == 0 { *value } else { *sum + value });
        }
        kernel::cast(&sum, self.tensor.dtype, self.out);
        Ok(())
    }
}

/// Whether a tensor is one parameter whose rows are multiplied where they are, without memory beside it: that of a
/// convolution is most of a model.
pub(super) fn is_multiplied_in_place(tensor: &TensorSpec) -> bool {
    matches!(tensor.parts.as_slice(), [View { norm: Some(_), .. }])
        && tensor.dtype == DType::F32
        && tensor.packed.is_none()
}

/// The batch normalisations of a layout, and the values that their factors are made of.
pub(super) struct Norms<'a> {
    norms: Vec<&'a BatchNorm>,
    values: IndexMap<&'a str, Vec<f32>>,
}

impl<'a> Norms<'a> {
    pub(super) fn of(layout: &'a Layout) -> Result<Self> {
        let (mut norms, mut values) = (Vec::new(), IndexMap::new());
        for norm in layout.tensors().iter().flat_map(|tensor| &tensor.parts).filter_map(|part| part.norm.as_ref()) {
            if norms.contains(&norm) {
                continue;
            }
            norms.push(norm);
            for name in norm.parameters() {
                let shape = layout.shape_of(name).ok_or_else(|| unknown(name))?;
                values.insert(name, try_zeroed(shape.iter().product())?);
            }
        }
        Ok(Self { norms, values })
    }

    /// The parameters that have to be reconstructed for them, and where to.
    pub(super) fn inputs(&mut self) -> impl Iterator<Item = (&'a str, &mut [f32])> {
        self.values.iter_mut().map(|(name, values)| (*name, values.as_mut_slice()))
    }

    /// What they multiply with, once those parameters are there.
    pub(super) fn factors(&self) -> Result<Factors<'a>> {
        let values = |name: &str| self.values.get(name).map(Vec::as_slice).ok_or_else(|| unknown(name));
        let mut factors = HashMap::new();
        for norm in &self.norms {
            let weight = norm.weight.as_deref().map(values).transpose()?;
            factors.insert(key(norm), norm.factors(weight, values(&norm.variance)?)?);
        }
        Ok(Factors(factors))
    }
}

type Key<'a> = (Option<&'a str>, &'a str, u32);

fn key(norm: &BatchNorm) -> Key<'_> {
    (norm.weight.as_deref(), &norm.variance, norm.epsilon.to_bits())
}

/// What the batch normalisations of a layout multiply with.
pub(super) struct Factors<'a>(HashMap<Key<'a>, Vec<f64>>);

impl Factors<'_> {
    /// Multiplies the elements of a view, which are there once, where it has a batch normalisation.
    fn apply(&self, layout: &Layout, view: &View, values: &mut [f32]) -> Result<()> {
        let Some(norm) = &view.norm else { return Ok(()) };
        let factors = self.0.get(&key(norm)).ok_or_else(|| unknown(&norm.variance))?;
        let shape = layout.shape_of(&view.parameter).ok_or_else(|| unknown(&view.parameter))?;
        view.multiply_rows(shape, factors, values)
    }

    /// Multiplies the rows of tensors where they are.
    pub(super) fn multiply<'t>(
        &self,
        layout: &Layout,
        tensors: impl Iterator<Item = (&'t TensorSpec, &'t mut [f32])>,
        threads: usize,
    ) -> Result<()> {
        /// Elements below which another thread costs more than it brings.
        const ALONE: usize = 1 << 20;

        let tensors: Vec<_> = tensors.collect();
        let elements: usize = tensors.iter().map(|(tensor, _)| tensor.numel()).sum();
        threads::share(if elements < ALONE { 1 } else { threads }, tensors, |(tensor, out), (): &mut ()| {
            let [part] = tensor.parts.as_slice() else { return Ok(()) };
            let once = (tensor.numel() / part.count()).max(1);
            out[..tensor.numel()].chunks_mut(once).try_for_each(|values| self.apply(layout, part, values))
        })
    }
}

fn unknown(name: &str) -> Error {
    Error::new(ErrorKind::Internal, "a layout does not know a parameter of its own").tensor(name)
}
