//! Checkpoints: files that others wrote, as named tensors that are views of the mapped file.
//!
//! Read are PyTorch's zip archives (state dicts, training checkpoints, pickled modules, TorchScript) and safetensors,
//! told apart by their first bytes. Nothing in a file is ever executed, and a file is taken to be hostile: it is
//! refused with an error that names the place, in time and memory linear in its size. Whatever the source called its
//! weights, a [`Checkpoint`] names them as open_clip does ([`names`]).
#![forbid(unsafe_code)]

pub mod choose;
pub(crate) mod foreign;
pub(crate) mod frozen;
pub mod names;
pub mod pickle;
pub mod safetensors;
pub mod torch;
pub mod unread;
pub mod writer;
pub mod zip;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

use self::names::{Beside, Naming};
use self::unread::{Stored, Unread};
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::suggest;
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
    file_bytes: u64,
    tensors: IndexMap<String, Tensor>,
    /// What the file holds besides, and is not read.
    unread: IndexMap<String, Unread>,
    naming: Box<Naming>,
}

/// The tensors of an archive that are to be named: all that it holds, so that the image tower is found wherever it is;
/// where there is none, or the rest of the archive cannot be read, what lies under the keys that training programs use.
fn tensors_of(archive: &torch::Archive, path: &Path, file_bytes: u64) -> Result<Vec<(String, Stored)>> {
    let is_model = |all: &Vec<(String, Stored)>| {
        names::holds_tower(all.iter().map(|(name, _)| name.as_str()))
            && check_sharing(path, file_bytes, read(all)).is_ok()
    };
    match archive.all_tensors().ok().filter(is_model) {
        Some(all) => Ok(all),
        None => archive.tensors(),
    }
}

fn read(tensors: &[(String, Stored)]) -> impl Iterator<Item = &Tensor> {
    tensors.iter().filter_map(|(_, stored)| stored.as_ref().ok())
}

impl Checkpoint {
    /// Maps the file at `path` and reads what tensors it holds; their elements are not read.
    ///
    /// The file must not be shortened or rewritten while it is open; see [`MapMode::Map`].
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be opened;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when it is neither a PyTorch zip nor safetensors, is damaged, or
    /// holds two tensors for the same weights, or several image towers ([`Checkpoint::open_under`] takes one);
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it is PyTorch's format from before 1.6 or is
    /// compressed. Tensors that are not dense numbers are no error before somebody asks for them
    /// ([`Checkpoint::unread`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, MapMode::Map)
    }

    /// As [`Checkpoint::open`], mapping the file or reading it into memory.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        Self::parse(Arc::new(Mapping::open(path, mode)?))
    }

    /// As [`Checkpoint::open`], of one image tower among several: `prefix` is what the names of its model, or its own,
    /// begin with.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), with those that there are, where
    /// there is none under `prefix`.
    pub fn open_under(path: impl AsRef<Path>, mode: MapMode, prefix: &str) -> Result<Self> {
        Self::parse_as(Arc::new(Mapping::open(path, mode)?), Some(prefix))
    }

    /// As [`Checkpoint::open`], of bytes that are in memory or mapped already.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], but for the file's.
    pub fn parse(mapping: Arc<Mapping>) -> Result<Self> {
        Self::parse_as(mapping, None)
    }

    fn parse_as(mapping: Arc<Mapping>, prefix: Option<&str>) -> Result<Self> {
        let path = mapping.path().to_path_buf();
        let file_bytes = mapping.len() as u64;
        let (format, tensors) = if zip::Directory::is_zip(&mapping) || torch::Archive::is_old_format(&mapping) {
            let archive = torch::Archive::parse(mapping)?;
            let format = if archive.is_torchscript() { Format::TorchScript } else { Format::TorchZip };
            (format, tensors_of(&archive, &path, file_bytes)?)
        } else if safetensors::is_safetensors(&mapping) {
            (Format::Safetensors, safetensors::read(&mapping)?.tensors)
        } else {
            return Err(foreign::refused(&mapping, "neither a PyTorch zip nor safetensors").at(path));
        };
        check_sharing(&path, file_bytes, read(&tensors))?;
        Ok(Self { file_bytes, ..Self::from_stored(path, format, tensors, prefix, Beside::LeaveOut)? })
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
        Ok(Self { path, format, file_bytes, tensors, unread, naming })
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
            let error = Error::not_found("the file has no such tensor").at(&self.path).tensor(suggest::clipped(name));
            match suggest::nearest(name, self.tensors.keys().map(String::as_str)) {
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

    /// The file's size; without a file, that of the tensors.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({}, {}, {} tensors)", self.path.display(), self.format, self.len())
    }
}
