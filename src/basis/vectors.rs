//! The opened basis: its parameters, each with a source per vector, and what can be asked of them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use indexmap::IndexMap;

use super::coefficients::Coefficients;
use super::expr::TaskExpr;
use super::matrix::CoefficientMatrix;
use super::method::Method;
use super::recovery::Recovery;
use crate::checkpoint::is_image_tower;
use crate::error::{Error, Result};
use crate::tensor::Source;

/// M basis vectors over the parameters of one model, and how T tasks are recovered from them. Cloning copies no
/// values.
#[derive(Clone, Debug)]
pub struct Basis {
    path: PathBuf,
    vectors: usize,
    has_mean: bool,
    recovery: Recovery,
    parameters: IndexMap<String, Parameter>,
    file_bytes: u64,
    files: Vec<PathBuf>,
}

/// The contents of a basis as a reader of its files hands them over.
pub(crate) struct BasisContents {
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
    /// The files that it was read from.
    pub(crate) files: Vec<PathBuf>,
}

/// One parameter of the model: what every basis vector holds for it, in one shape.
#[derive(Clone, Debug)]
pub struct Parameter {
    shape: Box<[usize]>,
    /// The vectors', then PCA's mean's, then the residuals'. Empty where it is known that none changes anything.
    sources: Vec<Source>,
    changed: OnceLock<bool>,
}

impl Parameter {
    /// A parameter with at least one source, all of one shape; whether they change anything is found out when asked.
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        let shape = sources[0].shape().into();
        Self { shape, sources, changed: OnceLock::new() }
    }

    /// A parameter whose sources, at least one, are known to change something.
    pub(crate) fn changed(sources: Vec<Source>) -> Self {
        Self { changed: OnceLock::from(true), ..Self::new(sources) }
    }

    /// A parameter that no vector changes.
    pub(crate) fn unchanged(shape: &[usize]) -> Self {
        Self { shape: shape.into(), sources: Vec::new(), changed: OnceLock::from(false) }
    }

    /// The extents of the parameter, which are those of every source.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// This parameter in every basis vector in order, then in PCA's mean, then in the residuals ([`Basis::residuals`]):
    /// what the numbers of [`Basis::factors`] multiply. Empty for a parameter of which a bundle stores nothing, because
    /// no vector changes it.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Whether any vector has anything but zero here. Found out on the first call and kept: that call reads a changed
    /// parameter up to its first element that is not zero, an unchanged one to its end.
    pub fn is_changed(&self) -> bool {
        *self.changed.get_or_init(|| !self.sources.iter().all(Source::is_zero))
    }
}

impl Basis {
    /// A basis of `contents`, which the caller has checked.
    pub(crate) fn from_contents(contents: BasisContents) -> Self {
        let BasisContents {
            path,
            method,
            tasks,
            vectors,
            has_mean,
            table,
            residual_tasks,
            parameters,
            file_bytes,
            files,
        } = contents;
        let recovery = Recovery::new(method, tasks, vectors, table, residual_tasks);
        Self { path, vectors, has_mean, recovery, parameters, file_bytes, files }
    }

    /// This basis, of whose tasks these are merges of the others.
    pub(crate) fn with_merges(mut self, merges: HashSet<usize>) -> Self {
        self.recovery = self.recovery.with_merges(merges);
        self
    }

    /// This basis with other vectors of a parameter: as many, of one shape.
    pub(crate) fn with_parameter(mut self, name: &str, sources: Vec<Source>) -> Self {
        self.parameters.insert(name.to_owned(), Parameter::new(sources));
        self
    }

    /// This basis with a parameter that no vector changes.
    pub(crate) fn without_changes(mut self, name: &str, shape: &[usize]) -> Self {
        self.parameters.insert(name.to_owned(), Parameter::unchanged(shape));
        self
    }

    /// The path it was opened from: a folder, or a bundle's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The method that made the basis.
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

    /// The expressions that the basis keeps under a name, each usable wherever a task is; a bundle can have some.
    pub fn names(&self) -> impl ExactSizeIterator<Item = (&str, &TaskExpr)> {
        self.recovery.named.iter().map(|(name, expr)| (name.as_str(), expr))
    }

    /// This basis with these expressions kept under their names, in the place of those that it has.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a name that is a task's or empty;
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where an expression names something else than tasks and
    /// vectors of this basis, other kept names among them.
    pub fn with_names(self, named: IndexMap<String, TaskExpr>) -> Result<Self> {
        Ok(Self { recovery: self.recovery.with_names(named)?, ..self })
    }

    /// The recovery table [M, T].
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The size of its files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The files that it was read from: those of the folder, or the bundle.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Every parameter under its canonical name.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = (&str, &Parameter)> {
        self.parameters.iter().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// The parameter called `name`.
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
            .try_for_each(|(name, source)| {
                let verified = source.in_memory().and_then(|source| source.verify_finite());
                verified.map_err(|e| e.at(&self.path).tensor(name))
            })
    }

    /// The coefficients that `expr` comes to: one number per vector (and one for the mean), in O(M·T), for each group
    /// of parameters that the expression tells apart. Nothing is read.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a task that the basis does not know, with the nearest
    /// name; [`ErrorKind::NotRecoverable`](crate::ErrorKind::NotRecoverable) for one that this method cannot give
    /// back; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where a sum is not finite, and for
    /// groups that leave a parameter out, share one, or have none.
    pub fn coefficients(&self, expr: &TaskExpr) -> Result<CoefficientMatrix> {
        let names: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
        self.recovery.coefficients(expr, &names)
    }

    /// The coefficients in the form that the kernel takes: one f32 for each of [`Parameter::sources`].
    ///
    /// # Errors
    /// As [`Coefficients::to_kernel`].
    pub fn factors(&self, coefficients: &Coefficients) -> Result<Vec<f32>> {
        coefficients.to_kernel(self.vectors, self.has_mean, self.recovery.residual_tasks.len())
    }

    /// The factors of every row of a matrix.
    ///
    /// # Errors
    /// As [`Coefficients::to_kernel`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a matrix
    /// over another number of parameters.
    pub(crate) fn factors_by_row(&self, matrix: &CoefficientMatrix) -> Result<Vec<Vec<f32>>> {
        if ![0, self.parameters.len()].contains(&matrix.assignment().len()) {
            return Err(Error::invalid("the coefficients are grouped for another basis")
                .expected(format_args!("{} parameters", self.parameters.len()))
                .got(matrix.assignment().len()));
        }
        matrix.rows().iter().map(|row| self.factors(row)).collect()
    }

    /// The place of a parameter among those of the basis.
    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        self.parameters.get_index_of(name)
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

/// The numbers of elements of a basis, by what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ParameterCount {
    /// Elements of every parameter of the model.
    pub total: usize,
    /// Elements of the parameters of the image tower (`visual.…`).
    pub image_tower: usize,
    /// Elements of the parameters that at least one vector changes.
    pub changed: usize,
}
