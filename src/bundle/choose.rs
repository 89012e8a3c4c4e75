//! Which format each parameter gets: one for all, or the smallest mixture that keeps a promise.

use indexmap::IndexMap;

use super::measure::{Gram, encode, ratio, task_factors};
use super::quantise::VectorFormat;
use crate::basis::{Basis, Parameter};
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::tensor::BlockFormat;

/// The format of every parameter that the vectors change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formats(IndexMap<String, VectorFormat>);

/// The formats that a mixture is made of, from the smallest on. bf16 is not among them: q8 takes half its bytes for
/// less error.
const CANDIDATES: [VectorFormat; 7] = [
    VectorFormat::Blocks(BlockFormat::Q2),
    VectorFormat::Blocks(BlockFormat::Q3),
    VectorFormat::Blocks(BlockFormat::Q4),
    VectorFormat::Blocks(BlockFormat::Q6),
    VectorFormat::Blocks(BlockFormat::Q8),
    VectorFormat::F16,
    VectorFormat::F32,
];

impl Formats {
    /// `format` for the matrices, and what [`VectorFormat::for_shape`] makes of it for the rest.
    pub(super) fn uniform<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a Parameter)>,
        format: VectorFormat,
    ) -> Self {
        Self(parameters.map(|(name, parameter)| (name.to_owned(), format.for_shape(parameter.shape()))).collect())
    }

    /// The format of a parameter.
    pub fn get(&self, parameter: &str) -> Option<VectorFormat> {
        self.0.get(parameter).copied()
    }

    /// Gives one parameter another format.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a parameter that no vector changes.
    pub fn set(&mut self, parameter: &str, format: VectorFormat) -> Result<()> {
        match self.0.get_mut(parameter) {
            Some(of) => {
                *of = format;
                Ok(())
            }
            None => Err(did_you_mean::unknown("parameter", parameter, self.0.keys().map(String::as_str))),
        }
    }

    /// Every parameter with its format.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, VectorFormat)> {
        self.0.iter().map(|(name, &format)| (name.as_str(), format))
    }

    /// The formats, each with the number of parameters that have it, the largest format first.
    pub fn count(&self) -> Vec<(VectorFormat, usize)> {
        let of = |format| self.0.values().filter(|&&f| f == format).count();
        VectorFormat::ALL.into_iter().map(|format| (format, of(format))).filter(|(_, n)| *n > 0).collect()
    }
}

/// The cost of every parameter in every format: measured once, chosen from as often as wanted.
pub(super) struct FormatCosts {
    parameters: Vec<ParameterCosts>,
    /// ‖τ̂_t‖² of the tasks.
    norms: Vec<f64>,
}

struct ParameterCosts {
    name: String,
    shape: Vec<usize>,
    /// The costs in each format of [`CANDIDATES`].
    costs: Vec<Cost>,
}

struct Cost {
    /// The bytes of all vectors.
    bytes: usize,
    /// The squared error of every task.
    errors: Vec<f64>,
}

impl FormatCosts {
    /// Encodes everything in every format. `progress` is told the bytes of the parameters that are done.
    pub(super) fn measure(
        basis: &Basis,
        parameters: &[(&str, &Parameter)],
        threads: usize,
        progress: &dyn Fn(u64),
    ) -> Result<Self> {
        let factors = task_factors(basis);
        let of_tasks = |gram: &Gram| -> Vec<f64> { factors.iter().map(|(_, a)| gram.quadratic(a)).collect() };
        let mut norms = vec![0.0; factors.len()];
        let mut all = Vec::with_capacity(parameters.len());
        for &(name, parameter) in parameters {
            let mut costs = Vec::with_capacity(CANDIDATES.len());
            for format in CANDIDATES {
                let encoded = encode(parameter.sources(), format, threads).map_err(|e| e.tensor(name));
                // What f16 cannot hold is simply not to be chosen.
                let encoded = match encoded {
                    Err(_) if format == VectorFormat::F16 => {
                        costs.push(Cost { bytes: usize::MAX / 2, errors: vec![f64::INFINITY; factors.len()] });
                        continue;
                    }
                    encoded => encoded?,
                };
                if costs.is_empty() {
                    norms.iter_mut().zip(of_tasks(&encoded.vectors)).for_each(|(norm, part)| *norm += part);
                }
                let bytes = encoded.rows.iter().map(Vec::len).sum();
                costs.push(Cost { bytes, errors: of_tasks(&encoded.errors) });
            }
            let source_bytes: usize = parameter.sources().iter().map(crate::tensor::Source::nbytes).sum();
            progress(source_bytes as u64);
            all.push(ParameterCosts { name: name.to_owned(), shape: parameter.shape().to_vec(), costs });
        }
        Ok(Self { parameters: all, norms })
    }

    /// The smallest choice found in which no task's relative error exceeds `max_error`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a bound that is negative or no number.
    pub(super) fn choose(&self, max_error: f64) -> Result<Formats> {
        if max_error.is_nan() || max_error < 0.0 {
            return Err(Error::invalid("the largest error must be a number of at least 0").got(max_error));
        }
        let bound = max_error * max_error;
        let uniform = (0..CANDIDATES.len())
            .map(|f| self.parameters.iter().map(|p| p.candidate_for(f)).collect::<Vec<_>>())
            .filter(|choice| self.worst(&self.errors(choice)).1 <= bound);
        let smaller = |best: Vec<usize>, other: Vec<usize>| match self.bytes(&other) < self.bytes(&best) {
            true => other,
            false => best,
        };
        let best = uniform.fold(self.mixture(bound), smaller);
        Ok(Formats(self.parameters.iter().zip(best).map(|(p, f)| (p.name.clone(), CANDIDATES[f])).collect()))
    }

    /// The squared relative error of each task.
    fn errors(&self, choice: &[usize]) -> Vec<f64> {
        let sum = |t: usize| self.parameters.iter().zip(choice).map(|(p, &f)| p.costs[f].errors[t]).sum::<f64>();
        self.norms.iter().enumerate().map(|(t, &norm)| ratio(sum(t), norm)).collect()
    }

    /// The task with the largest error, and that error.
    fn worst(&self, errors: &[f64]) -> (usize, f64) {
        let larger = |a: (usize, f64), b: (usize, f64)| if b.1 > a.1 { b } else { a };
        errors.iter().copied().enumerate().fold((0, 0.0), larger)
    }

    fn bytes(&self, choice: &[usize]) -> usize {
        self.parameters.iter().zip(choice).map(|(p, &f)| p.costs[f].bytes).fold(0, usize::saturating_add)
    }

    /// The mixture found from the smallest formats up: always the step that takes most from the worst task's error for
    /// its bytes, until the bound is kept; then down again wherever it still is.
    fn mixture(&self, bound: f64) -> Vec<usize> {
        let mut choice = vec![0; self.parameters.len()];
        loop {
            let (t, error) = self.worst(&self.errors(&choice));
            if error <= bound {
                break;
            }
            let steps = self.parameters.iter().enumerate().flat_map(|(p, parameter)| {
                let now = &parameter.costs[choice[p]];
                (choice[p] + 1..parameter.costs.len()).filter_map(move |f| {
                    let next = &parameter.costs[f];
                    let gain = now.errors[t] - next.errors[t];
                    (gain > 0.0).then(|| (gain / next.bytes.saturating_sub(now.bytes).max(1) as f64, p, f))
                })
            });
            // Of equals the first, so that the choice is always the same.
            let best = steps.fold(None, |best: Option<(f64, usize, usize)>, step| match best {
                Some(best) if best.0 >= step.0 => Some(best),
                _ => Some(step),
            });
            let Some((_, p, f)) = best else { break };
            choice[p] = f;
        }
        for p in 0..choice.len() {
            while choice[p] > 0 {
                choice[p] -= 1;
                if self.worst(&self.errors(&choice)).1 > bound {
                    choice[p] += 1;
                    break;
                }
            }
        }
        choice
    }
}

impl ParameterCosts {
    /// The candidate that stores this parameter where `f` stores the matrices.
    fn candidate_for(&self, f: usize) -> usize {
        let format = CANDIDATES[f].for_shape(&self.shape);
        CANDIDATES
            .iter()
            .position(|&candidate| candidate == format)
            .expect("f16, which small shapes get, is a candidate")
    }
}
