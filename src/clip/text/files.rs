//! A text model on disk: the file of weights in a folder as the Hugging Face Hub keeps one, and what the configuration
//! beside it says.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::arch::TextArch;
use crate::checkpoint::choose::{PUBLISHED, choose};
use crate::checkpoint::{Checkpoint, names};
use crate::clip::arch::{Activation, ArchHints};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The configurations that lie beside the weights that libraries publish ([`PUBLISHED`]).
pub const CONFIGS: [&str; 2] = ["open_clip_config.json", "config.json"];

/// A text encoder's weights and architecture.
pub struct TextModel {
    path: PathBuf,
    arch: TextArch,
    /// In the order of [`TextArch::parameters`], each f32.
    parameters: Vec<(String, Tensor)>,
    /// ln of what similarities are multiplied by.
    logit_scale: Option<f32>,
}

impl TextModel {
    /// Opens the text tower of the CLIP model at `path`: a checkpoint of the whole model, or a folder with one in it,
    /// as [`choose`] decides. What `hints` leave open is taken from the configuration in that folder, where there is
    /// one ([`CONFIGS`]; also where the file in it is given, if it has a name of [`PUBLISHED`]); else heads are width /
    /// 64, and the activation is QuickGELU.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], [`names::text_tower`] and [`TextArch::infer`];
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when the folder holds no weights, or several files of them;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for a configuration that is no JSON.
    pub fn open(path: impl AsRef<Path>, hints: TextHints) -> Result<Self> {
        Self::open_with(path.as_ref(), hints, |file| Checkpoint::open(file))
    }

    /// As [`TextModel::open`], where `checkpoint` opens the file of weights.
    ///
    /// # Errors
    /// As [`TextModel::open`], and what `checkpoint` gives.
    pub fn open_with(
        path: &Path,
        hints: TextHints,
        checkpoint: impl FnOnce(&Path) -> Result<Checkpoint>,
    ) -> Result<Self> {
        let file = if path.is_dir() { weights_in(path)? } else { path.to_path_buf() };
        let is_published =
            path.is_dir() || file.file_name().is_some_and(|name| PUBLISHED.iter().any(|known| name == *known));
        let config = match file.parent() {
            Some(folder) if is_published => config_in(folder)?,
            _ => None,
        };
        let stated = config.map(|config| stated(&config)).unwrap_or_default();
        let hints = ArchHints {
            heads: hints.heads.or(stated.heads),
            activation: hints.activation.or(stated.activation).unwrap_or_default(),
        };
        Self::of(&checkpoint(&file)?, hints)
    }

    /// The text tower in a checkpoint.
    ///
    /// # Errors
    /// As [`TextModel::open`], but for the folder's.
    pub fn of(checkpoint: &Checkpoint, hints: ArchHints) -> Result<Self> {
        let path = checkpoint.path();
        let mut tower = names::text_tower(checkpoint.iter()).map_err(|e| e.at(path))?;
        // A counter of positions, no parameter.
        tower.shift_remove("text_model.embeddings.position_ids");
        let shapes = tower.iter().map(|(name, tensor)| (name.as_str(), tensor.shape()));
        let arch = TextArch::infer(shapes, hints).map_err(|e| e.at(path))?;
        let mut parameters = Vec::new();
        for (name, shape) in arch.parameters() {
            // `infer` has seen every one of them.
            let Some(tensor) = tower.swap_remove(&name) else { continue };
            let tensor = match tensor.as_f32() {
                Some(_) => tensor,
                None => tensor
                    .to_f32()
                    .and_then(|values| Tensor::from_f32(&values, &shape, &name))
                    .map_err(|e| e.at(path).tensor(&name))?,
            };
            parameters.push((name, tensor));
        }
        let scale = checkpoint.get("logit_scale").map(|tensor| tensor.to_f32()).transpose();
        let logit_scale =
            scale.map_err(|e| e.at(path).tensor("logit_scale"))?.and_then(|values| values.first().copied());
        Ok(Self { path: path.to_path_buf(), arch, parameters, logit_scale })
    }

    /// The architecture.
    pub fn arch(&self) -> &TextArch {
        &self.arch
    }

    /// The file of weights.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and f32 tensors, in the order of [`TextArch::parameters`].
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parameters.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The logarithm of what the model multiplies cosine similarities by, where the file has it; ln 100 in most.
    pub fn logit_scale(&self) -> Option<f32> {
        self.logit_scale
    }
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextModel({}; {})", self.path.display(), self.arch)
    }
}

/// What a caller knows of a text tower that its shapes do not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextHints {
    /// The number of attention heads.
    pub heads: Option<usize>,
    /// The activation of the MLPs.
    pub activation: Option<Activation>,
}

/// The file of weights in a folder.
fn weights_in(folder: &Path) -> Result<PathBuf> {
    let fail = |e| Error::io("cannot list the folder", folder, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let names: Vec<_> = files.iter().filter_map(|file| Some(file.file_name()?.to_string_lossy())).collect();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let path = |name: &str| folder.join(name).display().to_string();
    Ok(folder.join(choose(&names, path).map_err(|e| e.at(folder))?))
}

fn config_in(folder: &Path) -> Result<Option<Value>> {
    let Some(path) = CONFIGS.iter().map(|name| folder.join(name)).find(|file| file.is_file()) else { return Ok(None) };
    let json = std::fs::read(&path).map_err(|e| Error::io("cannot read", &path, e))?;
    serde_json::from_slice(&json).map(Some).map_err(|e| Error::format("not JSON").at(&path).because(e))
}

/// What a configuration says of the text tower: open_clip's `model_cfg`, or the transformers library's `text_config`.
fn stated(config: &Value) -> TextHints {
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    if let Some(model) = config.get("model_cfg") {
        // open_clip's configurations name an activation only where it is OpenAI's.
        let is_quick = model.get("quick_gelu").and_then(Value::as_bool).unwrap_or(false);
        let activation = if is_quick { Activation::QuickGelu } else { Activation::Gelu };
        return TextHints { heads: number(&model["text_cfg"]["heads"]), activation: Some(activation) };
    }
    // Written by the library only where they differ from its defaults, which are OpenAI's ViT-B-32.
    let text = config.get("text_config").unwrap_or(config);
    let activation = match text.get("hidden_act").and_then(Value::as_str) {
        Some("gelu") => Some(Activation::Gelu),
        Some("quick_gelu") => Some(Activation::QuickGelu),
        _ => None,
    };
    TextHints { heads: number(&text["num_attention_heads"]), activation }
}
