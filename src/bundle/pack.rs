//! Packing: a basis and its base into one file.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

use super::choose::{Formats, Ladder};
use super::format::{About, BaseInfo, BasisInfo, Lambdas, PreprocessInfo, Section, name};
use super::items::{head_items, recovery_item, unnormalised};
use super::measure::{Errors, Gram, encode, ratio};
use super::quantise::VectorFormat;
use super::writer::{self, Item};
use super::{Bundle, Fingerprint, Fitted, Growth};
use crate::atomic_file::replace_file;
use crate::basis::{Basis, Parameter};
use crate::checkpoint::{Checkpoint, is_image_tower};
use crate::encoder::EncoderOptions;
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::mmap::Mapping;
use crate::onnx::{BoundGraph, GraphMap, OnnxFile};
use crate::preprocess::Preprocess;
use crate::tensor::{BlockFormat, DType, Tensor, try_zeroed};
use crate::tower::{Arch, ArchHints, TowerConfig};
use crate::weights::check_models;

/// Elements of the base that are converted at a time.
const PIECE: usize = 64 << 10;

/// How a bundle keeps the base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BaseFormat {
    /// f32: bit for bit.
    F32,
    /// f16: half the bytes; exact for weights that were published as f16, as OpenAI's were.
    #[default]
    F16,
    /// bf16: half the bytes, less exact than f16, of f32's range.
    BF16,
    /// Not at all: whoever opens the bundle gives the base, which is checked by its fingerprint.
    LeftOut,
}

impl BaseFormat {
    fn stored(self) -> Option<VectorFormat> {
        match self {
            Self::F32 => Some(VectorFormat::F32),
            Self::F16 => Some(VectorFormat::F16),
            Self::BF16 => Some(VectorFormat::BF16),
            Self::LeftOut => None,
        }
    }
}

/// Makes a bundle. Everything is streamed: what is in memory is one parameter's vectors as they will be stored, and a
/// piece a thread of what they are made of.
pub struct Packer<'a> {
    pub(super) base: &'a Checkpoint,
    basis: &'a Basis,
    arch: Arch,
    /// The parameters that any vector changes, in the architecture's order.
    changed: Vec<(&'a str, &'a Parameter)>,
    pub(super) base_format: BaseFormat,
    heads: IndexMap<String, Head>,
    lambdas: Lambdas,
    preprocess: Preprocess,
    graph: Option<(Vec<u8>, GraphMap)>,
    residuals: Vec<Wanted>,
    ladder: RefCell<Option<Ladder>>,
    threads: usize,
    /// How the golden embedding is computed, where one is wanted.
    pub(super) golden: Option<EncoderOptions>,
}

impl fmt::Debug for Packer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { basis, arch, base_format, threads, .. } = self;
        let mut shown = f.debug_struct("Packer");
        shown.field("basis", basis).field("arch", arch).field("base_format", base_format).field("threads", threads);
        shown.finish_non_exhaustive()
    }
}

/// A residual to be stored if the vectors lack more than `above` of the task.
struct Wanted {
    task: String,
    finetuned: Checkpoint,
    format: BlockFormat,
    above: f64,
}

/// What was packed, and what it cost.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PackReport {
    /// The bundle's size.
    pub bytes: u64,
    /// Of the vectors, PCA's mean among them, and the residuals.
    pub vector_bytes: u64,
    /// Of the base.
    pub base_bytes: u64,
    /// Of a user's graph without its weights; 0 where none is carried.
    pub graph_bytes: u64,
    /// T task vectors as they were before there was a basis: f32, all parameters of the model.
    pub task_vectors_bytes: u64,
    /// The files of the basis that was packed.
    pub basis_bytes: u64,
    /// One checkpoint, the base's file.
    pub checkpoint_bytes: u64,
    /// Of the recovered task vectors, residuals left out.
    pub errors: Errors,
    /// ‖θ'_0 − θ_0‖ / ‖θ_0‖: what rounding did to the base; `None` where it is left out.
    pub base_error: Option<f64>,
    /// The tasks whose fine-tuned checkpoints were given for a residual, with what the vectors lack of them.
    pub residuals: Vec<Fitted>,
    /// How many parameters have each format.
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

    /// A packer of `basis` over `base`, whose image tower is `tower`.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where basis and base are not of one model.
    pub fn of_tower(base: &'a Checkpoint, basis: &'a Basis, tower: &TowerConfig) -> Result<Self> {
        let (arch, preprocess) = (tower.arch.clone(), tower.preprocess.clone());
        check_models(base, basis)?;
        if basis.residuals().len() > 0 {
            return Err(Error::unsupported("a basis with residuals cannot be packed again").at(basis.path()));
        }
        let changed = arch
            .parameters()
            .iter()
            .filter_map(|(name, _)| basis.parameters().find(|(known, _)| known == name))
            .filter(|(_, parameter)| parameter.is_changed())
            .collect();
        Ok(Self {
            base,
            basis,
            arch,
            changed,
            base_format: BaseFormat::default(),
            heads: IndexMap::new(),
            lambdas: Lambdas::default(),
            preprocess,
            graph: None,
            residuals: Vec::new(),
            golden: None,
            ladder: RefCell::new(None),
            threads: 0,
        })
    }

    /// How the base is kept; f16 unless this is called.
    pub fn base_format(&mut self, format: BaseFormat) -> &mut Self {
        self.base_format = format;
        self
    }

    /// Adds a task's head, with its class names where it has them.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a head of other embeddings.
    pub fn head(&mut self, task: &str, head: Head) -> Result<&mut Self> {
        head.check_tower(task, &self.arch)?;
        self.heads.insert(task.to_owned(), head);
        Ok(self)
    }

    /// Suggested scaling coefficients.
    pub fn lambdas(&mut self, lambdas: Lambdas) -> &mut Self {
        self.lambdas = lambdas;
        self
    }

    /// What images go through.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for images of another size than the tower takes.
    pub fn preprocess(&mut self, preprocess: Preprocess) -> Result<&mut Self> {
        if preprocess.size() != self.arch.image_size() {
            return Err(Error::mismatch("preprocessing gives another image size than the architecture takes")
                .expected(self.arch.image_size())
                .got(preprocess.size()));
        }
        self.preprocess = preprocess;
        Ok(self)
    }

    /// Carries this graph, which must have been bound to the base and the basis, for encoders to run in the place of
    /// the built one. Its weights are not stored twice: what the base has becomes an input of the graph.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the tensor, for a graph of another model;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where what is no weight takes 2 GiB and more.
    pub fn graph(&mut self, graph: &BoundGraph) -> Result<&mut Self> {
        graph.check_image_size(self.arch.image_size())?;
        let (model, map) = graph.embedded()?;
        // Whoever opens the bundle does the same.
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
        format: BlockFormat,
        above: f64,
    ) -> Result<&mut Self> {
        self.basis.task_index(task)?;
        if self.residuals.iter().any(|wanted| wanted.task == task) {
            return Err(Error::invalid(format!("two residuals for task `{task}`")));
        }
        self.residuals.push(Wanted { task: task.to_owned(), finetuned, format, above });
        Ok(self)
    }

    /// Threads; 0, the default, means one a processor. The bytes do not depend on them.
    pub fn threads(&mut self, threads: usize) -> &mut Self {
        self.threads = threads;
        self
    }

    /// The architecture.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The bytes of the vectors that packing reads: what its progress adds up to.
    pub fn source_bytes(&self) -> u64 {
        let sources = self.changed.iter().flat_map(|(_, parameter)| parameter.sources());
        sources.map(|source| source.nbytes() as u64).sum()
    }

    /// One format for all matrices, f16 for what has one dimension (unless `format` is larger).
    pub fn uniform(&self, format: VectorFormat) -> Formats {
        Formats::uniform(self.changed.iter().copied(), format)
    }

    /// The smallest formats found in which no task's vector is off by more than `max_error` of its norm. The first call
    /// encodes everything in every format; `progress` is told the bytes that are done, of [`Packer::source_bytes`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a bound that is negative or no number.
    pub fn smallest(&self, max_error: f64, progress: &dyn Fn(u64)) -> Result<Formats> {
        let mut ladder = self.ladder.borrow_mut();
        let ladder = match &mut *ladder {
            Some(ladder) => ladder,
            none => none.insert(Ladder::measure(self.basis, &self.changed, self.threads, progress)?),
        };
        ladder.choose(max_error)
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
        let table: Vec<f64> = self.basis.recovery().iter().map(|value| value.unwrap_or(f64::NAN)).collect();
        let shape = [self.basis.vectors(), self.basis.tasks().len()];
        let (sums, rounding) = (RefCell::new(Sums::new(self.basis)), Cell::new((0.0, 0.0)));
        let mut about = self.about()?;
        let mut sections = vec![(Section::Base, self.base_items(&rounding)?)];
        sections.push((Section::Vectors, self.vector_items(formats, &mut about.blocks, &sums, progress)?));
        sections.push((Section::Heads, head_items(self.heads.iter().map(|(task, head)| (task.as_str(), head)))));
        sections.push((Section::Recovery, vec![recovery_item(&table, &shape)]));
        if let Some((graph, _)) = &self.graph {
            let item = Item::new(name::GRAPH, DType::U8, &[graph.len()], |sink| sink.write(graph));
            sections.push((Section::Graph, vec![item]));
        }
        writer::write(path, &about, sections)?;

        let residuals = self.add_residuals(path)?;
        self.add_golden(path)?;
        let bundle = Bundle::open(path)?;
        let of_kind = |kinds: &[&str]| {
            bundle.sections().iter().filter(|section| kinds.contains(&section.kind)).map(|section| section.bytes).sum()
        };
        let Sums { vectors, errors } = sums.into_inner();
        let count = self.basis.parameters().map(|(_, parameter)| parameter.numel() as u64).sum::<u64>();
        let (error, norm) = rounding.get();
        let others = self.basis.parameters().filter(|(name, _)| !is_image_tower(name));
        Ok(PackReport {
            bytes: bundle.file_bytes(),
            vector_bytes: of_kind(&["vectors", "mean", "residuals"]),
            base_bytes: of_kind(&["base"]),
            graph_bytes: of_kind(&["graph"]),
            task_vectors_bytes: self.basis.tasks().len() as u64 * count * size_of::<f32>() as u64,
            basis_bytes: self.basis.file_bytes(),
            checkpoint_bytes: self.base.file_bytes(),
            errors: Errors::of(self.basis, &vectors, &errors),
            base_error: self.base_format.stored().map(|_| ratio(error, norm).sqrt()),
            residuals,
            formats: formats.count().into_iter().map(|(format, n)| (format.name().to_owned(), n)).collect(),
            left_out: others.filter(|(_, parameter)| parameter.is_changed()).count(),
        })
    }

    /// Adds the residuals that are worth it to the bundle at `path`.
    fn add_residuals(&self, path: &Path) -> Result<Vec<Fitted>> {
        if self.residuals.is_empty() {
            return Ok(Vec::new());
        }
        let bundle = Bundle::open(path)?;
        let mut growth = Growth::new(&bundle, (self.base_format == BaseFormat::LeftOut).then_some(self.base))?;
        growth.threads(self.threads);
        let mut fitted = Vec::new();
        for Wanted { task, finetuned, format, above } in &self.residuals {
            let fit = growth.measure(task, finetuned)?;
            if fit.lacking > *above {
                growth.residual(task, finetuned, *format)?;
            }
            fitted.push(fit);
        }
        let stored = growth.write(path, &[], &|_| {})?;
        for fit in &mut fitted {
            let stored = stored.iter().find(|stored| stored.task == fit.task);
            fit.lacking_with_residual = stored.and_then(|stored| stored.lacking_with_residual);
        }
        Ok(fitted)
    }

    fn about(&self) -> Result<About> {
        let basis = self.basis;
        let heads = self.heads.iter().filter(|(_, head)| !head.classes().is_empty());
        let preprocess = PreprocessInfo::of(&self.preprocess);
        for lambda in [self.lambdas.task, self.lambdas.merged, self.lambdas.all].into_iter().flatten() {
            if !lambda.is_finite() {
                return Err(Error::invalid("a suggested scaling coefficient must be finite").got(lambda));
            }
        }
        Ok(About {
            arch: self.arch.clone(),
            base: BaseInfo {
                stored: self.base_format != BaseFormat::LeftOut,
                fingerprint: Fingerprint::of(self.base, self.threads)?.to_string(),
            },
            basis: BasisInfo {
                method: basis.method().name().to_owned(),
                tasks: basis.tasks().to_vec(),
                vectors: basis.vectors(),
                mean: basis.has_mean(),
                residuals: Vec::new(),
            },
            blocks: HashMap::new(),
            classes: heads.map(|(task, head)| (task.clone(), head.classes().to_vec())).collect(),
            graph: self.graph.as_ref().map(|(_, map)| map.clone()),
            lambda: self.lambdas,
            preprocess,
            unnormalised: unnormalised(self.heads.iter()).collect(),
            writer: concat!("taskbasis ", env!("CARGO_PKG_VERSION")).to_owned(),
        })
    }

    fn base_items<'s>(&'s self, rounding: &'s Cell<(f64, f64)>) -> Result<Vec<Item<'s>>> {
        let Some(format) = self.base_format.stored() else { return Ok(Vec::new()) };
        let items = self.arch.parameters().into_iter().map(|(parameter, shape)| {
            let tensor = self.base.require(&parameter)?;
            Ok(Item::new(format!("{}{parameter}", name::BASE), format.dtype(), &shape, move |sink| {
                convert(tensor, format, rounding, |bytes| sink.write(bytes)).map_err(|e| e.at(self.base.path()))
            }))
        });
        items.collect()
    }

    fn vector_items<'s>(
        &'s self,
        formats: &Formats,
        blocks: &mut HashMap<String, super::format::BlockInfo>,
        sums: &'s RefCell<Sums>,
        progress: &'s dyn Fn(u64),
    ) -> Result<Vec<Item<'s>>> {
        let count = self.basis.vectors();
        let mut items = Vec::new();
        for &(parameter, sources) in &self.changed {
            let format = formats
                .get(parameter)
                .ok_or_else(|| Error::invalid("no format was chosen for it").tensor(parameter))?;
            let sources = sources.sources();
            let (shape, info) = format.stored_shape(sources[0].shape(), Some(count))?;
            let vectors_name = format!("{}{parameter}", name::VECTORS);
            blocks.extend(info.map(|info| (vectors_name.clone(), info)));
            // The mean is encoded with the vectors, whose sums it shares, and written after them.
            let mean = std::rc::Rc::new(RefCell::new(Vec::new()));
            let kept = std::rc::Rc::clone(&mean);
            items.push(Item::new(vectors_name, format.dtype(), &shape, move |sink| {
                let mut encoded = encode(sources, format, self.threads)?;
                sums.borrow_mut().vectors.add(&encoded.vectors);
                sums.borrow_mut().errors.add(&encoded.errors);
                if encoded.rows.len() > count {
                    *kept.borrow_mut() = encoded.rows.pop().unwrap_or_default();
                }
                encoded.rows.iter().try_for_each(|row| sink.write(row))?;
                progress(sources.iter().map(|source| source.nbytes() as u64).sum());
                Ok(())
            }));
            if self.basis.has_mean() {
                let (shape, info) = format.stored_shape(sources[0].shape(), None)?;
                let mean_name = format!("{}{parameter}", name::MEAN);
                blocks.extend(info.map(|info| (mean_name.clone(), info)));
                items.push(Item::new(mean_name, format.dtype(), &shape, move |sink| sink.write(&mean.take())));
            }
        }
        Ok(items)
    }
}

/// Over all parameters.
struct Sums {
    vectors: Gram,
    errors: Gram,
}

impl Sums {
    fn new(basis: &Basis) -> Self {
        let gram = Gram::new(basis.vectors() + usize::from(basis.has_mean()));
        Self { vectors: gram.clone(), errors: gram }
    }
}

/// The tensor's values in `format`, piece by piece; squared error and squared norm are added to `rounding`.
fn convert(
    tensor: &Tensor,
    format: VectorFormat,
    rounding: &Cell<(f64, f64)>,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut values = try_zeroed::<f32>(PIECE.min(tensor.numel()))?;
    let (mut error, mut norm) = rounding.get();
    for start in (0..tensor.numel()).step_by(PIECE) {
        let length = PIECE.min(tensor.numel() - start);
        let values = &mut values[..length];
        tensor.read_f32(start, values)?;
        let encoded = format.encode(values)?;
        for (back, value) in encoded.values.iter().zip(values) {
            error += f64::from(back - *value).powi(2);
            norm += f64::from(*value).powi(2);
        }
        write(&encoded.bytes)?;
    }
    rounding.set((error, norm));
    Ok(())
}
