//! The bundle: one file with everything that a device needs to run the tasks of a basis, and nothing else.
//!
//! The image tower of the base, the vectors (quantised, mostly) of the parameters that they change, the recovery table,
//! heads with their class names, architecture, preprocessing: a valid safetensors file, checked by checksums, whose
//! layout `docs/bundle-format.md` draws byte by byte. [`Bundle`] opens one, [`Packer`] makes one of a basis folder,
//! [`Growth`] adds tasks and residuals to one.
//!
//! ```no_run
//! use taskbasis::{Bundle, Encoder, EncoderOptions, ModelOptions};
//!
//! let bundle = Bundle::open("model.taskbasis")?;
//! let model = bundle.model(None, &ModelOptions::default())?;
//! let encoder = Encoder::of_bundle(&bundle, &model, &EncoderOptions::default())?;
//! let weights = model.weights(&"MNIST".parse()?)?.get()?;
//! let head = bundle.head("MNIST")?;
//! # let (pixels, n) = (vec![0.0; 3 * 224 * 224], 1);
//! let best = head.classify(&encoder.encode(&weights, &pixels, n)?, 1)?;
//! # Ok::<(), taskbasis::Error>(())
//! ```

mod choose;
mod fingerprint;
mod format;
mod golden;
mod grow;
mod items;
mod measure;
mod open;
mod pack;
mod quantise;
mod reader;
mod solve;
mod verify;
mod writer;

use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

pub use self::choose::Formats;
pub use self::fingerprint::Fingerprint;
pub use self::format::{Lambdas, VERSION};
pub use self::grow::{Fitted, Growth, NewTask};
pub use self::measure::{Errors, TaskError};
pub use self::open::BasisFile;
pub use self::pack::{BaseFormat, PackReport, Packer};
pub use self::quantise::VectorFormat;
use crate::basis::{Basis, BasisContents, Method, Parameter};
use crate::checkpoint::{Checkpoint, Format};
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::mmap::{MapMode, Mapping};
use crate::onnx::{BoundGraph, GraphMap, OnnxFile};
use crate::preprocess::Preprocess;
use crate::tensor::{Source, Tensor};
use crate::tower::{Arch, TowerConfig, TowerOptions};
use crate::weights::{Model, ModelOptions};

/// An open bundle. Its tensors are views of the mapped file.
pub struct Bundle {
    mapping: Arc<Mapping>,
    header_bytes: usize,
    about: format::About,
    method: Method,
    fingerprint: Fingerprint,
    /// The base's parameters, all of them, where it is stored.
    base: Option<Vec<(String, Tensor)>>,
    /// The architecture's parameters with their shapes.
    parameters: IndexMap<String, Vec<usize>>,
    /// What the vectors change.
    pieces: IndexMap<String, Pieces>,
    /// M rows of T.
    recovery: Vec<f64>,
    heads: IndexMap<String, HeadTensors>,
    graph: Option<Tensor>,
    golden: Option<Tensor>,
    /// The header's, then one a tensor in the order of their bytes, padding left out.
    checksums: Vec<u64>,
    /// Every tensor in the order of their bytes.
    tensors: Vec<(String, Tensor)>,
}

/// A parameter's piece of every vector: the M, PCA's mean, the residuals.
#[derive(Clone, Debug)]
struct Pieces {
    sources: Vec<Source>,
}

#[derive(Clone, Debug)]
struct HeadTensors {
    weight: Tensor,
    bias: Tensor,
    classes: Vec<String>,
    normalises: bool,
}

impl Bundle {
    /// Whether the file at `path` is a bundle, of whatever version, judged by its first bytes.
    pub fn is_bundle(path: impl AsRef<Path>) -> bool {
        reader::is_bundle(path.as_ref())
    }

    /// Maps the file and checks its header, the header's checksum, and everything that can be known without looking at
    /// the tensors: names, types, shapes, places, alignment, metadata. What the tensors hold is not read;
    /// [`Bundle::verify`] does that.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be opened;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming file and tensor, when a rule of the format is broken;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for another version of the format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, MapMode::default())
    }

    /// [`Bundle::open`] with a choice between mapping and reading.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        reader::open(path.as_ref(), mode)
    }

    /// As [`Bundle::open`], of bytes that are in memory or mapped already.
    ///
    /// # Errors
    /// As [`Bundle::open`], but for the file's.
    pub fn parse(mapping: Arc<Mapping>) -> Result<Self> {
        reader::parse(mapping)
    }

    /// Reads everything and gives everything that is wrong: wrong checksums, padding that is not zero, numbers that are
    /// not finite, a stored base that is not the one of the fingerprint, a graph that does not take the base's weights.
    /// Empty where all is well. `progress` is called after every tensor with its bytes. Threads: 0 means one a
    /// processor.
    pub fn verify(&self, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Vec<Error> {
        verify::verify(self, threads, progress)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// The file's size.
    pub fn file_bytes(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// The image encoder.
    pub fn arch(&self) -> &Arch {
        &self.about.arch
    }

    /// The T tasks, in the order of the recovery table's columns.
    pub fn tasks(&self) -> &[String] {
        &self.about.basis.tasks
    }

    /// The tasks that have a residual: a small vector of their own, added with the task's coefficient.
    pub fn residuals(&self) -> &[String] {
        &self.about.basis.residuals
    }

    /// What the images must go through.
    ///
    /// # Errors
    /// None that opening did not find.
    pub fn preprocess(&self) -> Result<Preprocess> {
        self.about.preprocess.preprocess()
    }

    /// The image tower as the bundle says it, for weights over `base`, which is usually its own; `options` come first.
    ///
    /// # Errors
    /// As [`TowerConfig::stored`].
    pub fn tower(&self, base: &Checkpoint, options: &TowerOptions) -> Result<TowerConfig> {
        TowerConfig::stored(base, self.arch(), &self.preprocess()?, options)
    }

    /// The scaling coefficients that whoever packed it suggests.
    pub fn lambdas(&self) -> Lambdas {
        self.about.lambda
    }

    /// Of the base that it was packed over.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The program that wrote it.
    pub fn writer(&self) -> &str {
        &self.about.writer
    }

    /// The optional graph section as bytes: an ONNX model whose weights are inputs.
    pub fn graph(&self) -> Option<&[u8]> {
        self.graph.as_ref().and_then(Tensor::bytes)
    }

    /// What the inputs of the graph in it are, where it carries one that is to be run in the place of the built one.
    pub fn graph_map(&self) -> Option<&GraphMap> {
        self.about.graph.as_ref()
    }

    /// The graph that it carries, for weights of this base and this basis, which are usually its own; `None` where it
    /// carries none, and encoders run the graph that follows from the architecture.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for a graph that is damaged;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the tensor, where it does not take this base's
    /// weights.
    pub fn bound_graph(&self, base: &Checkpoint, basis: Option<&Basis>) -> Result<Option<BoundGraph>> {
        self.with_graph(|file, map| BoundGraph::of_carried(file, map, base, basis))
    }

    fn with_graph(
        &self,
        bind: impl FnOnce(Arc<OnnxFile>, GraphMap) -> Result<BoundGraph>,
    ) -> Result<Option<BoundGraph>> {
        let (Some(map), Some(tensor)) = (&self.about.graph, &self.graph) else { return Ok(None) };
        let place = tensor.offset()..tensor.offset() + tensor.nbytes();
        let bound = OnnxFile::parse_within(Arc::clone(tensor.mapping()), place).and_then(|file| {
            let graph = bind(Arc::new(file), map.clone())?;
            graph.check_image_size(self.about.arch.image_size())?;
            Ok(graph)
        });
        bound.map(Some).map_err(|e| e.at(self.path()))
    }

    /// The tasks that it has heads for.
    pub fn head_tasks(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.heads.keys().map(String::as_str)
    }

    /// The head of `task`, with its class names where the bundle has them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), with the known ones;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where a number of it is not finite.
    pub fn head(&self, task: &str) -> Result<Head> {
        let Some(HeadTensors { weight, bias, classes, normalises }) = self.heads.get(task) else {
            return Err(did_you_mean::unknown("head of task", task, self.head_tasks()).at(self.path()));
        };
        let head = Head::from_tensors(weight, Some(bias), &format!("{}{task}/", format::name::HEADS));
        let head = head.map_err(|e| e.at(self.path()))?.with_normalisation(*normalises);
        let pooling = self.about.arch.variant.pooling;
        let head = head.with_pooling(Some(pooling).filter(|pooling| !pooling.is_projected()));
        if classes.is_empty() { Ok(head) } else { head.with_classes(classes.clone()).map_err(|e| e.at(self.path())) }
    }

    /// The head of `task`; where none is named, the only one.
    pub(crate) fn head_or_only(&self, task: Option<&str>) -> Result<Head> {
        let mut tasks = self.head_tasks();
        match (task, tasks.next(), tasks.next()) {
            (Some(task), _, _) => self.head(task),
            (None, Some(only), None) => self.head(only),
            (None, None, _) => Err(Error::not_found("no head in it").at(self.path())),
            (None, Some(_), Some(_)) => {
                let names: Vec<&str> = self.head_tasks().collect();
                Err(Error::invalid(format!("heads of several tasks; name one of {}", names.join(", "))).at(self.path()))
            }
        }
    }

    /// Whether the base is in it.
    pub fn holds_base(&self) -> bool {
        self.base.is_some()
    }

    /// The base, where the bundle holds it.
    ///
    /// # Errors
    /// None that opening did not find.
    pub fn base(&self) -> Result<Option<Checkpoint>> {
        let base = self
            .base
            .as_ref()
            .map(|tensors| Checkpoint::from_tensors(self.path(), Format::Safetensors, tensors.clone()));
        base.transpose()
    }

    /// The base: `given`, which must be the one that the bundle was packed over, or its own.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming both fingerprints, where `given` is another base;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where none is given and the bundle has none.
    pub fn base_or(&self, given: Option<Checkpoint>) -> Result<Checkpoint> {
        match given {
            Some(given) => self.check_base(&given).map(|()| given),
            None => self.base()?.ok_or_else(|| {
                Error::invalid("the bundle leaves the base out, and none was given")
                    .at(self.path())
                    .expected(format_args!("a base of fingerprint {}", self.fingerprint))
                    .hint("Give the base checkpoint it was packed over (--base)")
            }),
        }
    }

    /// Whether `given` is the base that the bundle was packed over; its own, which may have been rounded, will do too.
    fn check_base(&self, given: &Checkpoint) -> Result<()> {
        let fingerprint = Fingerprint::of(given, 0)?;
        let is_own = || self.base()?.map(|own| Fingerprint::of(&own, 0)).transpose();
        if fingerprint == self.fingerprint || is_own()? == Some(fingerprint) {
            return Ok(());
        }
        Err(Error::mismatch(format!("not the base that the bundle {} was packed over", self.path().display()))
            .at(given.path())
            .expected(format_args!("a base of fingerprint {}", self.fingerprint))
            .got(fingerprint))
    }

    /// The basis, its vectors views of the bundle.
    ///
    /// # Errors
    /// None that opening did not find.
    pub fn basis(&self) -> Result<Basis> {
        let mut parameters: IndexMap<String, Parameter> = IndexMap::with_capacity(self.parameters.len());
        for (name, shape) in &self.parameters {
            let parameter = match self.pieces.get(name) {
                // Only what a vector changes is stored at all.
                Some(Pieces { sources }) => Parameter::changed(sources.clone()),
                None => Parameter::unchanged(shape),
            };
            parameters.insert(name.clone(), parameter);
        }
        let format::BasisInfo { tasks, vectors, mean, residuals, .. } = &self.about.basis;
        let residual_tasks = residuals.iter().filter_map(|task| tasks.iter().position(|known| known == task)).collect();
        Ok(Basis::from_contents(BasisContents {
            path: self.path().to_path_buf(),
            method: self.method,
            tasks: tasks.clone(),
            vectors: *vectors,
            has_mean: *mean,
            table: self.recovery.clone(),
            residual_tasks,
            parameters,
            file_bytes: self.file_bytes(),
        }))
    }

    /// Base and basis together, ready to reconstruct; `base` as [`Bundle::base_or`] takes it.
    ///
    /// # Errors
    /// As [`Bundle::base_or`] and [`Model::new`].
    pub fn model(&self, base: Option<Checkpoint>, options: &ModelOptions) -> Result<Arc<Model>> {
        Model::new(self.base_or(base)?, Some(self.basis()?), options)
    }

    /// Bytes of the tensors of each kind, and in which formats, in the order of the file.
    pub fn sections(&self) -> Vec<SectionSize> {
        let mut sizes: IndexMap<(&'static str, &'static str), (usize, u64)> = IndexMap::new();
        for (name, tensor) in &self.tensors {
            let kind = match name.split('/').next() {
                Some("base") => "base",
                Some("vectors") => "vectors",
                Some("mean") => "mean",
                Some("residuals") => "residuals",
                Some("heads") => "heads",
                Some("graph") => "graph",
                Some("golden") => "golden",
                Some("padding") => "padding",
                _ => "other",
            };
            let blocks = self.about.blocks.get(name).and_then(|info| info.format.parse::<VectorFormat>().ok());
            let format = blocks.map_or(tensor.dtype().name(), VectorFormat::name);
            let size = sizes.entry((kind, if kind == "other" { "" } else { format })).or_default();
            *size = (size.0 + 1, size.1 + tensor.nbytes() as u64);
        }
        let header = SectionSize { kind: "header", format: "", tensors: 0, bytes: self.header_bytes as u64 };
        let sections =
            sizes.into_iter().map(|((kind, format), (tensors, bytes))| SectionSize { kind, format, tensors, bytes });
        std::iter::once(header).chain(sections).collect()
    }
}

/// What a part of a bundle takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SectionSize {
    /// `header`, `base`, `vectors`, `mean`, `residuals`, `heads`, `graph`, `golden`, `padding`, `other`.
    pub kind: &'static str,
    /// The data type or block format, where it has one.
    pub format: &'static str,
    /// How many tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({}, {} tensors)", self.path().display(), self.tensors.len())
    }
}
