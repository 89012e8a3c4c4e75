//! The archive: a zip file's directory and one pickle.

use std::sync::Arc;

use super::super::pickle::Pickle;
use super::super::sniff;
use super::super::zip::Directory;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};

/// The pickle's name inside the archive's folder.
const PICKLE: &str = "data.pkl";
/// The number that PyTorch's format from before 1.6 begins with, as a pickle of protocol 2: 0x1950a86a20f9469cfc6c.
const OLD_FORMAT: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// A file that PyTorch wrote, open.
#[derive(Debug)]
pub struct Archive {
    pub(super) mapping: Arc<Mapping>,
    pub(super) directory: Directory,
    pub(super) pickle: Pickle,
    /// The archive's one folder, with its slash; any name, often the file's stem.
    pub(super) folder: String,
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
        let head = mapping.head(sniff::HEAD)?;
        if Self::is_old_format(&head) {
            return Err(sniff::before_1_6());
        }
        if !Directory::is_zip(&head) {
            return Err(sniff::refused(&head, "not a zip archive as torch.save writes them"));
        }
        drop(head);
        let directory = Directory::parse(&mapping)?;
        let folder = find_folder(&directory)?;
        let order = format!("{folder}byteorder");
        if directory.contains(&order) {
            let range = directory.range(&mapping, &order)?;
            match mapping.read_at(range)?.trim_ascii() {
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
        let pickle = Pickle::parse(&mapping.read_at(directory.range(&mapping, &name)?)?)?;
        Ok(Self { mapping, directory, pickle, folder })
    }

    /// Whether `bytes` begin as PyTorch's format from before 1.6 does.
    pub fn is_old_format(bytes: &[u8]) -> bool {
        bytes.starts_with(OLD_FORMAT)
    }

    /// The file's bytes, which every tensor keeps alive.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether TorchScript wrote it: the model's code lies beside its weights.
    pub fn is_torchscript(&self) -> bool {
        self.directory.contains(&format!("{}constants.pkl", self.folder))
    }

    pub(super) fn place(&self, error: Error) -> Error {
        error.at(self.mapping.path())
    }
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
