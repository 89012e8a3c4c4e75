//! The opened bundle, and everything that can be asked of it.

use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

use super::fingerprint::Fingerprint;
use super::format::{Lambdas, Metadata, name};
use super::keys::in_file;
use super::quantise::StoredFormat;
use crate::atomic_file::FileVersion;
use crate::basis::{Basis, BasisContents, Method, Parameter};
use crate::checkpoint::{Checkpoint, Format, lacking};
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::heads::{Head, ScoreFunction, choose_task};
use crate::mmap::Mapping;
use crate::onnx::{BoundGraph, GraphMap, OnnxFile};
use crate::preprocess::Preprocess;
use crate::tensor::{Source, Tensor};
use crate::tower::{Arch, TowerConfig, TowerOptions};
use crate::weights::{Model, ModelOptions};

/// An open bundle. Its tensors are views of the mapped file.
pub struct Bundle {
    pub(super) mapping: Arc<Mapping>,
    /// The file at the state in which it was opened; `None` for bytes of no file.
    pub(super) version: Option<FileVersion>,
    pub(super) header_bytes: usize,
    pub(super) metadata: Metadata,
    pub(super) method: Method,
    pub(super) fingerprint: Fingerprint,
    /// All parameters of the base; `None` where it is left out.
    pub(super) base: Option<Vec<(String, Tensor)>>,
    /// The architecture's parameters with their shapes.
    pub(super) parameters: IndexMap<String, Vec<usize>>,
    /// The parameters that the vectors change, each with its sources: the M vectors, PCA's mean, the residuals.
    pub(super) vectors: IndexMap<String, Vec<Source>>,
    /// The task of each residual.
    pub(super) residual_tasks: Vec<usize>,
    /// The recovery table, M rows of T.
    pub(super) recovery: Vec<f64>,
    pub(super) heads: IndexMap<String, HeadTensors>,
    pub(super) graph: Option<Tensor>,
    pub(super) golden: Option<Tensor>,
    pub(super) router: Option<Tensor>,
    /// The checksums: the header's, then one per tensor in the order of their bytes, padding left out.
    pub(super) checksums: Vec<u64>,
    /// All tensors, in the order of their bytes.
    pub(super) tensors: Vec<(String, Tensor)>,
}

/// The head of one task.
#[derive(Clone, Debug)]
pub(super) struct HeadTensors {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) classes: Vec<String>,
    pub(super) normalises: bool,
    pub(super) function: ScoreFunction,
}

impl Bundle {
    /// The path of its file.
    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// The file's size.
    pub fn file_bytes(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Whether `path` leads to the bundle's own file, or to what has taken its place.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let is_file = || self.version.is_some() && FileVersion::of(path).ok() == self.version;
        let resolved = |path: &Path| path.canonicalize().ok();
        path == self.path() || is_file() || resolved(path).is_some_and(|path| resolved(self.path()) == Some(path))
    }

    /// Refuses a `path` whose file is not the one that was opened any more.
    pub(super) fn check_unchanged(&self, path: &Path) -> Result<()> {
        if self.version.is_none() || FileVersion::of(path).ok() == self.version {
            return Ok(());
        }
        Err(Error::mismatch("changed since it was opened, by another program: nothing was written")
            .at(path)
            .hint("Open it again, and add to what it holds now"))
    }

    /// The architecture of the image encoder; [`Arch::of_graph`] where the graph that the bundle carries is all that is
    /// known of it.
    pub fn arch(&self) -> &Arch {
        &self.metadata.encoder.arch
    }

    /// The T tasks, in the order of the recovery table's columns.
    pub fn tasks(&self) -> &[String] {
        &self.metadata.basis.tasks
    }

    /// The tasks that have a residual: a small vector of their own, added with the task's coefficient.
    pub fn residuals(&self) -> &[String] {
        &self.metadata.basis.residuals
    }

    /// The preparation of images.
    ///
    /// # Errors
    /// None that opening did not find.
    pub fn preprocess(&self) -> Result<Preprocess> {
        self.metadata.preprocess.preprocess()
    }

    /// The image tower as the bundle says it, for weights over `base`, which is usually its own; `options` come first.
    ///
    /// # Errors
    /// As [`TowerConfig::stored`] and [`TowerConfig::stored_graph`].
    pub fn tower(&self, base: &Checkpoint, options: &TowerOptions) -> Result<TowerConfig> {
        match self.arch().is_of_graph() {
            true => TowerConfig::stored_graph(base, self.arch(), &self.preprocess()?, options),
            false => TowerConfig::stored(base, self.arch(), &self.preprocess()?, options),
        }
    }

    /// The scaling coefficients that the bundle suggests.
    pub fn lambdas(&self) -> Lambdas {
        self.metadata.lambda
    }

    /// The fingerprint of the base that it was packed over.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The program that wrote it.
    pub fn writer(&self) -> &str {
        &self.metadata.writer
    }

    /// The optional graph section as bytes: an ONNX model whose weights are inputs.
    pub fn graph(&self) -> Option<&[u8]> {
        self.graph.as_ref().and_then(Tensor::bytes)
    }

    /// The file of the router that it keeps ([`Router::save`](crate::Router::save)); `None` where it keeps none.
    pub(crate) fn router(&self) -> Option<&Tensor> {
        self.router.as_ref()
    }

    /// The inputs of the graph that it carries, where it is to be run in the place of the built one.
    pub fn graph_map(&self) -> Option<&GraphMap> {
        self.metadata.graph.as_ref()
    }

    /// The graph that it carries, for weights of this base and this basis, which are usually its own; `None` where it
    /// carries none, and encoders run the graph that follows from the architecture.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for a graph that is damaged;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the tensor, where it does not take this base's
    /// weights.
    pub fn bound_graph(&self, base: &Checkpoint, basis: Option<&Basis>) -> Result<Option<BoundGraph>> {
        self.with_graph(|file, map| BoundGraph::of_embedded(file, map, base, basis))
    }

    pub(super) fn with_graph(
        &self,
        bind: impl FnOnce(Arc<OnnxFile>, GraphMap) -> Result<BoundGraph>,
    ) -> Result<Option<BoundGraph>> {
        let (Some(map), Some(tensor)) = (&self.metadata.graph, &self.graph) else { return Ok(None) };
        let place = tensor.offset()..tensor.offset() + tensor.nbytes();
        let bound = OnnxFile::parse_within(Arc::clone(tensor.mapping()), place).and_then(|file| {
            let graph = bind(Arc::new(file), map.clone())?;
            graph.check_image_size(self.arch().image_size())?;
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
        let Some(HeadTensors { weight, bias, classes, normalises, function }) = self.heads.get(task) else {
            return Err(did_you_mean::unknown("head of task", task, self.head_tasks()).at(self.path()));
        };
        let head = Head::from_tensors(weight, Some(bias), &format!("{}{task}/", name::HEADS));
        let head = head.map_err(|e| e.at(self.path()))?.with_normalisation(*normalises).with_function(*function);
        let pooling = self.arch().variant.pooling;
        let head = head.with_pooling(Some(pooling).filter(|pooling| !pooling.is_projected()));
        if classes.is_empty() { Ok(head) } else { head.with_classes(classes.clone()).map_err(|e| e.at(self.path())) }
    }

    /// The head of `task`; where none is named, the only one.
    pub(crate) fn head_or_only(&self, task: Option<&str>) -> Result<Head> {
        self.head(choose_task(self.head_tasks(), task).map_err(|e| e.at(self.path()))?)
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
            .map(|tensors| Checkpoint::of_canonical(self.path(), Format::Safetensors, tensors.clone()));
        Ok(base)
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
    pub(super) fn check_base(&self, given: &Checkpoint) -> Result<()> {
        if !self.arch().is_of_graph() && given.image_tower().next().is_none() {
            return Err(lacking::no_tower(given));
        }
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
            let parameter = match self.vectors.get(name) {
                // Only what a vector changes is stored at all.
                Some(sources) => Parameter::changed(sources.clone()),
                None => Parameter::unchanged(shape),
            };
            parameters.insert(name.clone(), parameter);
        }
        let basis = Basis::from_contents(BasisContents {
            path: self.path().to_path_buf(),
            method: self.method,
            tasks: self.metadata.basis.tasks.clone(),
            vectors: self.metadata.basis.vectors,
            has_mean: self.metadata.basis.mean,
            table: self.recovery.clone(),
            residual_tasks: self.residual_tasks.clone(),
            parameters,
            file_bytes: self.file_bytes(),
            files: vec![self.path().to_path_buf()],
        });
        let merges = self.metadata.merges.keys();
        let merges = merges.filter_map(|name| self.tasks().iter().position(|task| task == name)).collect();
        let basis = basis.with_merges(merges);
        basis.with_names(self.metadata.named().map_err(in_file)?).map_err(in_file)
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
                Some("router") => "router",
                Some("padding") => "padding",
                _ => "other",
            };
            let format = match self.metadata.blocks.get(name).map(StoredFormat::of_record) {
                Some(Ok(StoredFormat::Values(format))) => format.name(),
                Some(Ok(StoredFormat::LowRank(_))) => "low rank",
                _ => tensor.dtype().name(),
            };
            let size = sizes.entry((kind, if kind == "other" { "" } else { format })).or_default();
            *size = (size.0 + 1, size.1 + tensor.nbytes() as u64);
        }
        let header = SectionSize { kind: "header", format: "", tensors: 0, bytes: self.header_bytes as u64 };
        let sections =
            sizes.into_iter().map(|((kind, format), (tensors, bytes))| SectionSize { kind, format, tensors, bytes });
        std::iter::once(header).chain(sections).collect()
    }
}

/// The size of one kind of tensors in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SectionSize {
    /// `header`, `base`, `vectors`, `mean`, `residuals`, `heads`, `graph`, `golden`, `router`, `padding`, `other`.
    pub kind: &'static str,
    /// The data type or block format, or `low rank`, where it has one.
    pub format: &'static str,
    /// The number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({}, {} tensors)", self.path().display(), self.tensors.len())
    }
}
