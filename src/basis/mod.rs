//! A task-vector basis: M mapped vectors and the coefficients that give T tasks back.
//!
//! Opening reads names, shapes and coefficients; the vectors themselves are mapped and read when weights are
//! reconstructed. The formats and formulas are those of *Task Vector Bases* (arXiv 2502.01015).

mod coefficients;
pub(crate) mod doubt;
mod expr;
mod method;
mod published;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use indexmap::IndexMap;

pub use coefficients::{Coefficients, Recovery};
pub(crate) use expr::Number;
pub use expr::{Target, TaskExpr};
pub use method::Method;

use crate::checkpoint::is_image_tower;
use crate::error::Result;
use crate::mmap::MapMode;
use crate::tensor::Source;

/// M basis vectors over the parameters of one model, and how T tasks are recovered from them.
#[derive(Debug)]
pub struct Basis {
    path: PathBuf,
    vectors: usize,
    has_mean: bool,
    recovery: Recovery,
    parameters: IndexMap<String, Parameter>,
    file_bytes: u64,
}

/// What a basis consists of, from whatever file.
pub(crate) struct Parts {
    pub(crate) path: PathBuf,
    pub(crate) method: Method,
    pub(crate) tasks: Vec<String>,
    /// M.
    pub(crate) vectors: usize,
    pub(crate) has_mean: bool,
    /// M rows of T, row-major; a task that cannot be recovered has a column of NaN.
    pub(crate) table: Vec<f64>,
    /// The task of each residual.
    pub(crate) residual_tasks: Vec<usize>,
    pub(crate) parameters: IndexMap<String, Parameter>,
    pub(crate) file_bytes: u64,
}

/// One parameter of the model: the same-shaped piece of every basis vector.
#[derive(Debug)]
pub struct Parameter {
    shape: Box<[usize]>,
    /// One a vector, then PCA's mean, then the residuals. Empty where it is known that none changes anything.
    sources: Vec<Source>,
    changed: OnceLock<bool>,
}

impl Parameter {
    /// Of pieces of one shape, of which it is not known yet whether they change anything.
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        let shape = sources.first().map(Source::shape).unwrap_or_default().into();
        Self { shape, sources, changed: OnceLock::new() }
    }

    /// Of pieces that are known to change something.
    pub(crate) fn changed(sources: Vec<Source>) -> Self {
        Self { changed: OnceLock::from(true), ..Self::new(sources) }
    }

    /// A parameter that no vector changes.
    pub(crate) fn unchanged(shape: &[usize]) -> Self {
        Self { shape: shape.into(), sources: Vec::new(), changed: OnceLock::from(false) }
    }

    /// The extents, the same in every vector.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The piece of every basis vector in order, then of PCA's mean, then of the residuals ([`Basis::residuals`]): what
    /// the numbers of [`Basis::factors`] multiply. Empty for a parameter of which a bundle stores nothing, because no
    /// vector changes it.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Whether any vector has anything but zero here. Found out when first asked, and never again: a parameter that
    /// is changed answers at its first element that is not zero, one that is not has to be read once to its end.
    pub fn is_changed(&self) -> bool {
        *self.changed.get_or_init(|| !self.sources.iter().all(Source::is_zero))
    }
}

impl Basis {
    /// Everything is as the caller checked it.
    pub(crate) fn from_parts(parts: Parts) -> Self {
        let Parts { path, method, tasks, vectors, has_mean, table, residual_tasks, parameters, file_bytes } = parts;
        let recovery = Recovery::new(method, tasks, vectors, table, residual_tasks);
        Self { path, vectors, has_mean, recovery, parameters, file_bytes }
    }

    /// Opens a published basis folder, its vectors mapped.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) and [`ErrorKind::Format`](crate::ErrorKind::Format), naming file and
    /// place; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a method that is not known.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, MapMode::default())
    }

    /// [`Basis::open`] with a choice between mapping and reading.
    ///
    /// # Errors
    /// As [`Basis::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        published::open(&published::folder_of(path.as_ref())?, mode)
    }

    /// Whether `path` is a folder that holds a basis, judged by its file names alone.
    pub fn is_basis(path: impl AsRef<Path>) -> bool {
        published::is_basis(path.as_ref())
    }

    /// The folder it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it was made.
    pub fn method(&self) -> Method {
        self.recovery.method
    }

    /// The T tasks, in the order of the recovery table's columns.
    pub fn tasks(&self) -> &[String] {
        &self.recovery.tasks
    }

    /// M, the number of basis vectors (PCA's mean not counted).
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    /// Whether there is a mean vector beside the M (PCA).
    pub fn has_mean(&self) -> bool {
        self.has_mean
    }

    /// The tasks that have a residual: a vector of their own beside the M, added with the task's coefficient. Bundles
    /// can have some ([`Bundle`](crate::Bundle)), folders have none.
    pub fn residuals(&self) -> impl ExactSizeIterator<Item = &str> {
        self.recovery.residual_tasks.iter().map(|&t| self.recovery.tasks[t].as_str())
    }

    /// The recovery table [M, T].
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Bytes of the files it consists of.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Every parameter under its canonical name.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = (&str, &Parameter)> {
        self.parameters.iter().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// One parameter.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.get(name)
    }

    /// The index of the task called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), with the nearest name and all that are known.
    pub fn task_index(&self, name: &str) -> Result<usize> {
        self.recovery.task_index(name)
    }

    /// Reads every vector and checks that every number is finite.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming file and tensor.
    pub fn verify_finite(&self) -> Result<()> {
        self.parameters()
            .flat_map(|(name, parameter)| parameter.sources().iter().map(move |source| (name, source)))
            .try_for_each(|(name, source)| source.verify_finite().map_err(|e| e.at(&self.path).tensor(name)))
    }

    /// What `expr` comes to: one number a vector (and one for the mean), in O(M·T), nothing read.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a task that the basis does not know, with the nearest
    /// name; [`ErrorKind::NotRecoverable`](crate::ErrorKind::NotRecoverable) for one that this method cannot give
    /// back; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where a sum is not finite.
    pub fn coefficients(&self, expr: &TaskExpr) -> Result<Coefficients> {
        self.recovery.coefficients(expr)
    }

    /// `coefficients` as the kernel takes them: one f32 for each of [`Parameter::sources`].
    ///
    /// # Errors
    /// As [`Coefficients::to_kernel`].
    pub fn factors(&self, coefficients: &Coefficients) -> Result<Vec<f32>> {
        coefficients.to_kernel(self.vectors, self.has_mean, self.recovery.residual_tasks.len())
    }

    /// Elements in all parameters, in those of the image tower, and in those that any vector changes.
    ///
    /// The last needs a look at the vectors: see [`Parameter::is_changed`].
    pub fn count(&self) -> ParameterCount {
        let sum = |keep: &dyn Fn(&str, &Parameter) -> bool| {
            self.parameters().filter(|(name, p)| keep(name, p)).map(|(_, p)| p.numel()).sum()
        };
        ParameterCount {
            total: sum(&|_, _| true),
            image_tower: sum(&|name, _| is_image_tower(name)),
            changed: sum(&|_, parameter| parameter.is_changed()),
        }
    }
}

/// How many elements a basis has, by what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ParameterCount {
    /// In every parameter of the model.
    pub total: usize,
    /// In the parameters of the image tower (`visual.…`).
    pub image_tower: usize,
    /// In the parameters that at least one vector changes.
    pub changed: usize,
}
