//! Which format each parameter gets: one for all, or the smallest mixture that keeps a promise.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::measure::{EncodedVectors, Gram, directions, encode, encode_low_rank, ratio, task_factors};
use super::quantise::{StoredFormat, VectorFormat};
use crate::basis::{Basis, Parameter};
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::tensor::{BlockFormat, LowRankFormat, matrix_of};

/// The format of every parameter that the vectors change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formats(IndexMap<String, StoredFormat>);

/// The formats that a mixture is made of, value by value, from the smallest on. bf16 is not among them: q8 takes half
/// its bytes for less error.
const CANDIDATES: [VectorFormat; 7] = [
    VectorFormat::Blocks(BlockFormat::Q2),
    VectorFormat::Blocks(BlockFormat::Q3),
    VectorFormat::Blocks(BlockFormat::Q4),
    VectorFormat::Blocks(BlockFormat::Q6),
    VectorFormat::Blocks(BlockFormat::Q8),
    VectorFormat::F16,
    VectorFormat::F32,
];

/// The ranks of matrices that are candidates too, with the format of their factors. At equal bytes factors in q4 lose
/// less of embeddings below half a bit per value, and those in q6 above (docs/bundle-format.md).
const RANKS: [(usize, BlockFormat); 14] = [
    (2, BlockFormat::Q4),
    (4, BlockFormat::Q4),
    (8, BlockFormat::Q4),
    (12, BlockFormat::Q4),
    (16, BlockFormat::Q4),
    (24, BlockFormat::Q4),
    (24, BlockFormat::Q6),
    (32, BlockFormat::Q4),
    (32, BlockFormat::Q6),
    (48, BlockFormat::Q4),
    (48, BlockFormat::Q6),
    (64, BlockFormat::Q4),
    (64, BlockFormat::Q6),
    (96, BlockFormat::Q6),
];

impl Formats {
    /// `format` for the matrices, and what [`StoredFormat::for_shape`] makes of it for the rest.
    pub(super) fn uniform<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a Parameter)>,
        format: StoredFormat,
    ) -> Self {
        Self(parameters.map(|(name, parameter)| (name.to_owned(), format.for_shape(parameter.shape()))).collect())
    }

    /// The format of a parameter.
    pub fn get(&self, parameter: &str) -> Option<StoredFormat> {
        self.0.get(parameter).copied()
    }

    /// Gives one parameter another format.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a parameter that no vector changes.
    pub fn set(&mut self, parameter: &str, format: StoredFormat) -> Result<()> {
        match self.0.get_mut(parameter) {
            Some(of) => {
                *of = format;
                Ok(())
            }
            None => Err(did_you_mean::unknown("parameter", parameter, self.0.keys().map(String::as_str))),
        }
    }

    /// Every parameter with its format.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, StoredFormat)> {
        self.0.iter().map(|(name, &format)| (name.as_str(), format))
    }

    /// The formats, each with the number of parameters that have it: value by value, the largest first, then ranks, the
    /// highest first.
    pub fn count(&self) -> Vec<(StoredFormat, usize)> {
        let place = |format: &StoredFormat| match format {
            StoredFormat::Values(format) => (0, VectorFormat::ALL.iter().position(|known| known == format), 0),
            StoredFormat::LowRank(format) => (1, None, usize::MAX - format.rank()),
        };
        let mut counts: Vec<(StoredFormat, usize)> = Vec::new();
        for &format in self.0.values() {
            match counts.iter_mut().find(|(known, _)| *known == format) {
                Some((_, count)) => *count += 1,
                None => counts.push((format, 1)),
            }
        }
        counts.sort_by_key(|(format, _)| place(format));
        counts
    }
}

/// Whether a format loses what a lower rank does, or what rounding does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LossKind {
    Rounding,
    Rank,
}

impl LossKind {
    pub(super) fn of(format: StoredFormat) -> Self {
        match format {
            StoredFormat::Values(_) => Self::Rounding,
            StoredFormat::LowRank(_) => Self::Rank,
        }
    }
}

/// The weights of errors: by parameter and kind of loss, the squared distance of embeddings for a squared error of 1.
pub(super) type Sensitivity = HashMap<(String, LossKind), f64>;

/// The cost of every parameter in every format: measured once, chosen from as often as wanted.
pub(super) struct FormatCosts {
    parameters: Vec<ParameterCosts>,
    /// ‖τ̂_t‖² of the tasks.
    norms: Vec<f64>,
}

struct ParameterCosts {
    name: String,
    shape: Vec<usize>,
    /// The cost in each format that this parameter may have, the smallest first.
    costs: Vec<Cost>,
}

#[derive(Clone)]
struct Cost {
    format: StoredFormat,
    /// The bytes of all vectors.
    bytes: usize,
    /// The squared error of every task.
    errors: Vec<f64>,
}

/// One choice for each parameter: the place among its costs.
type Choice = Vec<usize>;

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
            let mut costs = Vec::new();
            let mut add = |format: StoredFormat, encoded: EncodedVectors| {
                if costs.is_empty() {
                    norms.iter_mut().zip(of_tasks(&encoded.vectors)).for_each(|(norm, part)| *norm += part);
                }
                let bytes = encoded.rows.iter().map(Vec::len).sum();
                costs.push(Cost { format, bytes, errors: of_tasks(&encoded.errors) });
            };
            let sources = parameter.sources();
            let fitting = |format: &StoredFormat| format.for_shape(parameter.shape()) == *format;
            for format in CANDIDATES.map(StoredFormat::from).into_iter().filter(fitting) {
                match encode(sources, format, threads) {
                    // What f16 cannot hold is simply not to be chosen.
                    Err(_) if format == VectorFormat::F16.into() => {}
                    encoded => add(format, encoded.map_err(|e| e.tensor(name))?),
                }
            }
            let ranks = low_ranks(parameter.shape());
            if let Some(most) = ranks.last() {
                let found = directions(sources, most.rank(), threads).map_err(|e| e.tensor(name))?;
                for format in ranks {
                    let encoded = encode_low_rank(sources, &found, format, threads).map_err(|e| e.tensor(name))?;
                    add(format.into(), encoded);
                }
            }
            costs.sort_by_key(|cost| cost.bytes);
            progress(sources.iter().map(|source| source.nbytes() as u64).sum());
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
        let uniform = CANDIDATES
            .iter()
            .filter_map(|&format| self.uniform(format.into()))
            .filter(|choice| self.worst(&self.errors(choice)).1 <= bound);
        let smaller = |best: Choice, other: Choice| match self.bytes(&other) < self.bytes(&best) {
            true => other,
            false => best,
        };
        Ok(self.formats(&uniform.fold(self.mixture(bound), smaller)))
    }

    /// The smallest formats of all, and the error of the worst task in them.
    pub(super) fn smallest(&self) -> (Formats, f64) {
        let choice = vec![0; self.parameters.len()];
        (self.formats(&choice), self.worst(&self.errors(&choice)).1.sqrt())
    }

    /// The formats of a matrix in which it is seen what errors of each kind do: two bits, and a rank of about a
    /// quarter of its directions. None of what is no matrix, which takes hardly any bytes.
    pub(super) fn coarse_formats(&self, parameter: &str) -> Vec<StoredFormat> {
        let Some(found) = self.parameters.iter().find(|p| p.name == parameter) else { return Vec::new() };
        let Some((rows, columns)) = matrix_of(&found.shape) else { return Vec::new() };
        let wanted = (rows.min(columns) / 4).max(4);
        let rank = found.costs.iter().filter_map(|cost| match cost.format {
            StoredFormat::LowRank(format) => Some(format),
            StoredFormat::Values(_) => None,
        });
        let rank = rank.min_by_key(|format| format.rank().abs_diff(wanted)).map(StoredFormat::from);
        std::iter::once(BlockFormat::Q2.into()).chain(rank).collect()
    }

    /// The squared error of a task in one of the formats of a parameter; 0 for one that it may not have.
    pub(super) fn error(&self, parameter: &str, format: StoredFormat, task: usize) -> f64 {
        let cost = self.parameters.iter().find(|p| p.name == parameter);
        let cost = cost.and_then(|p| p.costs.iter().find(|cost| cost.format == format));
        cost.map_or(0.0, |cost| cost.errors[task])
    }

    /// The same costs, their errors times what these weights say, as they are and not as shares of a task's length. A
    /// kind of loss that was not seen in a parameter weighs what the other does, and a parameter without any nothing.
    pub(super) fn weighed(&self, weights: &Sensitivity) -> Self {
        let weight = |name: &str, format: StoredFormat| {
            let of = |kind| weights.get(&(name.to_owned(), kind)).copied();
            of(LossKind::of(format)).or_else(|| of(LossKind::Rounding)).unwrap_or(0.0)
        };
        let parameters = self.parameters.iter().map(|p| {
            let costs = p.costs.iter().map(|cost| {
                let weight = weight(&p.name, cost.format);
                let errors = cost.errors.iter().map(|error| weight * error).collect();
                Cost { format: cost.format, bytes: cost.bytes, errors }
            });
            ParameterCosts { name: p.name.clone(), shape: p.shape.clone(), costs: costs.collect() }
        });
        Self { parameters: parameters.collect(), norms: vec![1.0; self.norms.len()] }
    }

    /// The same costs without those of ranks.
    pub(super) fn of_values(&self) -> Self {
        let parameters = self.parameters.iter().map(|p| {
            let costs = p.costs.iter().filter(|cost| matches!(cost.format, StoredFormat::Values(_))).cloned();
            ParameterCosts { name: p.name.clone(), shape: p.shape.clone(), costs: costs.collect() }
        });
        Self { parameters: parameters.collect(), norms: self.norms.clone() }
    }

    fn formats(&self, choice: &Choice) -> Formats {
        Formats(self.parameters.iter().zip(choice).map(|(p, &f)| (p.name.clone(), p.costs[f].format)).collect())
    }

    /// The same format for all matrices, and for the rest what is made of it; `None` where a parameter does not fit.
    fn uniform(&self, format: StoredFormat) -> Option<Choice> {
        let place = |p: &ParameterCosts| p.costs.iter().position(|cost| cost.format == format.for_shape(&p.shape));
        self.parameters.iter().map(place).collect()
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
    fn mixture(&self, bound: f64) -> Choice {
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
            // What is smaller than a choice may be worse than something smaller still.
            let kept = choice[p];
            let fits = (0..kept).find(|&f| {
                choice[p] = f;
                self.worst(&self.errors(&choice)).1 <= bound
            });
            choice[p] = fits.unwrap_or(kept);
        }
        choice
    }
}

/// The formats that a mixture is made of, value by value and of low rank, from the smallest on.
pub(super) fn candidates() -> (Vec<StoredFormat>, Vec<StoredFormat>) {
    let ranks = if cfg!(feature = "build") { &RANKS[..] } else { &[] };
    let ranks = ranks.iter().filter_map(|&(rank, factors)| LowRankFormat::new(rank, factors).ok());
    (CANDIDATES.map(StoredFormat::from).to_vec(), ranks.map(StoredFormat::from).collect())
}

/// The ranks that are worth a try: those whose factors are smaller than a matrix of this shape is. None where nothing
/// finds directions.
fn low_ranks(shape: &[usize]) -> Vec<LowRankFormat> {
    let of_format = |format: StoredFormat| match format {
        StoredFormat::LowRank(rank) if format.for_shape(shape) == format => Some(rank),
        _ => None,
    };
    candidates().1.into_iter().filter_map(of_format).collect()
}
