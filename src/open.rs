//! The door: what a path is, which base and graph belong to it, whose head, and what shapes do not tell of an encoder.
//!
//! Options come first, then the bundle and the configuration beside the base, then the table of published towers; what
//! none of them tells is an error or an assumption that [`TowerConfig::assumed`] words. The program, the C ABI (and
//! Python through it) and Rust programs all come in here. Every path may be one of the Hub, `hf://owner/repo/path`.
//!
//! ```no_run
//! use taskbasis::{EncoderOptions, OpenModel, OpenOptions, open_head};
//!
//! let opened = OpenModel::open("model.taskbasis", &OpenOptions::default())?; // or a basis folder, with its base
//! let encoder = opened.encoder(&EncoderOptions::default())?;
//! let weights = opened.model().weights(&"MNIST".parse()?)?;
//! let head = open_head("model.taskbasis", Some("MNIST"), None)?;
//! # let (pixels, n) = (vec![0.0; 3 * 224 * 224], 1);
//! let best = head.classify(&encoder.encode_task(&weights, &pixels, n)?, 1)?;
//! # Ok::<(), taskbasis::Error>(())
//! ```

mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use verify::{Verified, verify};

use crate::basis::Basis;
use crate::bundle::{Bundle, Fingerprint};
use crate::checkpoint::Checkpoint;
use crate::encoder::{Encoder, EncoderOptions};
use crate::error::{Error, Result};
use crate::heads::{self, Head};
use crate::hub::{Wanted, local};
use crate::mmap::MapMode;
use crate::onnx::{BindOptions, BoundGraph, GraphMap, OnnxFile};
use crate::tower::{ConfigSource, TowerConfig, TowerOptions, base_for_images, for_images};
use crate::weights::{Model, ModelOptions};

/// A basis in whatever form a user has it.
#[derive(Debug)]
pub enum BasisFile {
    /// A folder as published, which knows nothing of its base.
    Folder(Box<Basis>),
    /// A bundle, which knows everything.
    Bundle(Box<Bundle>),
}

impl BasisFile {
    /// The folder or bundle at `path`.
    ///
    /// # Errors
    /// As [`Basis::open`] and [`Bundle::open`], and those of a path of the Hub.
    pub fn open(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        let path = local(path.as_ref(), Wanted::Path)?;
        if Bundle::is_bundle(&path) {
            return Ok(Self::Bundle(Box::new(Bundle::open_with(path, mode)?)));
        }
        Basis::open_with(path, mode).map(|basis| Self::Folder(Box::new(basis)))
    }

    /// Whether there is a published basis folder at `path`, or its `method_info.json`.
    pub fn is_folder(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name == "method_info.json") || path.join("method_info.json").is_file()
    }

    /// The folder or the bundle's file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(basis) => basis.path(),
            Self::Bundle(bundle) => bundle.path(),
        }
    }

    /// Takes base and basis out. A folder needs `base`; a bundle takes it in the place of its own, or demands it where
    /// it has none ([`Bundle::base_or`]).
    ///
    /// # Errors
    /// As [`Bundle::base_or`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a folder without a
    /// base.
    pub fn base_and_basis(self, base: Option<Checkpoint>) -> Result<(Checkpoint, Basis)> {
        match self {
            Self::Folder(basis) => {
                let missing = Error::invalid("a basis folder needs its base, and none was given")
                    .at(basis.path())
                    .hint("Give the base checkpoint (`base`, --base)");
                Ok((base.ok_or(missing)?, *basis))
            }
            Self::Bundle(bundle) => Ok((bundle.base_or(base)?, bundle.basis()?)),
        }
    }

    /// The basis alone.
    ///
    /// # Errors
    /// None that opening did not find.
    pub fn into_basis(self) -> Result<Basis> {
        match self {
            Self::Folder(basis) => Ok(*basis),
            Self::Bundle(bundle) => bundle.basis(),
        }
    }
}

/// The options of [`OpenModel::open`]. The default is that of a bundle that holds its base.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The base checkpoint: a file, the index of several, or a folder with one. A bundle takes it in the place of its
    /// own, of which it must be the unrounded form.
    pub base: Option<PathBuf>,
    /// The image tower of several in the base's file: the one whose names, or whose model's, begin so.
    pub base_prefix: Option<String>,
    /// Whether files are mapped or read: those of base and basis, and of a graph that is opened for them.
    pub mode: MapMode,
    /// The side of the images, in pixels: a table of positions for another one is resized ([`for_images`]). `None` is
    /// that of the weights, or, for a DINOv2, of the configuration beside them. A bundle has its own.
    pub image_size: Option<usize>,
    /// The options of the model: how weights are reconstructed and kept.
    pub model: ModelOptions,
}

impl OpenOptions {
    fn open_base(&self) -> Result<Option<Checkpoint>> {
        let Some(base) = &self.base else { return Ok(None) };
        let base = local(base, Wanted::Base)?;
        match &self.base_prefix {
            Some(prefix) => Checkpoint::open_under(base, self.mode, prefix),
            None => Checkpoint::open_with(base, self.mode),
        }
        .map(Some)
    }
}

/// The graph that encoders run.
#[derive(Clone, Debug, Default)]
pub enum GraphChoice {
    /// The one that the bundle carries, else the built one.
    #[default]
    Carried,
    /// The built one, whatever a bundle carries.
    Built,
    /// A user's.
    File {
        /// The .onnx file, exported with the base's weights.
        path: PathBuf,
        /// The file with the map of its constants, as `taskbasis bind` writes it, instead of finding out.
        map: Option<PathBuf>,
        /// The options for what is known beforehand, which come before what the map says.
        options: BindOptions,
    },
}

/// Base and basis together, ready to reconstruct, and the bundle that they come from, where they do.
#[derive(Clone, Debug)]
pub struct OpenModel {
    model: Arc<Model>,
    bundle: Option<Arc<Bundle>>,
}

impl OpenModel {
    /// The basis folder or bundle at `path`, and its base.
    ///
    /// # Errors
    /// As [`BasisFile::open`], [`Checkpoint::open_under`] and [`OpenModel::of`].
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let file = BasisFile::open(path, options.mode)?;
        Self::of_size(file, options.open_base()?, options.image_size, &options.model)
    }

    /// A base alone, of which `base` is the only task expression.
    ///
    /// # Errors
    /// As [`Checkpoint::open_under`] and [`Model::new`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument)
    /// where the options name none.
    pub fn open_base(options: &OpenOptions) -> Result<Self> {
        let base = options.open_base()?.ok_or_else(|| Error::invalid("neither a basis nor a base is given"))?;
        Self::of_base(base, options.image_size, &options.model)
    }

    /// A base that is open, alone.
    ///
    /// # Errors
    /// As [`base_for_images`] and [`Model::new`].
    pub fn of_base(base: Checkpoint, image_size: Option<usize>, options: &ModelOptions) -> Result<Self> {
        Ok(Self::of_model(Model::new(base_for_images(base, image_size)?, None, options)?))
    }

    /// A file that is open, with its base where that was given.
    ///
    /// # Errors
    /// As [`OpenModel::of_size`].
    pub fn of(file: BasisFile, base: Option<Checkpoint>, options: &ModelOptions) -> Result<Self> {
        Self::of_size(file, base, None, options)
    }

    /// A file that is open, with its base where that was given, for images of `image_size` pixels
    /// ([`OpenOptions::image_size`]).
    ///
    /// # Errors
    /// As [`BasisFile::base_and_basis`], [`for_images`] and [`Model::new`];
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a bundle that is of another image size.
    pub fn of_size(
        file: BasisFile,
        base: Option<Checkpoint>,
        image_size: Option<usize>,
        options: &ModelOptions,
    ) -> Result<Self> {
        match file {
            BasisFile::Bundle(bundle) => {
                let own = bundle.arch().image_size();
                if let Some(size) = image_size.filter(|size| *size != own) {
                    return Err(Error::invalid("a bundle has its own image size")
                        .at(bundle.path())
                        .expected(own)
                        .got(size)
                        .hint("Pack the basis for another one: `pack --image-size`"));
                }
                let base = match base {
                    Some(base) if base.stored_positions().is_none() && !bundle.arch().is_of_graph() => {
                        Some(base_for_images(base, Some(own))?)
                    }
                    other => other,
                };
                Ok(Self { model: bundle.model(base, options)?, bundle: Some(Arc::new(*bundle)) })
            }
            folder @ BasisFile::Folder(_) => {
                let (base, basis) = folder.base_and_basis(base)?;
                let (base, basis) = for_images(base, basis, image_size)?;
                Ok(Self::of_model(Model::new(base, Some(basis), options)?))
            }
        }
    }

    /// A model that comes from no bundle.
    pub fn of_model(model: Arc<Model>) -> Self {
        Self { model, bundle: None }
    }

    /// The model, which weights are named and reconstructed by.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The bundle, which knows more of the encoder than shapes tell.
    pub fn bundle(&self) -> Option<&Bundle> {
        self.bundle.as_deref()
    }

    /// What the base is known by, whatever file it came in. A bundle says it; that of another base is computed, for
    /// which all of it is read.
    ///
    /// # Errors
    /// As [`Fingerprint::of`].
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        match self.bundle() {
            Some(bundle) => Ok(bundle.fingerprint()),
            None => Fingerprint::of(self.model.base(), 0),
        }
    }

    /// Whether encoders run a user's graph, by this choice.
    pub fn has_graph(&self, choice: &GraphChoice) -> bool {
        match choice {
            GraphChoice::Carried => self.bundle().is_some_and(|bundle| bundle.graph_map().is_some()),
            GraphChoice::Built => false,
            GraphChoice::File { .. } => true,
        }
    }

    /// The user's graph that encoders run, bound to this base; `None` for the built one.
    ///
    /// # Errors
    /// As [`Bundle::bound_graph`], [`BoundGraph::bind`], [`GraphMap::open`] and [`BoundGraph::with_map`].
    pub fn graph(&self, choice: &GraphChoice) -> Result<Option<BoundGraph>> {
        match (choice, self.bundle()) {
            (GraphChoice::File { path, map, options }, _) => self.bind(path, map.as_deref(), options).map(Some),
            (GraphChoice::Carried, Some(bundle)) => bundle.bound_graph(self.model.base(), self.model.basis()),
            (GraphChoice::Carried, None) | (GraphChoice::Built, _) => Ok(None),
        }
    }

    fn bind(&self, path: &Path, map: Option<&Path>, options: &BindOptions) -> Result<BoundGraph> {
        let (base, basis) = (self.model.base(), self.model.basis());
        let file = Arc::new(OnnxFile::open_with(local(path, Wanted::Path)?, self.model.map_mode())?);
        let Some(map) = map else { return BoundGraph::bind(file, base, basis, options) };
        let map = local(map, Wanted::Path)?;
        let mut read = GraphMap::open(&map)?;
        if let Some(output) = &options.output {
            read.output.clone_from(output);
        }
        read.missing.extend_from_slice(&options.missing);
        read.repeated.extend_from_slice(&options.repeated);
        BoundGraph::with_map(file, read, base, basis).map_err(|e| match std::error::Error::source(&e) {
            None => e.because(format!("the map is {}", map.display())),
            Some(_) => e,
        })
    }

    /// The description of the encoder that shapes do not tell, for weights over this base.
    ///
    /// # Errors
    /// As [`Bundle::tower`] and [`TowerConfig::read`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where
    /// the base holds no vision transformer, and the graph that is its encoder does not say how large its images are.
    pub fn tower(&self, mut options: TowerOptions, choice: &GraphChoice) -> Result<TowerConfig> {
        options.has_graph = self.has_graph(choice);
        if let ConfigSource::File(path) = &mut options.config {
            *path = local(path, Wanted::Path)?.into_owned();
        }
        match self.bundle() {
            Some(bundle) if bundle.arch().is_of_graph() && matches!(choice, GraphChoice::Built) => Err(
                Error::unsupported("there is no built graph of this bundle's encoder, only the one that it carries")
                    .at(bundle.path())
                    .hint("Leave --built-graph (`built_graph`) out"),
            ),
            Some(bundle) => bundle.tower(self.model.base(), &options),
            None => match choice {
                GraphChoice::File { path, options: binding, .. } if TowerConfig::needs_graph(self.model.base()) => {
                    let file = OnnxFile::open_with(local(path, Wanted::Path)?, self.model.map_mode())?;
                    let size = file.image_size(binding.pixels.as_deref(), binding.output.as_deref())?;
                    TowerConfig::of_graph(self.model.base(), size, &options)
                }
                _ => TowerConfig::read(self.model.base(), &options),
            },
        }
    }

    /// An encoder for this model as its files say it: over the graph that a bundle carries, else the built one.
    ///
    /// # Errors
    /// As [`OpenModel::tower`], [`OpenModel::graph`] and [`OpenModel::encoder_of`].
    pub fn encoder(&self, options: &EncoderOptions) -> Result<Encoder> {
        let tower = self.tower(TowerOptions::default(), &GraphChoice::Carried)?;
        let graph = self.graph(&GraphChoice::Carried)?;
        self.encoder_of(&tower, graph.as_ref(), options)
    }

    /// An encoder for this tower over `graph`, else over the built one. Where there is a bundle with a golden embedding
    /// for it, the first run is preceded by one that compares it ([`SelfTest`](crate::SelfTest)).
    ///
    /// # Errors
    /// As [`Encoder::new`] and [`Encoder::with_graph`].
    pub fn encoder_of(
        &self,
        tower: &TowerConfig,
        graph: Option<&BoundGraph>,
        options: &EncoderOptions,
    ) -> Result<Encoder> {
        let make = |options: &EncoderOptions| match graph {
            Some(graph) => Encoder::with_graph(&tower.arch, graph, options),
            None => Encoder::new(&tower.arch, options),
        };
        let encoder = match self.bundle() {
            Some(bundle) => Encoder::with_measured(bundle, &tower.arch, graph.is_some(), options, make)?,
            None => make(options)?,
        };
        self.model.prefer(encoder.layout());
        Ok(self.tested(encoder))
    }

    /// `encoder`, tested by the bundle's golden embedding as [`OpenModel::encoder_of`] has it.
    #[must_use]
    pub fn tested(&self, encoder: Encoder) -> Encoder {
        match self.bundle() {
            Some(bundle) => encoder.tested_by(bundle, &self.model),
            None => encoder,
        }
    }
}

/// The head of `task` in a file, folder or bundle, its classes called as `classes` says (`{"TASK": ["name", …]}`), else
/// as there. `None` is the only task's.
///
/// # Errors
/// As [`Head::open`], [`Bundle::head`] and [`Head::with_class_names`], and those of a path of the Hub.
pub fn open_head(path: impl AsRef<Path>, task: Option<&str>, classes: Option<&Path>) -> Result<Head> {
    let path = local(path.as_ref(), Wanted::Path)?;
    let head = match Bundle::is_bundle(&path) {
        true => Bundle::open(&path)?.head_or_only(task)?,
        false => Head::open(&path, task)?,
    };
    let Some(classes) = classes else { return Ok(head) };
    let only = if task.is_none() { head_tasks(&path)?.into_iter().next() } else { None };
    // A head without a task's name has class names without one.
    let task = task.or(only.as_deref()).unwrap_or("");
    head.with_class_names(local(classes, Wanted::Path)?, task)
}

/// The tasks that a file, folder or bundle has heads for; none where it does not name them.
///
/// # Errors
/// As [`Bundle::open`] and [`heads::head_tasks`].
pub fn head_tasks(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = local(path.as_ref(), Wanted::Path)?;
    match Bundle::is_bundle(&path) {
        true => Ok(Bundle::open(&path)?.head_tasks().map(String::from).collect()),
        false => heads::head_tasks(&path),
    }
}
