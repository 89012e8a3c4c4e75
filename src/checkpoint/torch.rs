//! What `torch.save` and TorchScript write: a zip archive with one pickle and the bytes of every storage.
//!
//! [`Archive::open`] reads the archive's directory and the pickle; a [`Node`] walks the pickled object without running
//! anything; a tensor is a view of its storage's bytes inside the file.

mod node;
mod rebuild;
mod walk;

use std::ops::Range;
use std::sync::Arc;

pub use node::Node;

use super::pickle::{NodeId, Object, Pickle};
use super::sniff;
use super::unread::Stored;
use super::zip::Directory;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::{DType, Tensor};

/// The pickle's name inside the archive's folder.
const PICKLE: &str = "data.pkl";
/// The number that PyTorch's format from before 1.6 begins with, as a pickle of protocol 2: 0x1950a86a20f9469cfc6c.
const OLD_FORMAT: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// PyTorch keys storages by a number, and marks a tensor with at most two flags. What thousands of tensors may share
/// must be short, or a small file could cost any amount of time.
const MAX_KEY: usize = 64;
const MAX_METADATA: usize = 16;

/// A file that PyTorch wrote, open.
#[derive(Debug)]
pub struct Archive {
    mapping: Arc<Mapping>,
    directory: Directory,
    pickle: Pickle,
    /// The archive's one folder, with its slash; any name, often the file's stem.
    folder: String,
}

impl Archive {
    /// Opens the file at `path`: reads its directory and pickle, no tensor.
    ///
    /// # Errors
    /// As [`Archive::parse`], and [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn open(path: impl AsRef<std::path::Path>, mode: MapMode) -> Result<Self> {
        Self::parse(Arc::new(Mapping::open(path, mode)?))
    }

    /// Reads the archive in `mapping`.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when it is not such an archive or is damaged;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it is PyTorch's format from before 1.6, its
    /// entries are compressed, or it was written on a big-endian machine.
    pub fn parse(mapping: Arc<Mapping>) -> Result<Self> {
        let path = mapping.path().to_path_buf();
        Self::parse_here(mapping).map_err(|error| error.at(path))
    }

    fn parse_here(mapping: Arc<Mapping>) -> Result<Self> {
        if Self::is_old_format(&mapping) {
            return Err(sniff::before_1_6());
        }
        if !Directory::is_zip(&mapping) {
            return Err(sniff::refused(&mapping, "not a zip archive as torch.save writes them"));
        }
        let directory = Directory::parse(&mapping)?;
        let folder = find_folder(&directory)?;
        let order = format!("{folder}byteorder");
        if directory.contains(&order) {
            let range = directory.range(&mapping, &order)?;
            match mapping[range].trim_ascii() {
                b"little" => {}
                other => {
                    return Err(Error::unsupported("the archive's byte order is not this machine's")
                        .expected("little")
                        .got(String::from_utf8_lossy(&other[..other.len().min(16)])));
                }
            }
        }
        directory.check_stored(&format!("{folder}data/"))?;
        let name = format!("{folder}{PICKLE}");
        let pickle = Pickle::parse(&mapping[directory.range(&mapping, &name)?])?;
        Ok(Self { mapping, directory, pickle, folder })
    }

    /// Whether `bytes` begin as PyTorch's format from before 1.6 does.
    pub fn is_old_format(bytes: &[u8]) -> bool {
        bytes.starts_with(OLD_FORMAT)
    }

    /// The pickled object.
    pub fn root(&self) -> Node<'_> {
        Node::new(self, self.pickle.root())
    }

    /// The file's bytes, which every tensor keeps alive.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether TorchScript wrote it: the model's code lies beside its weights.
    pub fn is_torchscript(&self) -> bool {
        self.directory.contains(&format!("{}constants.pkl", self.folder))
    }

    /// All tensors of the pickled object with their dotted names, in the order of the pickle.
    ///
    /// Dicts and lists give their keys and indices, pickled modules the names that their `state_dict()` would give
    /// (buffers that are not persistent stay out), TorchScript objects the names of their attributes. A training
    /// checkpoint, a dict in which `state_dict`, `model_state_dict`, `model` or `module` holds the model, gives what
    /// is inside: neither the wrapper's name nor the optimizer beside it.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when a tensor lies outside its storage, a module's parameter is
    /// not a tensor, or the object is nested too deeply or too large. One of a kind that is not read here (quantised,
    /// sparse, complex) is no error, but [`Unread`](super::unread::Unread).
    pub fn tensors(&self) -> Result<Vec<(String, Stored)>> {
        walk::tensors(self).map_err(|error| self.place(error))
    }

    /// As [`Archive::tensors`], but for wrappers: every tensor that the pickled object holds, the optimizer's too, by
    /// its whole path.
    ///
    /// # Errors
    /// As [`Archive::tensors`].
    pub fn all_tensors(&self) -> Result<Vec<(String, Stored)>> {
        walk::all(self).map_err(|error| self.place(error))
    }

    fn place(&self, error: Error) -> Error {
        error.at(self.mapping.path())
    }

    /// The tensor that the object stands for, or `None` where it is no tensor.
    fn tensor(&self, object: &Object) -> Result<Option<Tensor>> {
        rebuild::tensor(self, object.class, object.args, rebuild::MAX_WRAPS)
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)`; the oldest form ends after
    /// the stride, and v3 puts the dtype before the metadata.
    fn rebuild(&self, function: &str, args: NodeId) -> Result<Tensor> {
        let args = self.pickle.tuple(args).unwrap_or(&[]);
        let (&[storage, offset, size, stride], rest) =
            args.split_first_chunk::<4>().ok_or_else(|| Error::format("a tensor has too few arguments"))?;
        let rest = rest.get(2..).unwrap_or(&[]);
        let (dtype, metadata) = match (function, rest) {
            ("_rebuild_tensor_v3", [dtype, rest @ ..]) => (Some(self.dtype(Node::new(self, *dtype))?), rest.first()),
            ("_rebuild_tensor_v3", []) => return Err(Error::format("a tensor has no dtype")),
            (_, rest) => (None, rest.first()),
        };
        if let Some(&metadata) = metadata {
            let metadata = Node::new(self, metadata);
            if metadata.width() > MAX_METADATA {
                return Err(Error::format("a tensor has too much metadata").got(metadata.width()));
            }
            for flag in ["neg", "conj"] {
                if metadata.get(flag).and_then(|value| value.as_bool()) == Some(true) {
                    return Err(Error::unsupported(format!("a lazily transformed tensor ({flag})"))
                        .hint("Call resolve_neg() or resolve_conj() and save it again"));
                }
            }
        }
        let (range, stored) = self.storage(Node::new(self, storage))?;
        let dtype = dtype
            .or(stored)
            .ok_or_else(|| Error::format("a tensor over an untyped storage does not say its own dtype"))?;
        let offset = Node::new(self, offset).extent()?;
        let (size, stride) = (Node::new(self, size).extents()?, Node::new(self, stride).extents()?);
        Tensor::strided(&self.mapping, range, dtype, offset, &size, &stride)
    }

    /// The bytes and type of `('storage', class, key, location, numel)`. The location, such as `cuda:0`, is where the
    /// tensor lived; it says nothing about the file.
    fn storage(&self, node: Node<'_>) -> Result<(Range<usize>, Option<DType>)> {
        let broken = || Error::format("a tensor's storage cannot be read");
        let id = node.persistent().ok_or_else(broken)?;
        let fields: Vec<_> = id.items().take(5).collect();
        let &[kind, class, key, _location, numel] = fields.as_slice() else { return Err(broken()) };
        if kind.as_str() != Some("storage") {
            return Err(broken());
        }
        let key = key.as_str().filter(|key| key.len() <= MAX_KEY).ok_or_else(broken)?;
        let dtype = self.storage_dtype(class)?;
        let bytes = numel.extent()?.checked_mul(dtype.map_or(1, DType::size));
        let range = self.directory.range(&self.mapping, &format!("{}data/{key}", self.folder))?;
        if Some(range.len()) != bytes {
            return Err(Error::format(format!("storage `{key}` has another size than the pickle says"))
                .expected(bytes.map_or("more than memory holds".into(), |bytes| format!("{bytes} bytes")))
                .got(range.len()));
        }
        Ok((range, dtype))
    }

    /// The type that a storage class implies; `None` for one without.
    fn storage_dtype(&self, class: Node<'_>) -> Result<Option<DType>> {
        let (module, name) = class.class_name().ok_or_else(|| Error::format("a tensor's storage has no class"))?;
        let dtype = match name {
            "DoubleStorage" => DType::F64,
            "FloatStorage" => DType::F32,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            "LongStorage" => DType::I64,
            "IntStorage" => DType::I32,
            "ShortStorage" => DType::I16,
            "CharStorage" => DType::I8,
            "ByteStorage" => DType::U8,
            "BoolStorage" => DType::Bool,
            "UntypedStorage" | "_UntypedStorage" => return Ok(None),
            _ => return Err(unknown_type(module, name)),
        };
        Ok(Some(dtype))
    }

    fn dtype(&self, node: Node<'_>) -> Result<DType> {
        let (module, name) = node.class_name().ok_or_else(|| Error::format("a tensor's dtype cannot be read"))?;
        Ok(match name {
            "float64" => DType::F64,
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            "int64" => DType::I64,
            "int32" => DType::I32,
            "int16" => DType::I16,
            "int8" => DType::I8,
            "uint64" => DType::U64,
            "uint32" => DType::U32,
            "uint16" => DType::U16,
            "uint8" => DType::U8,
            "bool" => DType::Bool,
            _ => return Err(unknown_type(module, name)),
        })
    }
}

fn unknown_type(module: &str, name: &str) -> Error {
    Error::unsupported(format!("a tensor's elements are of a type that is not supported: {module}.{name}"))
}

/// The folder that holds the pickle: exactly one does.
fn find_folder(directory: &Directory) -> Result<String> {
    let mut folders = directory.names().filter_map(|name| {
        let folder = name.strip_suffix(PICKLE)?;
        (folder.ends_with('/') && folder.matches('/').count() == 1).then_some(folder)
    });
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder.to_owned()),
        (Some(a), Some(b)) => {
            Err(Error::format("the archive holds two pickles").got(format_args!("`{a}{PICKLE}` and `{b}{PICKLE}`")))
        }
        (None, _) => Err(sniff::archive(directory.names()).unwrap_or_else(|| {
            Error::format(format!("the archive holds no {PICKLE}"))
                .hint("Is it a file that torch.save or torch.jit.save wrote?")
        })),
    }
}
