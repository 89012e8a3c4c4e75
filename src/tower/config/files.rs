//! The configurations that lie beside weights.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::keys::Keys;
use super::stated::Stated;
use super::{open_clip, preprocessor, timm, transformers};
pub use crate::checkpoint::choose::CONFIGS;
use crate::error::{Error, Result};
use crate::mmap::read_small;
use crate::present;

/// A configuration has a few kilobytes; anything above this is none.
const MAX_BYTES: usize = 4 << 20;

/// The configurations that are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConfigSource {
    /// The files of [`CONFIGS`] that lie in the folder of the weights.
    #[default]
    Beside,
    /// One file alone.
    File(PathBuf),
    /// None.
    Ignored,
}

/// The contents of the configurations of the weights at `weights`.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) for a file that cannot be read; [`ErrorKind::Format`](
/// crate::ErrorKind::Format), naming both files, for one that is damaged;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for values that are not built in.
pub(super) fn read(weights: &Path, source: &ConfigSource) -> Result<Vec<Stated>> {
    let files: Vec<PathBuf> = match source {
        ConfigSource::Ignored => return Ok(Vec::new()),
        ConfigSource::File(path) => vec![path.clone()],
        ConfigSource::Beside => {
            let is_folder = present::is_folder(weights)?;
            let folder = if is_folder { weights } else { weights.parent().unwrap_or(Path::new("")) };
            present::files(CONFIGS.iter().map(|name| folder.join(name)))?
        }
    };
    let is_asked_for = *source != ConfigSource::Beside;
    let beside = |e: Error, path: &Path| {
        let what = format!("It is read for {}, beside which it lies; --config none goes without", weights.display());
        if is_asked_for { e.at(path) } else { e.at(path).or_hint(what) }
    };
    let mut all = Vec::new();
    for path in files {
        match open(&path).map_err(|e| beside(e, &path))? {
            Some(stated) => all.push(Stated { path, ..stated }),
            None if is_asked_for => {
                return Err(Error::format("no configuration of a model that is known")
                    .at(path)
                    .expected("one of open_clip's, transformers' or timm's"));
            }
            // Of something else that has a file of this name.
            None => {}
        }
    }
    Ok(all)
}

fn open(path: &Path) -> Result<Option<Stated>> {
    parse(Keys(&object(path)?))
}

/// The JSON object in the file at `path`.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::Format`](crate::ErrorKind::Format), without the file's name,
/// where it is none or too large.
pub(crate) fn object(path: &Path) -> Result<Value> {
    let json = read_small(path, MAX_BYTES, "a configuration")?;
    let config: Value = serde_json::from_slice(&json).map_err(|e| Error::format("not JSON").because(e))?;
    if !config.is_object() {
        return Err(Error::format("not a configuration").expected("a JSON object"));
    }
    Ok(config)
}

/// The content of a configuration; `None` for one of no library that is known.
pub(super) fn parse(config: Keys<'_>) -> Result<Option<Stated>> {
    for library in [open_clip::read, timm::read, transformers::read, preprocessor::read] {
        if let Some(stated) = library(config)? {
            return Ok(Some(stated));
        }
    }
    Ok(None)
}
