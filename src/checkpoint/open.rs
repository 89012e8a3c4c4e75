//! Opening a checkpoint: a file, a folder, an index of several files, a LoRA adapter.

use std::path::Path;
use std::sync::Arc;

use super::container::Content;
use super::names::Beside;
use super::{Checkpoint, adapter};
use crate::error::Result;
use crate::mmap::{MapMode, Mapping};

impl Checkpoint {
    /// Maps the file at `path` and reads what tensors it holds; their elements are not read.
    ///
    /// A folder stands for the one checkpoint that is in it, as [`choose`](super::choose::choose) decides, and an index
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

    /// [`Checkpoint::open`] with a choice between mapping and reading.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        Self::of(Content::open(path.as_ref(), mode, false)?, None)
    }

    /// Opens a checkpoint for one image tower among several: `prefix` is what the names of its model, or its own,
    /// begin with.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), with those that there are, where
    /// there is none under `prefix`.
    pub fn open_under(path: impl AsRef<Path>, mode: MapMode, prefix: &str) -> Result<Self> {
        Self::of(Content::open(path.as_ref(), mode, false)?, Some(prefix))
    }

    /// Opens a checkpoint that was fine-tuned from `base`: a whole one, as [`Checkpoint::open`] takes it, or as
    /// [`Checkpoint::open_under`] where `prefix` is given; or a LoRA adapter of `base`, which is put together with it
    /// ([`adapter`]). It is mapped or read as the base is.
    ///
    /// # Errors
    /// As [`Checkpoint::open_under`]; for an adapter that is of another model, contradicts itself or has an option that
    /// is not read, naming the option.
    pub fn open_tuned(path: impl AsRef<Path>, base: &Self, prefix: Option<&str>) -> Result<Self> {
        let is_mapped = base.iter().any(|(_, tensor)| tensor.mapping().is_mapped());
        let mode = if is_mapped { MapMode::Map } else { MapMode::Read };
        let content = Content::open(path.as_ref(), mode, true)?;
        match adapter::is_adapted(&content) {
            true => adapter::tuned(content, base),
            false => Self::of(content, prefix),
        }
    }

    /// A checkpoint of one file's bytes, which are in memory or mapped already.
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
}
