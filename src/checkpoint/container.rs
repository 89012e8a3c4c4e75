//! The content of a file, or of several that belong together: tensors under the names that their writer gave them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::Format;
use super::shards::{self, Index};
use super::unread_type::Stored;
use super::{folder, names, safetensors, sniff, torch, zip};
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::Tensor;

/// The content of one checkpoint, before its names are made canonical.
#[derive(Debug)]
pub(super) struct Content {
    /// The file, or the index of the files.
    pub(super) path: PathBuf,
    pub(super) format: Format,
    /// Bytes of the file, or of all that an index names.
    pub(super) bytes: u64,
    /// Names and tensors, in the order of the file.
    pub(super) stored: Vec<(String, Stored)>,
    /// The files that an index names; none where there is no index.
    pub(super) parts: Vec<PathBuf>,
}

impl Content {
    /// The content of the file at `path`, of the files of the index at `path`, or of the checkpoint in the folder at
    /// `path`. `is_tuned` says that an adapter would do.
    ///
    /// # Errors
    /// As [`Checkpoint::open`](super::Checkpoint::open).
    pub(super) fn open(path: &Path, mode: MapMode, is_tuned: bool) -> Result<Self> {
        let path = folder::file_of(path, is_tuned)?;
        shards::check_whole(&path)?;
        let mapping = Arc::new(Mapping::open(&path, mode)?);
        let Some(index) = shards::index(&mapping)? else { return Self::parse(mapping) };
        let shards = Index::parse(&index, &path)?.read(mode, read)?;
        let content =
            Self { path, format: shards.format, bytes: shards.bytes, stored: shards.tensors, parts: shards.files };
        content.checked()
    }

    /// The content of the file in `mapping`.
    ///
    /// # Errors
    /// As [`Checkpoint::parse`](super::Checkpoint::parse).
    pub(super) fn parse(mapping: Arc<Mapping>) -> Result<Self> {
        let path = mapping.path().to_path_buf();
        let bytes = mapping.len() as u64;
        let (format, stored) = read(&mapping)?;
        Self { path, format, bytes, stored, parts: Vec::new() }.checked()
    }

    fn checked(self) -> Result<Self> {
        check_sharing(&self.path, self.bytes, dense(&self.stored))?;
        Ok(self)
    }
}

/// The tensors of one file.
fn read(mapping: &Arc<Mapping>) -> Result<(Format, Vec<(String, Stored)>)> {
    if let Some(error) = sniff::by_name(mapping.path()) {
        return Err(error.at(mapping.path()));
    }
    let head = mapping.head(sniff::HEAD)?;
    if zip::Directory::is_zip(&head) || torch::Archive::is_old_format(&head) {
        let archive = torch::Archive::parse(Arc::clone(mapping))?;
        let format = if archive.is_torchscript() { Format::TorchScript } else { Format::TorchZip };
        return Ok((format, tensors_of(&archive, mapping)?));
    }
    if safetensors::is_safetensors(&head) {
        return Ok((Format::Safetensors, safetensors::read(mapping)?.tensors));
    }
    if shards::index(mapping)?.is_some() {
        return Err(Error::format("an index of a checkpoint in several files, which are read from a folder")
            .at(mapping.path())
            .hint("Open it by its path"));
    }
    Err(sniff::refused(&head, "neither a PyTorch zip nor safetensors").at(mapping.path()))
}

/// The tensors of an archive that are to be named: all that it holds, so that the image tower is found wherever it is;
/// where there is none, or the rest of the archive cannot be read, what lies under the keys that training programs use.
fn tensors_of(archive: &torch::Archive, mapping: &Mapping) -> Result<Vec<(String, Stored)>> {
    let is_model = |all: &Vec<(String, Stored)>| {
        names::holds_tower(all.iter().map(|(name, _)| name.as_str()))
            && check_sharing(mapping.path(), mapping.len() as u64, dense(all)).is_ok()
    };
    match archive.all_tensors().ok().filter(is_model) {
        Some(all) => Ok(all),
        None => archive.tensors(),
    }
}

/// Refuses tensors that together have many times the bytes of their file: a few kilobytes of names over one storage
/// could ask for any amount of memory. Weights that are tied share a storage; hardly ever more than two do.
pub(crate) fn check_sharing<'a>(path: &Path, file_bytes: u64, tensors: impl Iterator<Item = &'a Tensor>) -> Result<()> {
    const MAX_TIMES: u64 = 4;
    let total: u64 = tensors.map(|tensor| tensor.nbytes() as u64).fold(0, u64::saturating_add);
    if total <= file_bytes.saturating_mul(MAX_TIMES) {
        return Ok(());
    }
    Err(Error::format("its tensors share storage beyond any use")
        .at(path)
        .expected(format_args!("at most {MAX_TIMES} times the file's {file_bytes} bytes"))
        .got(format_args!("{total} bytes")))
}

fn dense(tensors: &[(String, Stored)]) -> impl Iterator<Item = &Tensor> {
    tensors.iter().filter_map(|(_, stored)| stored.as_ref().ok())
}
