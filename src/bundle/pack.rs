//! Packing: a basis and its base into one file.

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

use super::add_tasks::BundleUpdate;
use super::choose::{FormatCosts, Formats};
use super::computed::Computed;
use super::encoder_record::EncoderMetadata;
use super::fingerprint::Fingerprint;
use super::format::Lambdas;
use super::gate::PrecisionMeasure;
use super::measure::{RecoveryErrors, Sums};
use super::merge_source::NewMerge;
use super::opened::Bundle;
use super::quantise::StoredFormat;
pub use super::stored_base::BaseFormat;
use super::stored_base::Rounding;
use super::task_fit::TaskFit;
use super::writer;
use crate::atomic_file::replace_file;
use crate::basis::{Basis, Parameter};
use crate::checkpoint::{Checkpoint, is_image_tower};
use crate::encoder::{Encoder, EncoderOptions};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::mmap::Mapping;
use crate::onnx::{BoundGraph, GraphMap, OnnxFile};
use crate::preprocess::Preprocess;
use crate::tower::{Arch, ArchHints, TowerConfig};
use crate::weights::check_models;

/// A maker of bundles. Everything is streamed: what is in memory is one parameter's vectors as they will be stored, and
/// a chunk per thread of what they are made of.
pub struct Packer<'a> {
    pub(super) base: &'a Checkpoint,
    pub(super) basis: &'a Basis,
    pub(super) encoder: EncoderMetadata,
    /// The encoder's parameters with their shapes, in its order.
    pub(super) parameters: IndexMap<String, Vec<usize>>,
    /// The parameters that any vector changes, in the same order.
    pub(super) changed: Vec<(&'a str, &'a Parameter)>,
    pub(super) base_format: BaseFormat,
    pub(super) heads: IndexMap<String, Head>,
    pub(super) lambdas: Lambdas,
    pub(super) preprocess: Preprocess,
    pub(super) graph: Option<(Vec<u8>, GraphMap)>,
    residuals: Vec<WantedResidual>,
    merges: Vec<NewMerge<'a>>,
    costs: RefCell<Option<FormatCosts>>,
    /// Of the base: a hash of all its values, which every plan of a bundle needs.
    pub(super) fingerprint: OnceCell<Fingerprint>,
    pub(super) threads: usize,
    /// What is computed with the written file and then put into it.
    pub(super) computed: Computed<'a>,
}

impl fmt::Debug for Packer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { basis, base_format, threads, .. } = self;
        let arch = self.arch();
        let mut shown = f.debug_struct("Packer");
        shown.field("basis", basis).field("arch", arch).field("base_format", base_format).field("threads", threads);
        shown.finish_non_exhaustive()
    }
}

/// A residual to be stored if the vectors lack more than `above` of the task.
struct WantedResidual {
    task: String,
    finetuned: Checkpoint,
    format: StoredFormat,
    above: f64,
}

/// The sizes and errors of a bundle that was packed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PackReport {
    /// The bundle's size.
    pub bytes: u64,
    /// Bytes of the vectors, PCA's mean among them, and the residuals.
    pub vector_bytes: u64,
    /// Bytes of the base.
    pub base_bytes: u64,
    /// Bytes of a user's graph without its weights; 0 where none is carried.
    pub graph_bytes: u64,
    /// Bytes of T task vectors as they were before there was a basis: f32, all parameters of the model.
    pub task_vectors_bytes: u64,
    /// Bytes of the files of the basis that was packed.
    pub basis_bytes: u64,
    /// Bytes of one checkpoint, the base's file.
    pub checkpoint_bytes: u64,
    /// The errors of the recovered task vectors, residuals left out.
    pub errors: RecoveryErrors,
    /// ‖θ'_0 − θ_0‖ / ‖θ_0‖: what rounding did to the base; `None` where it is left out.
    pub base_error: Option<f64>,
    /// The tasks whose fine-tuned checkpoints were given for a residual, with what the vectors lack of them.
    pub residuals: Vec<TaskFit>,
    /// The merged vectors, with what storing cost of them.
    pub merges: Vec<TaskFit>,
    /// What was measured of precisions; `None` where nothing was.
    pub precision: Option<PrecisionMeasure>,
    /// The formats, each with the number of parameters that have it.
    pub formats: Vec<(String, usize)>,
    /// Parameters outside the image tower that vectors change; no image encoder uses them, and they are left out.
    pub left_out: usize,
}

impl<'a> Packer<'a> {
    /// A packer of `basis` over `base`; `hints` is what shapes do not tell of the architecture. What they leave open is
    /// read beside the base, as [`TowerConfig::read`] does; so is the preparation of images.
    ///
    /// # Errors
    /// As [`TowerConfig::read`] and [`Packer::of_tower`].
    pub fn new(base: &'a Checkpoint, basis: &'a Basis, hints: ArchHints) -> Result<Self> {
        let tower = TowerConfig::read(base, &hints.into())?;
        tower.log();
        Self::of_tower(base, basis, &tower)
    }

    /// A packer of `basis` over `base`, whose image tower is `tower`. Of an encoder that only a graph is known of
    /// ([`TowerConfig::of_graph`]) that graph has to be given, before heads are ([`Packer::graph`]).
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where basis and base are not of one model;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where nothing says how images are prepared for
    /// an encoder that only a graph is known of.
    pub fn of_tower(base: &'a Checkpoint, basis: &'a Basis, tower: &TowerConfig) -> Result<Self> {
        let (arch, preprocess) = (tower.arch.clone(), tower.preprocess.clone());
        let of_base = || {
            let floats = base.encoder().filter(|(_, tensor)| tensor.dtype().is_float());
            floats.map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect()
        };
        let of_graph = arch.is_of_graph();
        if of_graph {
            tower.check_images_told().map_err(|e| e.at(base.path()))?;
        }
        let encoder = EncoderMetadata { arch, parameters: of_graph.then(of_base) };
        let parameters = encoder.parameters();
        check_models(base, basis)?;
        if basis.residuals().len() > 0 {
            return Err(Error::unsupported("a basis with residuals cannot be packed again").at(basis.path()));
        }
        let known: HashMap<&str, (&str, &Parameter)> = basis.parameters().map(|found| (found.0, found)).collect();
        let changed = parameters.keys().filter_map(|name| known.get(name.as_str()).copied());
        let changed = changed.filter(|(_, parameter)| parameter.is_changed()).collect();
        Ok(Self {
            base,
            basis,
            encoder,
            parameters,
            changed,
            base_format: BaseFormat::default(),
            heads: IndexMap::new(),
            lambdas: Lambdas::default(),
            preprocess,
            graph: None,
            residuals: Vec::new(),
            merges: Vec::new(),
            computed: Computed::default(),
            costs: RefCell::new(None),
            fingerprint: OnceCell::new(),
            threads: 0,
        })
    }

    /// Sets the form in which the base is kept; f16 unless this is called.
    pub fn base_format(&mut self, format: BaseFormat) -> &mut Self {
        self.base_format = format;
        self
    }

    /// Adds a task's head, with its class names where it has them.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a head of other embeddings;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) before the graph that gives them.
    pub fn head(&mut self, task: &str, head: Head) -> Result<&mut Self> {
        self.check_graph()?;
        head.check_tower(task, self.arch())?;
        self.heads.insert(task.to_owned(), head);
        Ok(self)
    }

    /// Suggested scaling coefficients.
    pub fn lambdas(&mut self, lambdas: Lambdas) -> &mut Self {
        self.lambdas = lambdas;
        self
    }

    /// The preparation of images.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for images of another size than the tower takes.
    pub fn preprocess(&mut self, preprocess: Preprocess) -> Result<&mut Self> {
        if preprocess.size() != self.arch().image_size() {
            return Err(Error::mismatch("preprocessing gives another image size than the architecture takes")
                .expected(self.arch().image_size())
                .got(preprocess.size()));
        }
        self.preprocess = preprocess;
        Ok(self)
    }

    /// Carries this graph, which must have been bound to the base and the basis, for encoders to run in the place of
    /// the built one. Its weights are not stored twice: what the base has becomes an input of the graph. Where its file
    /// does not say how long embeddings are, and the base holds no tower that does, ONNX Runtime is asked.
    ///
    /// # Errors
    /// As [`Runtime::load`](crate::Runtime::load) in that case;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the tensor, for a graph of another model;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where what is no weight takes 2 GiB and more.
    pub fn graph(&mut self, graph: &BoundGraph) -> Result<&mut Self> {
        graph.check_image_size(self.arch().image_size())?;
        if self.arch().is_of_graph() {
            let length = Encoder::embedding_length(self.arch(), graph, &EncoderOptions::default())?;
            self.encoder.arch.embed_dim = length;
        }
        let (model, map) = graph.embedded(self.base)?;
        // Opening the bundle does the same.
        let file = OnnxFile::parse(Arc::new(Mapping::from_vec(model.clone(), graph.file().path())))?;
        BoundGraph::of_embedded(Arc::new(file), map.clone(), self.base, Some(self.basis))?;
        self.graph = Some((model, map));
        Ok(self)
    }

    /// Stores what the vectors lack of a task, given as its fine-tuned checkpoint, as a vector of its own, if that is
    /// more than `above` of the task vector's norm.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a task that the basis does not know;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where one was given already.
    pub fn residual(
        &mut self,
        task: &str,
        finetuned: Checkpoint,
        format: StoredFormat,
        above: f64,
    ) -> Result<&mut Self> {
        self.basis.task_index(task)?;
        if self.residuals.iter().any(|wanted| wanted.task == task) {
            return Err(Error::invalid(format!("two residuals for task `{task}`")));
        }
        self.residuals.push(WantedResidual { task: task.to_owned(), finetuned, format, above });
        Ok(self)
    }

    /// Keeps a merged vector ([`BundleUpdate::merge`]).
    pub fn merge(&mut self, merge: NewMerge<'a>) -> &mut Self {
        self.merges.push(merge);
        self
    }

    /// Threads; 0, the default, means one per processor. The bytes do not depend on them.
    pub fn threads(&mut self, threads: usize) -> &mut Self {
        self.threads = threads;
        self
    }

    /// The architecture.
    pub fn arch(&self) -> &Arch {
        &self.encoder.arch
    }

    /// Whether there is something to run.
    pub(super) fn check_graph(&self) -> Result<()> {
        if self.graph.is_some() || !self.arch().is_of_graph() {
            return Ok(());
        }
        Err(Error::invalid("the base holds no image encoder that is known here, so its graph has to be carried")
            .at(self.base.path())
            .hint("Give the encoder as it was exported with the base's weights (--graph)"))
    }

    /// The bytes of the vectors that packing reads: what its progress adds up to.
    pub fn source_bytes(&self) -> u64 {
        let sources = self.changed.iter().flat_map(|(_, parameter)| parameter.sources());
        sources.map(|source| source.nbytes() as u64).sum()
    }

    /// The choice of one format for all matrices, and f16 for what has one dimension (unless `format` is larger).
    pub fn uniform(&self, format: StoredFormat) -> Formats {
        Formats::uniform(self.changed.iter().copied(), format)
    }

    /// The smallest formats found in which no task's vector is off by more than `max_error` of its norm. The first call
    /// encodes everything in every format; `progress` is told the bytes that are done, of [`Packer::source_bytes`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a bound that is negative or no number.
    pub fn smallest(&self, max_error: f64, progress: &dyn Fn(u64)) -> Result<Formats> {
        self.costs(progress)?.choose(max_error)
    }

    /// The same of formats value by value alone, without ranks. What rounding does to embeddings is mostly less than
    /// what a lower rank does that has the same error.
    ///
    /// # Errors
    /// As [`Packer::smallest`].
    pub fn smallest_of_values(&self, max_error: f64, progress: &dyn Fn(u64)) -> Result<Formats> {
        self.costs(progress)?.of_values().choose(max_error)
    }

    /// What the formats cost, measured at the first call.
    pub(super) fn costs(&self, progress: &dyn Fn(u64)) -> Result<RefMut<'_, FormatCosts>> {
        let mut costs = self.costs.borrow_mut();
        if costs.is_none() {
            *costs = Some(FormatCosts::measure(self.basis, &self.changed, self.threads, progress)?);
        }
        RefMut::filter_map(costs, Option::as_mut)
            .map_err(|_| Error::new(crate::ErrorKind::Internal, "the costs were not kept"))
    }

    /// Writes the bundle: whole or not at all, and none of `inputs` is overwritten
    /// ([`replace_file`](crate::replace_file)). The same input gives the same bytes. `progress` is told the bytes that
    /// are done, of [`Packer::source_bytes`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output that is an input, and where a
    /// value does not fit its format, naming the tensor; [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn write(
        &self,
        path: &Path,
        formats: &Formats,
        inputs: &[&Path],
        progress: &dyn Fn(u64),
    ) -> Result<PackReport> {
        let mut report = None;
        replace_file(path, inputs, |sibling| {
            report = Some(self.write_to(sibling, formats, progress)?);
            Ok(())
        })?;
        report.ok_or_else(|| Error::new(crate::ErrorKind::Internal, "nothing was written"))
    }

    fn write_to(&self, path: &Path, formats: &Formats, progress: &dyn Fn(u64)) -> Result<PackReport> {
        let (sums, rounding) = (RefCell::new(Sums::new(self.basis)), Cell::new(Rounding::default()));
        let (metadata, items) = self.contents(formats, &sums, &rounding, progress)?;
        writer::write(path, &metadata, items)?;

        let (residuals, merges) = self.add_residuals(path)?;
        let precision = self.add_computed(path)?;
        let bundle = Bundle::open(path)?;
        let of_kind = |kinds: &[&str]| {
            bundle.sections().iter().filter(|section| kinds.contains(&section.kind)).map(|section| section.bytes).sum()
        };
        let Sums { vectors, errors } = sums.into_inner();
        let count = self.basis.parameters().map(|(_, parameter)| parameter.numel() as u64).sum::<u64>();
        let is_left_out = |name: &str| {
            if self.arch().is_of_graph() { !self.parameters.contains_key(name) } else { !is_image_tower(name) }
        };
        let others = self.basis.parameters().filter(|(name, _)| is_left_out(name));
        Ok(PackReport {
            bytes: bundle.file_bytes(),
            vector_bytes: of_kind(&["vectors", "mean", "residuals"]),
            base_bytes: of_kind(&["base"]),
            graph_bytes: of_kind(&["graph"]),
            task_vectors_bytes: self.basis.tasks().len() as u64 * count * size_of::<f32>() as u64,
            basis_bytes: self.basis.file_bytes(),
            checkpoint_bytes: self.base.file_bytes(),
            errors: RecoveryErrors::of(self.basis, &vectors, &errors),
            base_error: self.base_format.stored().map(|_| rounding.get().relative()),
            residuals,
            merges,
            precision,
            formats: formats.count().into_iter().map(|(format, n)| (format.to_string(), n)).collect(),
            left_out: others.filter(|(_, parameter)| parameter.is_changed()).count(),
        })
    }

    /// Adds the residuals that are worth it, and the merges, to the bundle at `path`: the fits of both.
    fn add_residuals(&self, path: &Path) -> Result<(Vec<TaskFit>, Vec<TaskFit>)> {
        if self.residuals.is_empty() && self.merges.is_empty() {
            return Ok(Default::default());
        }
        let bundle = Bundle::open(path)?;
        let mut update = BundleUpdate::new(&bundle, (self.base_format == BaseFormat::LeftOut).then_some(self.base))?;
        update.threads(self.threads);
        let mut fitted = Vec::new();
        for WantedResidual { task, finetuned, format, above } in &self.residuals {
            let fit = update.measure(task, finetuned)?;
            if fit.lacking > *above {
                update.residual(task, finetuned, *format)?;
            }
            fitted.push(fit);
        }
        for merge in &self.merges {
            update.merge(*merge)?;
        }
        let mut stored = update.write(path, &[], &|_| {})?;
        let merges = stored.split_off(stored.len() - self.merges.len());
        for fit in &mut fitted {
            let stored = stored.iter().find(|stored| stored.task == fit.task);
            fit.lacking_with_residual = stored.and_then(|stored| stored.lacking_with_residual);
        }
        Ok((fitted, merges))
    }
}
