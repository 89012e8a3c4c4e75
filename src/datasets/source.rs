//! Sets of images that are found and not read yet.

use std::fmt;
use std::path::{Path, PathBuf};

use super::split::Split;
use crate::error::{Error, Result};
use crate::mmap::read_small_text;

/// The largest list or table in text that is read.
pub(super) const MAX_TEXT: usize = 256 << 20;

/// A split's files, not read yet.
pub(super) trait SplitSource: fmt::Debug + Send + Sync {
    /// Reads the labels, and where the images are.
    fn read(&self) -> Result<Split>;
}

/// Splits by name: `train`, `test`, ….
pub(super) type Splits = Vec<(String, Box<dyn SplitSource>)>;

/// One of the sets of images that a folder holds.
#[derive(Debug)]
pub(super) struct ImageSet {
    /// The name that tells it from others in the folder, with the folders that lead to it:
    /// `EMNIST/raw/emnist-digits`.
    pub(super) name: String,
    pub(super) splits: Splits,
}

impl ImageSet {
    /// A set of these splits; `None` without any.
    pub(super) fn of(name: &str, splits: Splits) -> Option<Self> {
        (!splits.is_empty()).then(|| Self { name: name.to_owned(), splits })
    }
}

/// Checks that there is a label per image; the file of the labels remains to be named.
pub(super) fn check_count(labels: usize, images: usize) -> Result<()> {
    if labels == images {
        return Ok(());
    }
    Err(Error::format("images and labels differ in number").expected(format_args!("{images} labels")).got(labels))
}

/// The names in a file of one per line; none where there is no such file.
pub(super) fn names(path: &Path) -> Result<Vec<String>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = read_small_text(path, MAX_TEXT, "a list of names")?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// The files of these names in `folder`; `None` where none is there.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where some are there and not all.
pub(super) fn all_or_none(folder: &Path, names: &[String]) -> Result<Option<Vec<PathBuf>>> {
    let (there, missing): (Vec<_>, Vec<_>) =
        names.iter().map(|name| folder.join(name)).partition(|file| file.is_file());
    match missing.first() {
        _ if there.is_empty() => Ok(None),
        Some(missing) => Err(Error::not_found("a batch is missing beside the others").at(missing)),
        None => Ok(Some(there)),
    }
}
