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

/// What a mixture is made of, from the smallest on. bf16 is not among them: q8 takes half its bytes for less error.
const LADDER: [VectorFormat; 7] = [
    VectorFormat::Blocks(BlockFormat::Q2),
    VectorFormat::Blocks(BlockFormat::Q3),
    VectorFormat::Blocks(BlockFormat::Q4),
    VectorFormat::Blocks(BlockFormat::Q6),
    VectorFormat::Blocks(BlockFormat::Q8),
    VectorFormat::F16,
    VectorFormat::F32,
];

impl Formats {
    /// `format` for the matrices. What has one dimension (LayerNorms, biases, the class embedding) is kept as f16 where
    /// `format` is smaller than that: on the digits family the task vectors' errors are 0.5 % smaller then (q8 to q2),
    /// and at ViT-B-32's size it takes 0.3 % more bytes.
    pub(super) fn uniform<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a Parameter)>,
        format: VectorFormat,
    ) -> Self {
        let of = |parameter: &Parameter| match format {
            VectorFormat::Blocks(_) if parameter.shape().len() < 2 => SMALL,
            format => format,
        };
        Self(parameters.map(|(name, parameter)| (name.to_owned(), of(parameter))).collect())
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

    /// How many parameters have each format, the largest format first.
    pub fn count(&self) -> Vec<(VectorFormat, usize)> {
        let of = |format| self.0.values().filter(|&&f| f == format).count();
        VectorFormat::ALL.into_iter().map(|format| (format, of(format))).filter(|(_, n)| *n > 0).collect()
    }
}

/// What one-dimensional parameters are kept in.
pub(super) const SMALL: VectorFormat = VectorFormat::F16;

/// What every parameter would cost in every format: measured once, chosen from as often as wanted.
pub(super) struct Ladder {
    parameters: Vec<Rungs>,
    /// ‖τ̂_t‖² of the tasks.
    norms: Vec<f64>,
}

struct Rungs {
    name: String,
    small: bool,
    /// By format: the bytes of all vectors, and the squared error of every task.
    formats: Vec<(usize, Vec<f64>)>,
}

impl Ladder {
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
            let mut formats = Vec::with_capacity(LADDER.len());
            for format in LADDER {
                let encoded = encode(parameter.sources(), format, threads).map_err(|e| e.tensor(name));
                // What f16 cannot hold is simply not to be chosen.
                let encoded = match encoded {
                    Err(_) if format == VectorFormat::F16 => {
                        formats.push((usize::MAX / 2, vec![f64::INFINITY; factors.len()]));
                        continue;
                    }
                    encoded => encoded?,
                };
                if formats.is_empty() {
                    norms.iter_mut().zip(of_tasks(&encoded.vectors)).for_each(|(norm, part)| *norm += part);
                }
                let bytes = encoded.rows.iter().map(Vec::len).sum();
                formats.push((bytes, of_tasks(&encoded.errors)));
            }
            let source_bytes: usize = parameter.sources().iter().map(crate::tensor::Source::nbytes).sum();
            progress(source_bytes as u64);
            all.push(Rungs { name: name.to_owned(), small: parameter.shape().len() < 2, formats });
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
        let mixed = self.mixture(max_error * max_error);
        let uniform = (0..LADDER.len())
            .map(|f| self.parameters.iter().map(|p| self.uniform_rung(p, f)).collect::<Vec<_>>())
            .filter(|choice| self.worst(&self.errors(choice)).1 <= max_error * max_error);
        let best = std::iter::once(mixed).chain(uniform).min_by_key(|choice| self.bytes(choice)).unwrap_or_default();
        Ok(Formats(self.parameters.iter().zip(best).map(|(p, f)| (p.name.clone(), LADDER[f])).collect()))
    }

    fn uniform_rung(&self, parameter: &Rungs, format: usize) -> usize {
        let small = LADDER.iter().position(|&f| f == SMALL).unwrap_or(format);
        if parameter.small { small.max(format) } else { format }
    }

    /// Squared relative error a task.
    fn errors(&self, choice: &[usize]) -> Vec<f64> {
        let sum = |t: usize| self.parameters.iter().zip(choice).map(|(p, &f)| p.formats[f].1[t]).sum::<f64>();
        self.norms.iter().enumerate().map(|(t, &norm)| ratio(sum(t), norm)).collect()
    }

    fn worst(&self, errors: &[f64]) -> (usize, f64) {
        let larger = |a: (usize, f64), b: (usize, f64)| if b.1 > a.1 { b } else { a };
        errors.iter().copied().enumerate().fold((0, 0.0), larger)
    }

    fn bytes(&self, choice: &[usize]) -> usize {
        self.parameters.iter().zip(choice).map(|(p, &f)| p.formats[f].0).fold(0, usize::saturating_add)
    }

    /// From the smallest formats up: always the step that takes most from the worst task's error for its bytes, until
    /// the bound is kept; then down again wherever it still is.
    fn mixture(&self, bound: f64) -> Vec<usize> {
        let mut choice = vec![0; self.parameters.len()];
        loop {
            let (t, error) = self.worst(&self.errors(&choice));
            if error <= bound {
                break;
            }
            let steps = self.parameters.iter().enumerate().flat_map(|(p, rungs)| {
                let (bytes, errors) = &rungs.formats[choice[p]];
                (choice[p] + 1..rungs.formats.len()).filter_map(move |f| {
                    let (more, fewer) = (&rungs.formats[f].0, &rungs.formats[f].1);
                    let gain = errors[t] - fewer[t];
                    (gain > 0.0).then(|| (gain / more.saturating_sub(*bytes).max(1) as f64, p, f))
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
