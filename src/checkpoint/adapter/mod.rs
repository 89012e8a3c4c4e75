//! LoRA adapters as the PEFT library saves them, put together with the base that they change: what its
//! `merge_and_unload()` makes of the two, computed in f32. Only the tensors that an adapter changes are made; all
//! others are the base's, which stay where they are mapped.
//!
//! The formulas are those of PEFT 0.21: W + s·B·A with s = `lora_alpha` / r, or / √r with `use_rslora`, r and
//! `lora_alpha` as `rank_pattern` and `alpha_pattern` have them for a module; with DoRA every row of that sum is given
//! the length that `lora_magnitude_vector` says. Biases and `modules_to_save` take the places of the base's.

mod config;
mod keys;
mod merge;

use std::path::PathBuf;

use super::Checkpoint;
use super::choose::{ADAPTER_CONFIG, ADAPTERS};
use super::container::Content;
use super::format::Format;
use super::names::Beside;
use crate::error::{Error, ErrorKind, Result};
use config::Config;
use keys::AdapterTensors;

/// Whether it is an adapter, or a model with one beside its weights: by the names of the file and the tensors.
pub(super) fn is_adapted(content: &Content) -> bool {
    content.path.file_name().is_some_and(|name| ADAPTERS.iter().any(|file| name == *file))
        || content.stored.iter().any(|(name, _)| keys::is_adapted(name))
}

/// The fine-tuned checkpoint that the adapter in `content` makes of `base`. A model that holds base and adapter needs
/// no other base.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an adapter of another kind than LoRA, or with an option
/// that is not read, by its name; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) without the configuration
/// beside it; [`ErrorKind::Format`](crate::ErrorKind::Format) for one that contradicts itself;
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where its modules are not `base`'s.
pub(super) fn tuned(content: Content, base: &Checkpoint) -> Result<Checkpoint> {
    let file = AdapterFile::of(&content);
    let (keys, config) = read(content)?;
    if keys.holds_base {
        return whole(keys, &config, file);
    }
    applied(keys, &config, base, file)
}

/// The model in `content`, which holds base and adapter.
///
/// # Errors
/// As [`tuned`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an adapter without its base.
pub(super) fn unmerged(content: Content) -> Result<Checkpoint> {
    let file = AdapterFile::of(&content);
    let (keys, config) = read(content)?;
    if !keys.holds_base {
        return Err(config.no_model(&file.path));
    }
    whole(keys, &config, file)
}

/// The configuration beside an adapter, which is read; `None` for what is no adapter.
///
/// # Errors
/// As [`tuned`], of the configuration alone.
pub(super) fn configuration(content: &Content) -> Result<Option<PathBuf>> {
    if !is_adapted(content) {
        return Ok(None);
    }
    Config::beside(&content.path)?;
    Ok(Some(content.path.with_file_name(ADAPTER_CONFIG)))
}

/// The names and the configuration; what kind of adapter it is comes before what is missing.
fn read(content: Content) -> Result<(AdapterTensors, Config)> {
    let config = Config::beside(&content.path);
    if let Err(error) = config.as_ref()
        && error.kind() != ErrorKind::NotFound
    {
        return Ok((AdapterTensors::default(), config?));
    }
    let keys = AdapterTensors::read(content.stored).map_err(|error| error.at(&content.path))?;
    if keys.holds_base && keys.targets.is_empty() {
        return Err(Error::unsupported("a PEFT model with an adapter of another kind than LoRA")
            .at(&content.path)
            .hint("Save what its merge_and_unload() gives"));
    }
    Ok((keys, config?))
}

/// The file of an adapter, apart from its tensors.
struct AdapterFile {
    path: PathBuf,
    format: Format,
    bytes: u64,
}

impl AdapterFile {
    fn of(content: &Content) -> Self {
        Self { path: content.path.clone(), format: content.format, bytes: content.bytes }
    }
}

fn whole(mut keys: AdapterTensors, config: &Config, file: AdapterFile) -> Result<Checkpoint> {
    let stored = std::mem::take(&mut keys.others);
    let base = Checkpoint::from_stored(file.path.clone(), file.format, stored, None, Beside::LeaveOut)?;
    applied(keys, config, &base, file)
}

fn applied(keys: AdapterTensors, config: &Config, base: &Checkpoint, file: AdapterFile) -> Result<Checkpoint> {
    let AdapterFile { path, format, bytes } = file;
    let changed = merge::changed(keys, config, base).map_err(|error| error.at(&path))?;
    let mut tensors = base.tensors.clone();
    tensors.extend(changed);
    Ok(Checkpoint {
        path,
        format,
        file_bytes: bytes,
        tensors,
        unread: base.unread.clone(),
        parts: Vec::new(),
        naming: base.naming.clone(),
        stored_positions: base.stored_positions.clone(),
    })
}
