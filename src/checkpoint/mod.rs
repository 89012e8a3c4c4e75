//! Checkpoints: files that others wrote, as named tensors that are views of the mapped file.
//!
//! Read are PyTorch's zip archives (state dicts, training checkpoints, pickled modules, TorchScript) and safetensors,
//! told apart by their first bytes. Nothing in a file is ever executed, and a file is taken to be hostile: it is
//! refused with an error that names the place, in time and memory linear in its size. Whatever the source called its
//! weights, a [`Checkpoint`] names them as open_clip does ([`names`]). Checkpoints in several files ([`shards`]),
//! folders ([`choose`]) and LoRA adapters ([`adapter`]) are read in the place of a file.

pub mod adapter;
pub mod choose;
mod content;
pub mod folder;
pub(crate) mod frozen;
pub mod names;
pub mod pickle;
pub mod safetensors;
pub mod shards;
pub(crate) mod sniff;
pub mod torch;
pub mod unread;
pub mod writer;
pub mod zip;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

use self::content::Content;
use self::names::{Beside, Naming};
use self::unread::{Stored, Unread};
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::Tensor;

/// What canonical names of the image tower begin with.
const IMAGE_TOWER: &str = "visual.";

/// Whether a tensor of this canonical name belongs to the image tower.
pub fn is_image_tower(name: &str) -> bool {
    name.starts_with(IMAGE_TOWER)
}

/// What kind of file a checkpoint came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `torch.save`: a state dict, a training checkpoint or a pickled module.
    TorchZip,
    /// `torch.jit.save`, as OpenAI published CLIP.
    TorchScript,
    /// Safetensors.
    Safetensors,
}

impl Format {
    /// `torch`, `torchscript` or `safetensors`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TorchZip => "torch",
            Self::TorchScript => "torchscript",
            Self::Safetensors => "safetensors",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Refuses tensors that together have many times the bytes of their file: a few kilobytes of names over one storage
/// could ask for any amount of memory. Weights that are tied share a storage; hardly ever more than two do.
pub(crate) fn check_sharing<'a>(path: &Path, file_bytes: u64, tensors: impl Iterator<Item = &'a Tensor>) -> Result<()> {
    const TIMES: u64 = 4;
    let total: u64 = tensors.map(|tensor| tensor.nbytes() as u64).fold(0, u64::saturating_add);
    if total <= file_bytes.saturating_mul(TIMES) {
        return Ok(());
    }
    Err(Error::format("its tensors share storage beyond any use")
        .at(path)
        .expected(format_args!("at most {TIMES} times the file's {file_bytes} bytes"))
        .got(format_args!("{total} bytes")))
}

/// The tensors of one file under canonical names, in the order of the file.
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    /// The files that an index names, where the path is that of an index.
    parts: Vec<PathBuf>,
    file_bytes: u64,
    tensors: IndexMap<String, Tensor>,
    /// What the file holds besides, and is not read.
    unread: IndexMap<String, Unread>,
    naming: Box<Naming>,
}

impl Checkpoint {
    /// Maps the file at `path` and reads what tensors it holds; their elements are not read.
    ///
    /// A folder stands for the one checkpoint that is in it, as [`choose::choose`] decides, and an index
    /// (`model.safetensors.index.json`) for the files that it names. A model with a LoRA adapter beside its weights, as
    /// PEFT's `state_dict()` gives it, is merged ([`adapter`]).
    ///
    /// The files must not be shortened or rewritten while they are open; see [`MapMode::Map`].
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when one cannot be opened;
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a folder without a checkpoint, or with several;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when it is neither a PyTorch zip nor safetensors, is damaged, or
    /// holds two tensors for the same weights, or several image towers ([`Checkpoint::open_under`] takes one);
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it is PyTorch's format from before 1.6, is
    /// compressed, is one part of several, or an adapter without its base. Tensors that are not dense numbers are no
    /// error before they are asked for ([`Checkpoint::unread`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, MapMode::Map)
    }

    /// As [`Checkpoint::open`], mapping the files or reading them into memory.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        Self::of(Content::open(path.as_ref(), mode, false)?, None)
    }

    /// As [`Checkpoint::open`], of one image tower among several: `prefix` is what the names of its model, or its own,
    /// begin with.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), with those that there are, where
    /// there is none under `prefix`.
    pub fn open_under(path: impl AsRef<Path>, mode: MapMode, prefix: &str) -> Result<Self> {
        Self::of(Content::open(path.as_ref(), mode, false)?, Some(prefix))
    }

    /// A checkpoint that was fine-tuned from `base`: a whole one, as [`Checkpoint::open`] takes it, or as
    /// [`Checkpoint::open_under`] where `prefix` is given; or a LoRA adapter of `base`, which is put together with it
    /// ([`adapter`]).
    ///
    /// # Errors
    /// As [`Checkpoint::open_under`]; for an adapter that is of another model, contradicts itself or has an option that
    /// is not read, naming the option.
    pub fn open_tuned(path: impl AsRef<Path>, base: &Self, prefix: Option<&str>) -> Result<Self> {
        let content = Content::open(path.as_ref(), MapMode::Map, true)?;
        match adapter::is_adapted(&content) {
            true => adapter::tuned(content, base),
            false => Self::of(content, prefix),
        }
    }

    /// As [`Checkpoint::open`], of one file's bytes that are in memory or mapped already.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], but for the file's.
    pub fn parse(mapping: Arc<Mapping>) -> Result<Self> {
        Self::of(Content::parse(mapping)?, None)
    }

    fn of(content: Content, prefix: Option<&str>) -> Result<Self> {
        if adapter::is_adapted(&content) {
            return adapter::unmerged(content);
        }
        let Content { path, format, bytes, stored, parts } = content;
        Ok(Self { file_bytes: bytes, parts, ..Self::from_stored(path, format, stored, prefix, Beside::LeaveOut)? })
    }

    /// A checkpoint of tensors that are there already; their names are made canonical. `path` is what errors name.
    ///
    /// # Errors
    /// As [`names::canonical`].
    pub fn from_tensors(path: impl Into<PathBuf>, format: Format, tensors: Vec<(String, Tensor)>) -> Result<Self> {
        let stored = tensors.into_iter().map(|(name, tensor)| (name, Ok(tensor))).collect();
        Self::from_stored(path.into(), format, stored, None, Beside::Keep)
    }

    fn from_stored(
        path: PathBuf,
        format: Format,
        stored: Vec<(String, Stored)>,
        prefix: Option<&str>,
        beside: Beside,
    ) -> Result<Self> {
        let named = names::canonical(stored, prefix, beside).map_err(|error| error.at(&path))?;
        let (mut tensors, mut unread) = (IndexMap::new(), IndexMap::new());
        for (name, stored) in named.tensors {
            match stored {
                Ok(tensor) => drop(tensors.insert(name, tensor)),
                Err(reason) => drop(unread.insert(name, reason)),
            }
        }
        let naming = Box::new(named.naming);
        let file_bytes = tensors.values().fold(0u64, |sum, tensor| sum.saturating_add(tensor.nbytes() as u64));
        Ok(Self { path, format, parts: Vec::new(), file_bytes, tensors, unread, naming })
    }

    /// The tensor of this canonical name, where the file has one that is read.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensors whose elements are of a type that is not read, by canonical names, in the order of the file.
    pub fn unread(&self) -> impl ExactSizeIterator<Item = (&str, &Unread)> {
        self.unread.iter().map(|(name, unread)| (name.as_str(), unread))
    }

    /// Checks that all tensors whose names `is_wanted` accepts are read.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming file, tensor and type.
    pub fn check_read(&self, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        match self.unread.iter().find(|(name, _)| is_wanted(name)) {
            Some((name, unread)) => Err(unread.error().at(&self.path).tensor(name)),
            None => Ok(()),
        }
    }

    /// Reads every tensor and checks that every number is finite.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming file and tensor.
    pub fn verify_finite(&self) -> Result<()> {
        self.iter().try_for_each(|(name, tensor)| tensor.verify_finite().map_err(|e| e.at(&self.path).tensor(name)))
    }

    /// The tensor of this canonical name, which must be there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) naming the file, the tensor and names that are near;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for one of a type that is not read.
    pub fn require(&self, name: &str) -> Result<&Tensor> {
        self.check_read(|unread| unread == name)?;
        self.get(name).ok_or_else(|| {
            let error =
                Error::not_found("the file has no such tensor").at(&self.path).tensor(did_you_mean::clipped(name));
            match did_you_mean::nearest(name, self.tensors.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("Did you mean `{near}`?")),
                None => error.hint(format!("It holds {} tensors", self.len())),
            }
        })
    }

    /// All names and tensors, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensors of the image tower: those whose names begin with `visual.`.
    pub fn image_tower(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.iter().filter(|(name, _)| is_image_tower(name))
    }

    /// The number of tensors that are read.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether no tensor is read.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The number of elements in all tensors of floats.
    pub fn parameters(&self) -> u64 {
        let floats = self.tensors.values().filter(|tensor| tensor.dtype().is_float());
        floats.fold(0, |sum, tensor| sum.saturating_add(tensor.numel() as u64))
    }

    /// How the file names its model, and what it holds besides.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// What kind of file it came from.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors, where the path is that of an index of them; else none.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts.iter().map(PathBuf::as_path)
    }

    /// The size of the file, or of all parts; without a file, that of the tensors.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({}, {}, {} tensors)", self.path.display(), self.format, self.len())
    }
}
