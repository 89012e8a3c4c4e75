//! The Gram matrix of task vectors, and what it tells.

use indexmap::IndexMap;
use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;

use super::family::Family;
use super::tile::{TILE, Tiles, TunedParameter, matrix, split};
use crate::basis::{Selector, plausibility};
use crate::checkpoint::is_image_tower;
use crate::error::{Error, Result};
use crate::kernel::threads;

/// A thread takes this many elements of a parameter at a time. Each such work item has a sum of its own, and these are
/// added in order, so that the result has the same bits on any number of threads.
const WORK_ITEM: usize = 64 * TILE;

/// `G[i,j] = ⟨τ_i, τ_j⟩` over all parameters, f64.
#[derive(Clone, Debug)]
pub struct Gram {
    tasks: Vec<String>,
    pub(super) values: DMatrix<f64>,
    /// The length of the base's weights that any task changes, where it is known.
    base_norm: Option<f64>,
    /// What each parameter that any task changes adds to the values; empty where the matrix is not of checkpoints.
    pub(super) parts: Vec<(String, DMatrix<f64>)>,
}

/// What a group of parameters adds to a Gram matrix.
#[derive(Clone, Debug)]
pub struct GramPart {
    /// The group.
    pub group: Selector,
    values: DMatrix<f64>,
}

impl GramPart {
    /// `⟨τ_i, τ_j⟩` over the parameters of the group.
    ///
    /// # Panics
    /// For an index of T or above.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.values[(i, j)]
    }

    /// The cosine of the angle between two task vectors within the group; 0 where one changes nothing there.
    ///
    /// # Panics
    /// For an index of T or above.
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        let lengths = self.get(i, i).sqrt() * self.get(j, j).sqrt();
        if lengths > 0.0 { (self.get(i, j) / lengths).clamp(-1.0, 1.0) } else { 0.0 }
    }
}

impl Gram {
    /// A Gram matrix of these entries, T rows of T.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where there are not T·T of them, one is not
    /// finite, they are not symmetric, a task vector is 0, or there is no task.
    pub fn new(tasks: Vec<String>, values: &[f64]) -> Result<Self> {
        let t = tasks.len();
        if t == 0 || values.len() != t * t || values.iter().any(|value| !value.is_finite()) {
            return Err(Error::invalid("a Gram matrix has T·T finite entries").got(values.len()));
        }
        let values = DMatrix::from_row_slice(t, t, values);
        if (&values - values.transpose()).amax() > 1e-9 * values.amax() {
            return Err(Error::invalid("a Gram matrix is symmetric"));
        }
        if let Some(zero) = (0..t).find(|&t| values[(t, t)] <= 0.0) {
            return Err(Error::invalid(format!("the weights of task `{}` are the base's", tasks[zero]))
                .hint("A task that changes nothing has no place in a basis"));
        }
        Ok(Self { tasks, values, base_norm: None, parts: Vec::new() })
    }

    /// The Gram matrix that these parts, T·T numbers for each parameter, add up to.
    pub(crate) fn of_parts(tasks: Vec<String>, parts: Vec<(String, Vec<f64>)>) -> Result<Self> {
        let t = tasks.len();
        let mut values = vec![0.0; t * t];
        for (_, part) in &parts {
            values.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        // What cancels out may leave a rounding on one side.
        let even: Vec<f64> = (0..t * t).map(|at| (values[at] + values[at % t * t + at / t]) / 2.0).collect();
        let parts = parts.into_iter().map(|(name, part)| (name, DMatrix::from_row_slice(t, t, &part))).collect();
        Ok(Self { parts, ..Self::new(tasks, &even)? })
    }

    /// The tasks, in the order of rows and columns.
    pub fn tasks(&self) -> &[String] {
        &self.tasks
    }

    /// `⟨τ_i, τ_j⟩`.
    ///
    /// # Panics
    /// For an index of T or above.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.values[(i, j)]
    }

    /// ‖τ_t‖ as a share of the length of the weights that any task changes, as they are in the base; `None` where the
    /// matrix is not of checkpoints ([`Family::gram`]). Fine-tuning gives a few hundredths.
    ///
    /// # Panics
    /// For an index of T or above.
    pub fn relative_length(&self, t: usize) -> Option<f64> {
        self.base_norm.filter(|&norm| norm > 0.0).map(|norm| self.get(t, t).sqrt() / norm)
    }

    /// Reasons to doubt that these are fine-tunes of this base: task vectors about as long as the base's weights, or
    /// nearly parallel to each other. Empty where all is as it should be.
    pub fn doubts(&self) -> Vec<String> {
        let lengths = self.tasks.iter().enumerate();
        let lengths = lengths.filter_map(|(t, task)| Some((task.as_str(), self.relative_length(t)?)));
        let spectrum = self.spectrum(false);
        let first = spectrum[0] / spectrum.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let parallel = (self.tasks.len() >= 2 && first >= plausibility::MIN_PARALLEL_SHARE).then(|| {
            format!(
                "the task vectors are nearly one vector (its direction has {:.2} % of the spectrum): another model's \
                 base, or one fine-tune several times?",
                100.0 * first
            )
        });
        plausibility::long(lengths).into_iter().chain(parallel).collect()
    }

    /// The shares of the groups that `group` puts the parameters into by their names, in the order of the parameters;
    /// empty where the matrix is not of checkpoints ([`Family::gram`]).
    pub fn by_group(&self, group: impl Fn(&str) -> Selector) -> Vec<GramPart> {
        let mut groups: IndexMap<Selector, DMatrix<f64>> = IndexMap::new();
        let t = self.tasks.len();
        for (name, values) in &self.parts {
            *groups.entry(group(name)).or_insert_with(|| DMatrix::zeros(t, t)) += values;
        }
        groups.into_iter().map(|(group, values)| GramPart { group, values }).collect()
    }

    /// The cosine of the angle between two task vectors.
    ///
    /// # Panics
    /// For an index of T or above.
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        (self.get(i, j) / (self.get(i, i).sqrt() * self.get(j, j).sqrt())).clamp(-1.0, 1.0)
    }

    /// The eigenvalues, the largest first, none below 0: the squared singular values of the matrix of task vectors.
    /// `centred` takes those of the vectors without their mean, as PCA does.
    pub fn spectrum(&self, centred: bool) -> Vec<f64> {
        let matrix = if centred { self.centred() } else { self.values.clone() };
        eigen(matrix).0
    }

    /// The fewest vectors whose share of the spectrum's sum is `keep` or more.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a share that is not above 0 and at most 1.
    pub fn vectors_for(&self, keep: f64, centred: bool) -> Result<usize> {
        if !(keep > 0.0 && keep <= 1.0) {
            return Err(Error::invalid("the share of the spectrum to keep is out of range")
                .expected("above 0 and at most 1")
                .got(keep));
        }
        let spectrum = self.spectrum(centred);
        let wanted = keep * spectrum.iter().sum::<f64>();
        let mut sum = 0.0;
        // Rounding may leave the last sum short of 1.0 times the whole.
        let enough = spectrum.iter().position(|value| {
            sum += value;
            sum >= wanted * (1.0 - 1e-12)
        });
        Ok(enough.map_or(self.tasks.len(), |at| at + 1))
    }

    /// `H·G·H` with `H = I − 1·1ᵀ/T`: the Gram matrix of the task vectors without their mean.
    pub(super) fn centred(&self) -> DMatrix<f64> {
        let t = self.tasks.len();
        let h = DMatrix::identity(t, t) - DMatrix::from_element(t, t, 1.0 / t as f64);
        &h * &self.values * &h
    }
}

/// Eigenvalues, the largest first and none below 0, and the eigenvectors as columns. A column's sign makes its largest
/// entry positive, so that it is always the same.
pub(super) fn eigen(matrix: DMatrix<f64>) -> (Vec<f64>, DMatrix<f64>) {
    let matrix = (&matrix + matrix.transpose()) * 0.5;
    let SymmetricEigen { eigenvalues, eigenvectors } = SymmetricEigen::new(matrix);
    let mut order: Vec<usize> = (0..eigenvalues.len()).collect();
    order.sort_by(|&i, &j| eigenvalues[j].total_cmp(&eigenvalues[i]));
    let columns: Vec<_> = order
        .iter()
        .map(|&i| {
            let column = eigenvectors.column(i);
            let largest = column[column.iamax()];
            column * largest.signum()
        })
        .collect();
    (order.iter().map(|&i| eigenvalues[i].max(0.0)).collect(), DMatrix::from_columns(&columns))
}

/// The work of a thread: a range of one parameter, and where its sum goes.
struct WorkItem<'a> {
    parameter: &'a TunedParameter,
    range: std::ops::Range<usize>,
    sum: &'a mut Array2<f64>,
    changed: &'a mut bool,
}

impl Family {
    /// The Gram matrix of the task vectors, in one pass over all checkpoints on up to `threads` threads (0: one per
    /// processor). `progress` is told how many more of [`Family::bytes`] have been read, from any thread.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where a value is not finite, naming file and tensor;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a task whose weights are the base's.
    pub fn gram(&self, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Gram> {
        let t = self.tasks().len();
        let places: Vec<(usize, std::ops::Range<usize>)> = self
            .parameters
            .iter()
            .enumerate()
            .flat_map(|(p, parameter)| split(0..parameter.numel(), WORK_ITEM).map(move |range| (p, range)))
            .collect();
        let mut sums = vec![(Array2::<f64>::zeros((0, 0)), false); places.len()];
        let items = places.iter().zip(&mut sums).map(|((p, range), (sum, changed))| WorkItem {
            parameter: &self.parameters[*p],
            range: range.clone(),
            sum,
            changed,
        });
        threads::share(threads, items.collect(), |mut item: WorkItem<'_>, tiles: &mut Tiles| {
            item.run(t, tiles).map_err(|e| e.tensor(&item.parameter.name))?;
            progress(item.parameter.bytes() * item.range.len() as u64 / item.parameter.numel() as u64);
            Ok(())
        })?;

        let mut total = Array2::<f64>::zeros((t, t));
        let symmetric = |of: &Array2<f64>| DMatrix::from_fn(t, t, |i, j| (of[[i, j]] + of[[j, i]]) / 2.0);
        let mut parts: Vec<(String, DMatrix<f64>)> = Vec::new();
        for ((p, _), (sum, changed)) in places.iter().zip(&sums) {
            if *changed {
                total += sum;
                let name = &self.parameters[*p].name;
                match parts.last_mut() {
                    Some((last, part)) if last == name => *part += symmetric(sum),
                    _ => parts.push((name.clone(), symmetric(sum))),
                }
            }
            let parameter = &self.parameters[*p];
            if sum.iter().any(|value| !value.is_finite()) {
                return Err(not_finite(parameter));
            }
        }
        for (p, parameter) in self.parameters.iter().enumerate() {
            let changed = places.iter().zip(&sums).any(|((of, _), (_, changed))| *of == p && *changed);
            let _ = parameter.changed.set(changed);
        }
        let values: Vec<f64> = (0..t * t).map(|i| (total[[i / t, i % t]] + total[[i % t, i / t]]) / 2.0).collect();
        let changed = self.parameters.iter().filter(|parameter| parameter.is_changed());
        let base_norm = plausibility::square(changed.map(|parameter| &parameter.base))?.sqrt();
        let gram = Gram::new(self.tasks().map(str::to_owned).collect(), &values)?;
        Ok(Gram { base_norm: Some(base_norm), parts, ..gram })
    }
}

impl WorkItem<'_> {
    fn run(&mut self, tasks: usize, tiles: &mut Tiles) -> Result<()> {
        for range in split(self.range.clone(), TILE) {
            let (vectors, changed) = tiles.read(self.parameter, range)?;
            // Most of a text tower is never touched.
            if changed {
                if !*self.changed {
                    *self.sum = matrix(tasks, tasks)?;
                    *self.changed = true;
                }
                general_mat_mul(1.0, &vectors, &vectors.t(), 1.0, self.sum);
            }
        }
        Ok(())
    }
}

/// The error that says where a value is that is not finite.
fn not_finite(parameter: &TunedParameter) -> Error {
    let tensors = parameter.tuned.iter().chain([&parameter.base]);
    let found = tensors.map(|tensor| (tensor, tensor.verify_finite())).find_map(|(tensor, verified)| {
        let error = verified.err()?;
        Some(error.at(tensor.mapping().path()))
    });
    let error = found.unwrap_or_else(|| Error::format("the task vectors' values overflow")).tensor(&parameter.name);
    match is_image_tower(&parameter.name) {
        true => error,
        false => error.hint("Only the image tower is run: --image-tower (Scope::ImageTower) builds from it alone"),
    }
}
