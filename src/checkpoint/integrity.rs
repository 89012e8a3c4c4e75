//! What a checkpoint's files say of themselves: every byte can be read, and is what was written where there is a
//! checksum.

use std::path::{Path, PathBuf};

use super::adapter;
use super::container::Content;
use super::unread_type::Stored;
use super::zip::Directory;
use crate::error::Result;
use crate::mmap::{MapMode, Mapping};

/// The files of a checkpoint, and what they hold under the names that their writer gave it.
#[derive(Debug)]
pub struct RawCheckpoint {
    /// The file, or the index and the files that it names; and the configuration of an adapter.
    pub files: Vec<PathBuf>,
    /// Names and tensors, in the order of the files.
    pub tensors: Vec<(String, Stored)>,
}

/// All tensors of the checkpoint at `path`, as [`Checkpoint::open`](super::Checkpoint::open) takes one; those of an
/// adapter or a head too, which are no model.
///
/// # Errors
/// As [`Checkpoint::open`](super::Checkpoint::open), but for those of names; those of an adapter's configuration.
pub fn raw(path: &Path) -> Result<RawCheckpoint> {
    let content = Content::open(path, MapMode::Map, true)?;
    let configuration = adapter::configuration(&content)?;
    let Content { path, stored, parts, .. } = content;
    let files = std::iter::once(path).chain(parts).chain(configuration);
    Ok(RawCheckpoint { files: files.collect(), tensors: stored })
}

/// Reads every byte of a file and compares the checksums that a zip archive has. Gives the number of its entries that
/// are compressed, whose checksums are of what they would be unpacked.
///
/// # Errors
/// As [`Directory::verify`] and [`Mapping::read_at`].
pub fn verify_file(path: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<usize> {
    let file = Mapping::open(path, MapMode::Map)?;
    file.verify_readable(progress)?;
    if !Directory::is_zip(&file.head(4)?) {
        return Ok(0);
    }
    let verified = Directory::parse(&file).and_then(|directory| Ok(directory.verify(&file)?.len()));
    verified.map_err(|e| e.at(path))
}
