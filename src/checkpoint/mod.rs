//! Checkpoints: files that others wrote, as named tensors that are views of the mapped file.
//!
//! Read are PyTorch's zip archives (state dicts, training checkpoints, pickled modules, TorchScript) and safetensors,
//! told apart by their first bytes. Nothing in a file is ever executed, and a file is taken to be hostile: it is
//! refused with an error that names the place, in time and memory linear in its size. Whatever the source called its
//! weights, a [`Checkpoint`] names them as open_clip does ([`names`]). Checkpoints in several files ([`shards`]),
//! folders ([`choose`]) and LoRA adapters ([`adapter`]) are read in the place of a file.

pub mod adapter;
pub mod choose;
mod container;
pub mod folder;
mod format;
pub mod integrity;
pub(crate) mod lacking;
pub mod names;
mod open;
pub mod pickle;
pub mod safetensors;
pub mod shards;
pub(crate) mod sniff;
pub mod torch;
pub mod unread_type;
pub mod writer;
pub mod zip;

use std::fmt;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

pub(crate) use self::container::check_sharing;
pub use self::format::Format;
pub use self::names::is_image_tower;
use self::names::{Beside, Naming};
use self::unread_type::{Stored, Unread};
use crate::did_you_mean;
use crate::error::{Error, Result};
#[cfg(doc)]
use crate::mmap::Mapping;
use crate::tensor::Tensor;

/// The tensors of one file under canonical names, in the order of the file.
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    /// The files that an index names, where the path is that of an index.
    parts: Vec<PathBuf>,
    file_bytes: u64,
    tensors: IndexMap<String, Tensor>,
    /// The tensors of types that are not read.
    unread: IndexMap<String, Unread>,
    naming: Box<Naming>,
    /// The shape that the table of positions has in the file, where it was resized.
    stored_positions: Option<Box<[usize]>>,
}

impl Checkpoint {
    /// A checkpoint of tensors that are there already; their names are made canonical. `path` is what errors name.
    ///
    /// # Errors
    /// As [`names::canonical`].
    pub fn from_tensors(path: impl Into<PathBuf>, format: Format, tensors: Vec<(String, Tensor)>) -> Result<Self> {
        let stored = tensors.into_iter().map(|(name, tensor)| (name, Ok(tensor))).collect();
        Self::from_stored(path.into(), format, stored, None, Beside::Keep)
    }

    /// A checkpoint of tensors whose names are canonical already, and stay as they are.
    pub(crate) fn of_canonical(path: impl Into<PathBuf>, format: Format, tensors: Vec<(String, Tensor)>) -> Self {
        let tensors: IndexMap<String, Tensor> = tensors.into_iter().collect();
        let file_bytes = tensors.values().fold(0u64, |sum, tensor| sum.saturating_add(tensor.nbytes() as u64));
        let (parts, unread, naming, stored_positions) = (Vec::new(), IndexMap::new(), Box::default(), None);
        Self { path: path.into(), format, parts, file_bytes, tensors, unread, naming, stored_positions }
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
        Ok(Self { path, format, parts: Vec::new(), file_bytes, tensors, unread, naming, stored_positions: None })
    }

    /// This checkpoint with another table of positions in the place of the one called `name`.
    pub(crate) fn with_positions(mut self, name: &str, table: Tensor) -> Self {
        if let Some(stored) = self.tensors.insert(name.to_owned(), table) {
            self.stored_positions = Some(stored.shape().into());
        }
        self
    }

    /// The shape that the table of positions has in the file, where it was resized since.
    pub(crate) fn stored_positions(&self) -> Option<&[usize]> {
        self.stored_positions.as_deref()
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

    /// Reads every tensor, from the file where it is mapped, and checks that every number is finite.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming file and tensor; as [`Mapping::read_at`].
    pub fn verify_finite(&self) -> Result<()> {
        self.iter().try_for_each(|(name, tensor)| {
            let verified = tensor.in_memory().and_then(|tensor| tensor.verify_finite());
            verified.map_err(|e| e.at(&self.path).tensor(name))
        })
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

    /// The tensors that an encoder can be made of: those of the image tower; all of them where the file holds no tower
    /// that is known here, and a user's graph says which are used.
    pub fn encoder(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let has_tower = self.image_tower().next().is_some();
        self.iter().filter(move |(name, _)| !has_tower || is_image_tower(name))
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

    /// The way in which the file names its model, and what it holds besides.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// The format of the file that it came from.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The path that it came from: a file, or an index of files.
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
