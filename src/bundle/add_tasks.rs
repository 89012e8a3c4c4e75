//! Updating a bundle: new tasks in the span of its vectors, and residuals for what the span lacks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use indexmap::IndexMap;

use super::chunks::{encoded_row, is_same, read};
use super::format::{Metadata, Role};
use super::gate::PrecisionMeasure;
use super::items::{head_items, recovery_item, vector_item};
use super::measure::ratio;
use super::merge_source::{AddedMerge, Squares};
use super::opened::Bundle;
use super::quantise::StoredFormat;
use super::recombination::Recombination;
use super::solve::least_squares;
use super::task_fit::TaskFit;
use super::writer::{self, Item};
use crate::atomic_file::replace_file_if;
use crate::checkpoint::Checkpoint;
use crate::did_you_mean::unknown;
use crate::error::{Error, ErrorKind, Result};
use crate::heads::Head;
use crate::tensor::{BlockFormat, DType, Source, Tensor, try_zeroed};

/// A task to be added.
#[derive(Debug)]
pub struct NewTask<'a> {
    /// The name of the task.
    pub name: &'a str,
    /// Its fine-tuned weights.
    pub finetuned: &'a Checkpoint,
    /// Its head, with class names where there are some.
    pub head: Option<Head>,
    /// The format in which to store what the span lacks of it; `None`: that is given up.
    pub residual: Option<StoredFormat>,
}

/// Changes to a bundle, gathered and then written as a whole.
#[derive(Debug)]
pub struct BundleUpdate<'a> {
    pub(super) bundle: &'a Bundle,
    /// The base's parameters.
    pub(super) base: IndexMap<String, Tensor>,
    pub(super) metadata: Metadata,
    /// Columns of the recovery table, all of them.
    pub(super) columns: Vec<Vec<f64>>,
    heads: Vec<(String, Head)>,
    pub(super) residuals: Vec<NewResidual<'a>>,
    pub(super) fits: Vec<TaskFit>,
    pub(super) merges: Vec<AddedMerge<'a>>,
    /// What takes the place of the bundle's vectors.
    pub(super) recombination: Option<Recombination<'a>>,
    /// Tasks of the bundle that are taken out.
    pub(super) removed: Vec<String>,
    /// The golden embedding that takes the place of the bundle's.
    golden: Option<Vec<f32>>,
    /// What was measured of precisions, in the place of what the bundle tells.
    precision: Option<PrecisionMeasure>,
    pub(super) router: KeptRouter,
    pub(super) threads: usize,
}

/// What becomes of the router that the bundle keeps.
#[derive(Debug)]
pub(super) enum KeptRouter {
    AsItIs,
    LeftOut,
    /// By this file of a router's.
    Replaced(Vec<u8>),
}

/// A residual that the bundle does not hold yet.
#[derive(Debug)]
pub(super) struct NewResidual<'a> {
    pub(super) task: usize,
    finetuned: &'a Checkpoint,
    format: StoredFormat,
    /// Its task's place among the fits.
    fit: usize,
}

impl<'a> BundleUpdate<'a> {
    /// An update of `bundle`; `base` is needed where the bundle leaves its own out.
    ///
    /// # Errors
    /// As [`Bundle::base_or`].
    pub fn new(bundle: &'a Bundle, base: Option<&Checkpoint>) -> Result<Self> {
        let tensors =
            |base: &Checkpoint| base.encoder().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        let base = match base {
            Some(base) => bundle.check_base(base).map(|()| tensors(base))?,
            None => tensors(&bundle.base_or(None)?),
        };
        Ok(Self::over(bundle, base))
    }

    pub(super) fn over(bundle: &'a Bundle, base: IndexMap<String, Tensor>) -> Self {
        let tasks = bundle.tasks().len();
        let columns = (0..tasks).map(|t| bundle.recovery.iter().skip(t).step_by(tasks).copied().collect()).collect();
        Self {
            bundle,
            base,
            metadata: bundle.metadata.clone(),
            columns,
            heads: Vec::new(),
            residuals: Vec::new(),
            fits: Vec::new(),
            recombination: None,
            removed: Vec::new(),
            merges: Vec::new(),
            golden: None,
            precision: None,
            router: KeptRouter::AsItIs,
            threads: 0,
        }
    }

    /// Gives the bundle this golden embedding.
    pub(super) fn golden(&mut self, embedding: Vec<f32>) {
        self.golden = Some(embedding);
    }

    /// Gives the bundle what was measured of precisions, which must be over the bundle as it is
    /// ([`Bundle::measure_precision`]). With new tasks or residuals there is nothing that was measured over those:
    /// [`BundleUpdate::write`] leaves this out, and what the bundle told before.
    pub fn precision(&mut self, measure: PrecisionMeasure) -> &mut Self {
        self.precision = Some(measure);
        self
    }

    /// Threads; 0, the default, means one per processor. The bytes do not depend on them.
    pub fn threads(&mut self, threads: usize) -> &mut Self {
        self.threads = threads;
        self
    }

    /// Adds a task: its coefficients are those of the least ‖τ − τ̂‖ in the span of the vectors (for PCA, of the span
    /// around the mean), found from normal equations in f64.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a name that is taken or empty;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a checkpoint of another model or a head of other
    /// embeddings.
    pub fn task(&mut self, task: NewTask<'a>) -> Result<&TaskFit> {
        let NewTask { name, finetuned, head, residual } = task;
        self.check_new(name, head)?;
        let span = self.span(finetuned, false)?;
        let vectors = self.metadata.basis.vectors;
        let gram: Vec<f64> = (0..vectors * vectors).map(|k| span.gram.get(k / vectors, k % vectors)).collect();
        let target: Vec<f64> = (0..vectors).map(|k| span.gram.get(k, vectors)).collect();
        let (coefficients, rank) = least_squares(&gram, &target);
        let t = self.add_column(name, coefficients.clone());
        Ok(self.add_fit(span.fit(name, coefficients, rank), t, finetuned, residual))
    }

    /// Takes a new task's name and head, where they are free and fit.
    pub(super) fn check_new(&mut self, name: &str, head: Option<Head>) -> Result<()> {
        self.check_new_name(name)?;
        if let Some(head) = head {
            head.check_tower(name, self.bundle.arch())?;
            if self.bundle.heads.contains_key(name) {
                return Err(Error::invalid(format!("the bundle has a head of `{name}`")).at(self.bundle.path()));
            }
            self.metadata.add_head(name, &head);
            self.heads.push((name.to_owned(), head));
        }
        Ok(())
    }

    /// Refuses a name that the bundle has, or that is none.
    pub(super) fn check_new_name(&self, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("the new task's name is empty"));
        }
        if self.metadata.basis.tasks.iter().any(|known| known == name) {
            return Err(Error::invalid(format!("the bundle has a task `{name}` already"))
                .at(self.bundle.path())
                .hint("Choose another name"));
        }
        if self.metadata.names.contains_key(name) {
            return Err(Error::invalid(format!("the bundle keeps an expression as `{name}`"))
                .at(self.bundle.path())
                .hint("Choose another name, or forget that one"));
        }
        Ok(())
    }

    /// Adds a task with these coefficients; gives its index.
    pub(super) fn add_column(&mut self, name: &str, coefficients: Vec<f64>) -> usize {
        self.columns.push(coefficients);
        self.metadata.basis.tasks.push(name.to_owned());
        self.columns.len() - 1
    }

    /// The fits so far, in the order in which tasks and residuals were added.
    pub fn fits(&self) -> &[TaskFit] {
        &self.fits
    }

    /// Stores what the vectors lack of a task that the bundle has, quantisation included; its coefficients stay.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown task;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where it has a residual already;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a checkpoint of another model;
    /// [`ErrorKind::NotRecoverable`](crate::ErrorKind::NotRecoverable) for a task without coefficients.
    pub fn residual(&mut self, task: &str, finetuned: &'a Checkpoint, format: StoredFormat) -> Result<&TaskFit> {
        let t = self.task_without_residual(task)?;
        let fit = self.fit_of(t, finetuned)?;
        Ok(self.add_fit(fit, t, finetuned, Some(format)))
    }

    /// The fit of the vectors, as they are stored, to a task that the bundle has and that has no residual.
    ///
    /// # Errors
    /// As [`BundleUpdate::residual`].
    pub fn measure(&self, task: &str, finetuned: &Checkpoint) -> Result<TaskFit> {
        self.fit_of(self.task_without_residual(task)?, finetuned)
    }

    fn add_fit(
        &mut self,
        fit: TaskFit,
        task: usize,
        finetuned: &'a Checkpoint,
        residual: Option<StoredFormat>,
    ) -> &TaskFit {
        let index = self.push_fit(fit);
        self.residuals.extend(residual.map(|format| NewResidual { task, finetuned, format, fit: index }));
        &self.fits[index]
    }

    /// Notes a fit; gives its place.
    pub(super) fn push_fit(&mut self, fit: TaskFit) -> usize {
        self.fits.push(fit);
        self.fits.len() - 1
    }

    /// The index of the task called `task`, which has coefficients and no residual yet.
    fn task_without_residual(&self, task: &str) -> Result<usize> {
        let tasks = self.metadata.basis.tasks.iter().map(String::as_str);
        let t = tasks.clone().position(|known| known == task);
        let t = t.ok_or_else(|| unknown("task", task, tasks).at(self.bundle.path()))?;
        if self.metadata.basis.residuals.iter().any(|known| known == task)
            || self.residuals.iter().any(|residual| residual.task == t)
        {
            return Err(Error::invalid(format!("task `{task}` has a residual already")).at(self.bundle.path()));
        }
        if self.columns[t].iter().any(|a| a.is_nan()) {
            let message = format!("task `{task}` cannot be recovered, and has no residual either");
            return Err(Error::new(ErrorKind::NotRecoverable, message)
                .at(self.bundle.path())
                .hint("Add it under another name"));
        }
        Ok(t)
    }

    /// The fit of the vectors to task `t` with the coefficients that it has.
    fn fit_of(&self, t: usize, finetuned: &Checkpoint) -> Result<TaskFit> {
        let basis = &self.metadata.basis;
        Ok(self.span(finetuned, false)?.fit(&basis.tasks[t], self.columns[t].clone(), basis.vectors))
    }

    /// Writes the updated bundle: whole or not at all, and none of `inputs` is overwritten. `path` may be the bundle's
    /// own, as long as that is still the file that was opened; programs that have it open keep the old content. Gives
    /// the fits. `progress` is told the bytes of the residuals that are done.
    ///
    /// [`lock_output`](crate::lock_output) before [`Bundle::open`] keeps others from changing it meanwhile.
    ///
    /// # Errors
    /// As [`Packer::write`](super::Packer::write); [`ErrorKind::Mismatch`] where the bundle was replaced or written into
    /// since it was opened: nothing is written then.
    pub fn write(mut self, path: &Path, inputs: &[&Path], progress: &dyn Fn(u64)) -> Result<Vec<TaskFit>> {
        let mut metadata = self.metadata.clone();
        let first_new = metadata.basis.residuals.len();
        let new_residuals = self.residuals.iter().map(|residual| self.metadata.basis.tasks[residual.task].clone());
        metadata.basis.residuals.extend(new_residuals);
        metadata.basis.residuals.extend(self.merges.iter().map(|added| added.merge.name.to_owned()));
        let is_of_others = !self.fits.is_empty() || !self.removed.is_empty();
        metadata.precision = self.precision.take().or(metadata.precision).filter(|_| !is_of_others);
        if let Some(recombination) = &self.recombination {
            metadata.basis.vectors = recombination.vectors;
        }
        let vectors = metadata.basis.vectors;
        let table: Vec<f64> = (0..vectors).flat_map(|m| self.columns.iter().map(move |column| column[m])).collect();
        let added = self.added_parameters()?;
        let squared_errors = RefCell::new(vec![0.0; self.residuals.len()]);
        let squares = Squares::new(vec![(0.0, 0.0); self.merges.len()]);

        let is_own = self.bundle.is_at(path);
        let unchanged = || if is_own { self.bundle.check_unchanged(path) } else { Ok(()) };
        replace_file_if(path, inputs, unchanged, |sibling| {
            let mut items = Vec::new();
            metadata.blocks.clear();
            for (tensor_name, tensor) in &self.bundle.tensors {
                let Some(role) = Role::of(tensor_name).and_then(|role| self.kept(role)) else { continue };
                let record = self.bundle.metadata.blocks.get(tensor_name);
                metadata.blocks.extend(record.map(|record| (role.to_string(), record.clone())));
                items.push(Item::copy(role, tensor));
            }
            items.push(recovery_item(table, &[vectors, self.columns.len()]));
            items.extend(self.golden.iter().map(|golden| Item::f32(Role::Golden, &[golden.len()], golden)));
            if let KeptRouter::Replaced(bytes) = &self.router {
                items.push(Item::new(Role::Router, DType::U8, &[bytes.len()], |sink| sink.write(bytes)));
            }
            items.extend(head_items(self.heads.iter().map(|(task, head)| (task.as_str(), head))));
            self.add_recombined(&added, &mut metadata, &mut items, progress)?;
            for (&parameter, &shape) in &added {
                self.add_zeros(parameter, shape, &mut metadata, first_new, &mut items)?;
            }
            let is_kept =
                |parameter: &str| self.bundle.vectors.contains_key(parameter) || added.contains_key(parameter);
            let kept: Vec<_> = self.parameters().filter(|(parameter, _)| is_kept(parameter)).collect();
            for (r, residual) in self.residuals.iter().enumerate() {
                for &(parameter, shape) in &kept {
                    let role = Role::Residual(first_new + r, parameter);
                    let format = residual.format.for_shape(shape);
                    let update = &self;
                    let squared_errors = &squared_errors;
                    items.push(vector_item(role, format, shape, None, &mut metadata.blocks, move |sink| {
                        let (row, error) = update.remainder(residual, parameter, shape, format)?;
                        squared_errors.borrow_mut()[r] += error;
                        sink.write(&row)?;
                        progress(row.len() as u64);
                        Ok(())
                    })?);
                }
            }
            let first = first_new + self.residuals.len();
            self.merge_items(first, &kept, &mut metadata, &squares, progress, &mut items)?;
            writer::write(sibling, &metadata, items).map(drop)
        })?;
        self.measure_merges(squares);
        // What is not stored was the same in both checkpoints, up to the base's rounding.
        for (residual, error) in self.residuals.iter().zip(squared_errors.into_inner()) {
            let fit = &mut self.fits[residual.fit];
            fit.lacking_with_residual = Some(ratio(error.sqrt(), fit.norm));
        }
        Ok(self.fits)
    }

    /// The role in the updated bundle of a tensor of the bundle; `None` for what is left out or made anew.
    fn kept<'r>(&self, role: Role<'r>) -> Option<Role<'r>> {
        match role {
            Role::Padding(_) | Role::Checksums | Role::Recovery => None,
            Role::Golden if self.golden.is_some() => None,
            Role::Router if !matches!(self.router, KeptRouter::AsItIs) => None,
            Role::Vectors(_) | Role::Mean(_) if self.recombination.is_some() => None,
            Role::HeadWeight(task) | Role::HeadBias(task) if self.removed.iter().any(|gone| gone == task) => None,
            Role::Residual(r, parameter) => {
                let task = &self.bundle.metadata.basis.residuals[r];
                let place = self.metadata.basis.residuals.iter().position(|known| known == task)?;
                Some(Role::Residual(place, parameter))
            }
            role => Some(role),
        }
    }

    /// The architecture's parameters with their shapes.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a [usize])> {
        self.bundle.parameters.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }

    /// Parameters that no vector changes and a task with a residual does.
    fn added_parameters(&self) -> Result<HashMap<&'a str, &'a [usize]>> {
        let mut added = HashMap::new();
        let unchanged = || self.parameters().filter(|(p, _)| !self.bundle.vectors.contains_key(*p));
        for (parameter, shape) in unchanged() {
            let refitted = self.recombination.iter().map(|recombination| recombination.finetuned);
            for finetuned in self.residuals.iter().map(|residual| residual.finetuned).chain(refitted) {
                if !is_same(self.tuned(finetuned, parameter)?, self.base_tensor(parameter)?)? {
                    added.insert(parameter, shape);
                }
            }
        }
        self.add_merged(unchanged(), &mut added);
        Ok(added)
    }

    /// Adds zeros for the vectors and the `residuals` first residuals, which do not change `parameter`: a parameter is
    /// stored in every vector or in none.
    fn add_zeros(
        &self,
        parameter: &str,
        shape: &[usize],
        metadata: &mut Metadata,
        residuals: usize,
        items: &mut Vec<Item<'_>>,
    ) -> Result<()> {
        let format = StoredFormat::from(BlockFormat::Q2);
        let stride = format.stored_bytes(shape)?;
        let vectors = self.metadata.basis.vectors;
        let mean = self.metadata.basis.mean.then_some((Role::Mean(parameter), None));
        let of_vectors = std::iter::once((Role::Vectors(parameter), Some(vectors))).chain(mean);
        // A recombination has written its own already.
        let of_vectors = of_vectors.filter(|_| self.recombination.is_none());
        let all = of_vectors.chain((0..residuals).map(|r| (Role::Residual(r, parameter), None)));
        for (role, count) in all {
            let bytes = count.unwrap_or(1) * stride;
            let blocks = &mut metadata.blocks;
            items.push(vector_item(role, format, shape, count, blocks, move |sink| sink.zeros(bytes))?);
        }
        Ok(())
    }

    /// The base's weights.
    pub(super) fn base_tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.base.values().filter(|tensor| tensor.dtype().is_float())
    }

    pub(super) fn base_tensor(&self, parameter: &str) -> Result<&Tensor> {
        let missing = || Error::mismatch("the base lacks this parameter").at(self.bundle.path()).tensor(parameter);
        self.base.get(parameter).ok_or_else(missing)
    }

    /// The fine-tuned parameter: the base's, where training left it alone.
    pub(super) fn tuned<'t>(&'t self, finetuned: &'t Checkpoint, parameter: &str) -> Result<&'t Tensor> {
        finetuned.get(parameter).map_or_else(|| self.base_tensor(parameter), Ok)
    }

    /// The values that the vectors are to give in a chunk of a parameter, fine-tuned minus base and, where they are to
    /// be `centred`, minus mean; and the squared norm of the task vector there.
    pub(super) fn target(
        &self,
        tuned: &Tensor,
        parameter: &str,
        range: &Range<usize>,
        centred: bool,
    ) -> Result<(Vec<f32>, f64)> {
        let mut target = try_zeroed::<f32>(range.len())?;
        tuned.read_f32(range.start, &mut target)?;
        let mut base = try_zeroed::<f32>(range.len())?;
        self.base_tensor(parameter)?.read_f32(range.start, &mut base)?;
        target.iter_mut().zip(&base).for_each(|(target, base)| *target -= base);
        let norm = target.iter().map(|&value| f64::from(value).powi(2)).sum();
        if centred
            && self.metadata.basis.mean
            && let Some(sources) = self.bundle.vectors.get(parameter)
        {
            let mean = read(&sources[self.metadata.basis.vectors], range)?;
            target.iter_mut().zip(&mean).for_each(|(target, mean)| *target -= mean);
        }
        Ok((target, norm))
    }

    /// The first `count` of what the bundle holds of a parameter: its vectors, and behind them PCA's mean; none where
    /// no vector changes it.
    pub(super) fn sources_of(&self, parameter: &str, count: usize) -> &'a [Source] {
        self.bundle.vectors.get(parameter).map_or(&[], |sources| &sources[..count])
    }

    /// The residual of a parameter, as it is stored, and the squared error that storing makes.
    fn remainder(
        &self,
        residual: &NewResidual<'_>,
        parameter: &str,
        shape: &[usize],
        format: StoredFormat,
    ) -> Result<(Vec<u8>, f64)> {
        let tuned = self.tuned(residual.finetuned, parameter)?;
        encoded_row(shape, self.threads, format, |range| {
            let (mut rest, _) = self.target(tuned, parameter, range, true)?;
            let vectors = self.sources_of(parameter, self.metadata.basis.vectors);
            for (vector, &a) in vectors.iter().zip(&self.columns[residual.task]) {
                // As the kernel takes the coefficient.
                let a = a as f32;
                let vector = read(vector, range)?;
                rest.iter_mut().zip(&vector).for_each(|(rest, value)| *rest = f32::mul_add(-a, *value, *rest));
            }
            Ok(rest)
        })
    }
}
