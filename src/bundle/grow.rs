//! Growing a bundle: new tasks in the span of its vectors, and residuals for what the span lacks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use indexmap::IndexMap;

use super::Bundle;
use super::choose::SMALL;
use super::format::{About, BlockInfo, Role, Section, name};
use super::items::{head_items, read_all, recovery_item};
use super::measure::{Gram, ratio};
use super::quantise::VectorFormat;
use super::solve::least_squares;
use super::writer::{self, Item};
use crate::atomic_file::replace_file;
use crate::basis::doubt;
use crate::checkpoint::{Checkpoint, frozen};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::kernel::share;
use crate::tensor::{BLOCK, BlockFormat, Source, Tensor};
use crate::tower::Arch;

/// Elements that a thread takes at a time; whole blocks.
const PIECE: usize = 256 * BLOCK;

/// A task to be added.
#[derive(Debug)]
pub struct NewTask<'a> {
    /// What it is to be called.
    pub name: &'a str,
    /// Its fine-tuned weights.
    pub finetuned: &'a Checkpoint,
    /// Its head, with class names where there are some.
    pub head: Option<Head>,
    /// The format in which to store what the span lacks of it; `None`: that is given up.
    pub residual: Option<BlockFormat>,
}

/// How well the vectors give a task.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Fitted {
    /// Whose.
    pub task: String,
    /// What multiplies the vectors: one a vector.
    pub coefficients: Vec<f64>,
    /// How many of the vectors are independent.
    pub rank: usize,
    /// ‖τ‖, the task vector over the image tower: fine-tuned minus the bundle's base.
    pub norm: f64,
    /// ‖W‖, the image tower of the bundle's base.
    pub base_norm: f64,
    /// ‖τ − τ̂‖ / ‖τ‖ with the vectors alone.
    pub lacking: f64,
    /// The same with the residual as it is stored; `None` where none is.
    pub lacking_with_residual: Option<f64>,
    /// Parameters of the image tower that the fine-tuned checkpoint does not hold, because training left them alone.
    pub unchanged: Vec<String>,
}

impl Fitted {
    /// What makes it doubtful that this is a fine-tune of the bundle's base: a task vector about as long as its
    /// weights.
    pub fn doubt(&self) -> Option<String> {
        doubt::long(std::iter::once((self.task.as_str(), ratio(self.norm, self.base_norm))))
    }
}

/// Changes to a bundle, gathered and then written as a whole.
#[derive(Debug)]
pub struct Growth<'a> {
    bundle: &'a Bundle,
    /// The base's parameters.
    base: IndexMap<String, Tensor>,
    about: About,
    /// Columns of the recovery table, all of them.
    columns: Vec<Vec<f64>>,
    heads: Vec<(String, Head)>,
    residuals: Vec<Residual<'a>>,
    fitted: Vec<Fitted>,
    /// What takes the place of the bundle's.
    golden: Option<Vec<f32>>,
    threads: usize,
}

/// A residual that the bundle does not hold yet.
#[derive(Debug)]
struct Residual<'a> {
    task: usize,
    finetuned: &'a Checkpoint,
    format: BlockFormat,
}

impl<'a> Growth<'a> {
    /// Of `bundle`; `base` is needed where it leaves its own out.
    ///
    /// # Errors
    /// As [`Bundle::base_or`].
    pub fn new(bundle: &'a Bundle, base: Option<&Checkpoint>) -> Result<Self> {
        let base = match base {
            Some(base) => {
                bundle.check_base(base)?;
                base.image_tower().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
            }
            None => bundle.base_or(None)?.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect(),
        };
        let tasks = bundle.tasks().len();
        let columns = (0..tasks).map(|t| bundle.recovery.iter().skip(t).step_by(tasks).copied().collect()).collect();
        let (heads, residuals, fitted, golden) = Default::default();
        Ok(Self { bundle, base, about: bundle.about.clone(), columns, heads, residuals, fitted, golden, threads: 0 })
    }

    /// Gives the bundle this golden embedding.
    pub(super) fn golden(&mut self, embedding: Vec<f32>) {
        self.golden = Some(embedding);
    }

    /// Threads; 0, the default, means one a processor. The bytes do not depend on them.
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
    pub fn task(&mut self, task: NewTask<'a>) -> Result<&Fitted> {
        let NewTask { name, finetuned, head, residual } = task;
        if name.is_empty() {
            return Err(Error::invalid("the new task's name is empty"));
        }
        if self.about.basis.tasks.iter().any(|known| known == name) {
            return Err(Error::invalid(format!("the bundle has a task `{name}` already"))
                .at(self.bundle.path())
                .hint("Choose another name"));
        }
        if let Some(head) = head {
            head.check_tower(name, &self.about.arch)?;
            if self.bundle.heads.contains_key(name) {
                return Err(Error::invalid(format!("the bundle has a head of `{name}`")).at(self.bundle.path()));
            }
            if !head.normalises() {
                self.about.unnormalised.insert(name.to_owned());
            }
            if !head.classes().is_empty() {
                self.about.classes.insert(name.to_owned(), head.classes().to_vec());
            }
            self.heads.push((name.to_owned(), head));
        }
        let span = self.span(finetuned)?;
        let vectors = self.about.basis.vectors;
        let gram: Vec<f64> = (0..vectors * vectors).map(|k| span.gram.get(k / vectors, k % vectors)).collect();
        let target: Vec<f64> = (0..vectors).map(|k| span.gram.get(k, vectors)).collect();
        let (coefficients, rank) = least_squares(&gram, &target);
        let fitted = span.fitted(name, coefficients.clone(), rank);
        self.columns.push(coefficients);
        self.about.basis.tasks.push(name.to_owned());
        self.fitted.push(fitted);
        if let Some(format) = residual {
            self.residuals.push(Residual { task: self.about.basis.tasks.len() - 1, finetuned, format });
        }
        self.fitted.last().ok_or_else(|| Error::new(crate::ErrorKind::Internal, "nothing was fitted"))
    }

    /// What was fitted so far.
    pub fn fitted(&self) -> &[Fitted] {
        &self.fitted
    }

    /// Stores what the vectors lack of a task that the bundle has, quantisation included; its coefficients stay.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown task;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where it has a residual already;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a checkpoint of another model;
    /// [`ErrorKind::NotRecoverable`](crate::ErrorKind::NotRecoverable) for a task without coefficients.
    pub fn residual(&mut self, task: &str, finetuned: &'a Checkpoint, format: BlockFormat) -> Result<&Fitted> {
        let fitted = self.measure(task, finetuned)?;
        let task = self.about.basis.tasks.iter().position(|known| known == task).unwrap_or_default();
        self.fitted.push(fitted);
        self.residuals.push(Residual { task, finetuned, format });
        self.fitted.last().ok_or_else(|| Error::new(crate::ErrorKind::Internal, "nothing was fitted"))
    }

    /// What the vectors, as they are stored, lack of a task that the bundle has and that has no residual.
    ///
    /// # Errors
    /// As [`Growth::residual`].
    pub fn measure(&self, task: &str, finetuned: &Checkpoint) -> Result<Fitted> {
        let tasks = self.about.basis.tasks.iter().map(String::as_str);
        let t = tasks.clone().position(|known| known == task);
        let t = t.ok_or_else(|| crate::did_you_mean::unknown("task", task, tasks).at(self.bundle.path()))?;
        if self.about.basis.residuals.iter().any(|known| known == task) || self.residuals.iter().any(|r| r.task == t) {
            return Err(Error::invalid(format!("task `{task}` has a residual already")).at(self.bundle.path()));
        }
        if self.columns[t].iter().any(|a| a.is_nan()) {
            let message = format!("task `{task}` cannot be recovered, and has no residual either");
            return Err(Error::new(crate::ErrorKind::NotRecoverable, message)
                .at(self.bundle.path())
                .hint("Add it under another name"));
        }
        Ok(self.span(finetuned)?.fitted(task, self.columns[t].clone(), self.about.basis.vectors))
    }

    /// Writes the grown bundle: whole or not at all, and none of `inputs` is overwritten. `path` may be the bundle's
    /// own; who has that one open keeps the old content. Gives what was fitted. `progress` is told the bytes of the
    /// residuals that are done.
    ///
    /// # Errors
    /// As [`Packer::write`](super::Packer::write).
    pub fn write(mut self, path: &Path, inputs: &[&Path], progress: &dyn Fn(u64)) -> Result<Vec<Fitted>> {
        let sums = RefCell::new(vec![0.0; self.residuals.len()]);
        let added = self.added_parameters()?;
        let old = self.about.basis.residuals.len();
        let tasks = &self.about.basis.tasks;
        let names: Vec<String> = self.residuals.iter().map(|residual| tasks[residual.task].clone()).collect();
        self.about.basis.residuals.extend(names.iter().cloned());
        let mut about = self.about.clone();
        let table: Vec<f64> =
            (0..about.basis.vectors).flat_map(|m| self.columns.iter().map(move |column| column[m])).collect();
        let shape = [about.basis.vectors, about.basis.tasks.len()];

        replace_file(path, inputs, |sibling| {
            let mut sections: IndexMap<Section, Vec<Item<'_>>> = IndexMap::new();
            for (tensor_name, tensor) in &self.bundle.tensors {
                match Role::of(tensor_name) {
                    None | Some(Role::Padding | Role::Checksums | Role::Recovery) => {}
                    Some(Role::Golden) if self.golden.is_some() => {}
                    Some(role) => {
                        let Some(section) = role.section() else { continue };
                        sections.entry(section).or_default().push(Item::copy(tensor_name, tensor));
                    }
                }
            }
            sections.entry(Section::Recovery).or_default().push(recovery_item(&table, &shape));
            if let Some(golden) = &self.golden {
                let item = Item::f32(name::GOLDEN, &[golden.len()], golden);
                sections.entry(Section::Golden).or_default().push(item);
            }
            let heads = head_items(self.heads.iter().map(|(task, head)| (task.as_str(), head)));
            sections.entry(Section::Heads).or_default().extend(heads);
            for (parameter, shape) in &added {
                self.zero_vectors(parameter, shape, old, &mut about.blocks, &mut sections)?;
            }
            let residuals = sections.entry(Section::Residuals).or_default();
            for (r, residual) in self.residuals.iter().enumerate() {
                for (parameter, shape) in self.parameters().filter(|(p, _)| self.is_kept(p, &added)) {
                    let format = if shape.len() < 2 { SMALL } else { VectorFormat::Blocks(residual.format) };
                    let tensor_name = format!("{}{}/{parameter}", name::RESIDUALS, old + r);
                    let (stored, info) = format.stored_shape(shape, None)?;
                    about.blocks.extend(info.map(|info| (tensor_name.clone(), info)));
                    let sums = &sums;
                    let growth = &self;
                    residuals.push(Item::new(tensor_name, format.dtype(), &stored, move |sink| {
                        let (row, error) = growth.remainder(residual, parameter, shape, format)?;
                        sums.borrow_mut()[r] += error;
                        sink.write(&row)?;
                        progress(row.len() as u64);
                        Ok(())
                    }));
                }
            }
            writer::write(sibling, &about, sections.into_iter().collect()).map(drop)
        })?;
        // What is not stored was the same in both checkpoints, up to the base's rounding.
        for (name, error) in names.iter().zip(sums.into_inner()) {
            if let Some(fitted) = self.fitted.iter_mut().find(|fitted| fitted.task == *name) {
                fitted.lacking_with_residual = Some(ratio(error.sqrt(), fitted.norm));
            }
        }
        Ok(self.fitted)
    }

    /// The architecture's parameters with their shapes.
    fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a [usize])> {
        self.bundle.parameters.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }

    fn is_kept(&self, parameter: &str, added: &HashMap<&str, &[usize]>) -> bool {
        self.bundle.pieces.contains_key(parameter) || added.contains_key(parameter)
    }

    /// Parameters that no vector changes and a task with a residual does.
    fn added_parameters(&self) -> Result<HashMap<&'a str, &'a [usize]>> {
        let mut added = HashMap::new();
        for (parameter, shape) in self.parameters().filter(|(p, _)| !self.bundle.pieces.contains_key(*p)) {
            for residual in &self.residuals {
                if !is_same(self.tuned(residual.finetuned, parameter)?, self.base_tensor(parameter)?)? {
                    added.insert(parameter, shape);
                }
            }
        }
        Ok(added)
    }

    /// A parameter needs a piece of every vector: zeros, for those that do not change it.
    fn zero_vectors<'s>(
        &self,
        parameter: &str,
        shape: &[usize],
        residuals: usize,
        blocks: &mut HashMap<String, BlockInfo>,
        sections: &mut IndexMap<Section, Vec<Item<'s>>>,
    ) -> Result<()> {
        let format = VectorFormat::Blocks(BlockFormat::Q2);
        let mut zeros = |section: Section, tensor_name: String, count: Option<usize>| {
            let (stored, info) = format.stored_shape(shape, count)?;
            blocks.extend(info.map(|info| (tensor_name.clone(), info)));
            let bytes = stored.iter().product();
            let item = Item::new(tensor_name, format.dtype(), &stored, move |sink| sink.zeros(bytes));
            sections.entry(section).or_default().push(item);
            Ok(())
        };
        zeros(Section::Vectors, format!("{}{parameter}", name::VECTORS), Some(self.about.basis.vectors))?;
        if self.about.basis.mean {
            zeros(Section::Vectors, format!("{}{parameter}", name::MEAN), None)?;
        }
        (0..residuals).try_for_each(|r| zeros(Section::Residuals, format!("{}{r}/{parameter}", name::RESIDUALS), None))
    }

    fn base_tensor(&self, parameter: &str) -> Result<&Tensor> {
        let missing = || Error::mismatch("the base lacks this parameter").at(self.bundle.path()).tensor(parameter);
        self.base.get(parameter).ok_or_else(missing)
    }

    /// The fine-tuned parameter: the base's, where training left it alone.
    fn tuned<'t>(&'t self, finetuned: &'t Checkpoint, parameter: &str) -> Result<&'t Tensor> {
        finetuned.get(parameter).map_or_else(|| self.base_tensor(parameter), Ok)
    }

    /// What the vectors are to give of a stretch of a parameter, fine-tuned minus base minus mean; and the squared norm
    /// of the task vector there.
    fn target(&self, finetuned: &Tensor, parameter: &str, start: usize, length: usize) -> Result<(Vec<f32>, f64)> {
        let mut target = vec![0.0; length];
        finetuned.read_f32(start, &mut target)?;
        let mut base = vec![0.0; length];
        self.base_tensor(parameter)?.read_f32(start, &mut base)?;
        target.iter_mut().zip(&base).for_each(|(target, base)| *target -= base);
        let norm = target.iter().map(|&value| f64::from(value).powi(2)).sum();
        if let Some(mean) = self.mean_of(parameter) {
            let mean = read_all(mean, start, length)?;
            target.iter_mut().zip(&mean).for_each(|(target, mean)| *target -= mean);
        }
        Ok((target, norm))
    }

    fn mean_of(&self, parameter: &str) -> Option<&'a Source> {
        let sources = &self.bundle.pieces.get(parameter)?.sources;
        self.about.basis.mean.then(|| sources.get(self.about.basis.vectors)).flatten()
    }

    fn vectors_of(&self, parameter: &str) -> &'a [Source] {
        self.bundle.pieces.get(parameter).map_or(&[], |pieces| &pieces.sources[..self.about.basis.vectors])
    }

    /// The sums that least squares need, in one pass over the vectors.
    fn span(&self, finetuned: &Checkpoint) -> Result<Span> {
        let arch = &self.about.arch;
        let of_base = self.base.iter().filter(|(_, tensor)| tensor.dtype().is_float());
        let names: Vec<&str> = of_base.clone().map(|(name, _)| name.as_str()).collect();
        let unchanged = frozen::unchanged(&names, finetuned, self.bundle.path().display())?;
        let unchanged: Vec<String> = unchanged.into_iter().map(String::from).collect();
        let own = finetuned.image_tower().map(|(name, tensor)| (name, tensor.shape()));
        let frozen = of_base.filter(|(name, _)| unchanged.contains(name));
        let shapes = own.chain(frozen.map(|(name, tensor)| (name.as_str(), tensor.shape())));
        let its = Arch::infer(shapes, arch.hints()).map_err(|e| e.at(finetuned.path()))?;
        if its != *arch {
            return Err(Error::mismatch("the fine-tuned checkpoint is of another model than the bundle")
                .at(finetuned.path())
                .expected(arch)
                .got(its));
        }
        let count = self.about.basis.vectors;
        struct Piece<'p> {
            parameter: &'p str,
            start: usize,
            length: usize,
            gram: Gram,
            norm: f64,
        }
        let base_norm = doubt::square(self.base.values().filter(|tensor| tensor.dtype().is_float()))?;
        let mut total = Span { gram: Gram::new(count + 1), norm: 0.0, base_norm, unchanged };
        // A parameter at a time, so that the pieces' sums are few.
        for (parameter, shape) in self.parameters() {
            let tensor = self.tuned(finetuned, parameter)?;
            let numel: usize = shape.iter().product();
            let pieces = (0..numel).step_by(PIECE).map(|start| Piece {
                parameter,
                start,
                length: PIECE.min(numel - start),
                gram: Gram::new(count + 1),
                norm: 0.0,
            });
            let mut pieces: Vec<Piece<'_>> = pieces.collect();
            let work = |piece: &mut Piece<'_>, (): &mut ()| {
                let (target, norm) = self.target(tensor, piece.parameter, piece.start, piece.length)?;
                piece.norm = norm;
                if !norm.is_finite() {
                    return Err(Error::format("a value is not finite").at(finetuned.path()).tensor(piece.parameter));
                }
                let vectors = self.vectors_of(piece.parameter);
                let mut rows = Vec::with_capacity(count + 1);
                for vector in vectors {
                    rows.push(read_all(vector, piece.start, piece.length)?);
                }
                rows.resize_with(count, Vec::new);
                rows.push(target);
                piece.gram.accumulate(&rows);
                Ok(())
            };
            share(self.threads, pieces.iter_mut().collect(), work).map_err(|e| e.tensor(parameter))?;
            for piece in &pieces {
                total.gram.add(&piece.gram);
                total.norm += piece.norm;
            }
        }
        Ok(total)
    }

    /// What is left of a parameter, as it is stored, and the squared error that storing makes.
    fn remainder(
        &self,
        residual: &Residual<'_>,
        parameter: &str,
        shape: &[usize],
        format: VectorFormat,
    ) -> Result<(Vec<u8>, f64)> {
        let numel: usize = shape.iter().product();
        let tensor = self.tuned(residual.finetuned, parameter)?;
        let mut pieces: Vec<(usize, Vec<u8>, f64)> =
            (0..numel).step_by(PIECE).map(|start| (start, Vec::new(), 0.0)).collect();
        share(self.threads, pieces.iter_mut().collect(), |(start, bytes, error), (): &mut ()| {
            let length = PIECE.min(numel - *start);
            let (mut rest, _) = self.target(tensor, parameter, *start, length)?;
            for (vector, &a) in self.vectors_of(parameter).iter().zip(&self.columns[residual.task]) {
                // As the kernel takes the coefficient.
                let a = a as f32;
                let vector = read_all(vector, *start, length)?;
                rest.iter_mut().zip(&vector).for_each(|(rest, value)| *rest = f32::mul_add(-a, *value, *rest));
            }
            let encoded = format.encode(&rest)?;
            *error = encoded.values.iter().zip(&rest).map(|(back, rest)| f64::from(back - rest).powi(2)).sum();
            *bytes = encoded.bytes;
            Ok(())
        })?;
        let mut row = Vec::new();
        let mut total = 0.0;
        for (_, bytes, error) in pieces {
            row.extend(bytes);
            total += error;
        }
        row.resize(format.stored_bytes(numel)?, 0);
        Ok((row, total))
    }
}

/// Products of the vectors and the target behind them, ‖τ‖², and ‖W‖² of the base.
struct Span {
    gram: Gram,
    norm: f64,
    base_norm: f64,
    /// What the fine-tuned checkpoint does not hold.
    unchanged: Vec<String>,
}

impl Span {
    fn fitted(&self, task: &str, coefficients: Vec<f64>, rank: usize) -> Fitted {
        let mut a = coefficients.clone();
        a.push(-1.0);
        let lacking = ratio(self.gram.quadratic(&a), self.norm).sqrt();
        let (norm, base_norm) = (self.norm.sqrt(), self.base_norm.sqrt());
        let (lacking_with_residual, unchanged) = (None, self.unchanged.clone());
        Fitted { task: task.to_owned(), coefficients, rank, norm, base_norm, lacking, lacking_with_residual, unchanged }
    }
}

/// Whether two tensors hold the same values, once `tensor` is rounded to the base's type.
fn is_same(tensor: &Tensor, base: &Tensor) -> Result<bool> {
    let format = match base.dtype() {
        crate::DType::F16 => VectorFormat::F16,
        crate::DType::BF16 => VectorFormat::BF16,
        _ => VectorFormat::F32,
    };
    for start in (0..base.numel()).step_by(PIECE) {
        let length = PIECE.min(base.numel() - start);
        let (mut ours, mut theirs) = (vec![0.0; length], vec![0.0; length]);
        base.read_f32(start, &mut ours)?;
        tensor.read_f32(start, &mut theirs)?;
        if format.encode(&theirs)?.values != ours {
            return Ok(false);
        }
    }
    Ok(true)
}
