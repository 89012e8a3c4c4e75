//! A text model on disk: the file of weights in a folder as the Hugging Face Hub keeps one, and what the configuration
//! beside it says.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::arch::TextArch;
use crate::checkpoint::{Checkpoint, folder, names};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
pub use crate::tower::config::CONFIGS;
use crate::tower::config::text_hints;
/// The values of a text tower that a caller knows and its shapes do not tell; it has no pooling.
pub use crate::tower::variant::ArchHints as TextHints;

/// A text encoder's weights and architecture.
pub struct TextModel {
    path: PathBuf,
    arch: TextArch,
    /// Names and f32 tensors, in the order of [`TextArch::parameters`].
    parameters: Vec<(String, Tensor)>,
    /// The logarithm of the factor of similarities.
    logit_scale: Option<f32>,
    /// What is added to them then: SigLIP's.
    logit_bias: Option<f32>,
    notes: Vec<String>,
}

impl TextModel {
    /// Opens the text tower of the CLIP or SigLIP model at `path`: a checkpoint of the whole model, or a folder with
    /// one in it, as [`folder::file_of`] decides. What `hints` leave open is taken from the configuration beside it
    /// ([`CONFIGS`]), where there is one; else heads are width / 64, and the activation is QuickGELU (of SigLIP: 16
    /// heads where the width is 1,152, and GELU by tanh), which [`TextModel::notes`] say.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], [`names::text_tower`] and [`TextArch::infer`];
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when the folder holds no weights, or several files of them;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for a configuration that is damaged,
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for one of other weights.
    pub fn open(path: impl AsRef<Path>, hints: TextHints) -> Result<Self> {
        Self::open_with(path.as_ref(), hints, |file| Checkpoint::open(file))
    }

    /// [`TextModel::open`] with a `checkpoint` that opens the file of weights.
    ///
    /// # Errors
    /// As [`TextModel::open`], and what `checkpoint` gives.
    pub fn open_with(
        path: &Path,
        hints: TextHints,
        checkpoint: impl FnOnce(&Path) -> Result<Checkpoint>,
    ) -> Result<Self> {
        let file = folder::file_of(path, false)?;
        let checkpoint = checkpoint(&file)?;
        let tower = tower_of(&checkpoint)?;
        let shape = arch_of(&checkpoint, &tower, hints.or(TextHints { heads: Some(1), ..TextHints::default() }))?;
        let (hints, notes) = text_hints(&file, hints, &shape)?;
        Ok(Self { notes, ..Self::of(&checkpoint, hints)? })
    }

    /// The text tower in a checkpoint.
    ///
    /// # Errors
    /// As [`TextModel::open`], but for the folder's.
    pub fn of(checkpoint: &Checkpoint, hints: TextHints) -> Result<Self> {
        let path = checkpoint.path();
        let mut tower = tower_of(checkpoint)?;
        let arch = arch_of(checkpoint, &tower, hints)?;
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
        let first = |name: &str| {
            let values = checkpoint.get(name).map(|tensor| tensor.to_f32()).transpose();
            let values = values.map_err(|e| e.at(path).tensor(name))?;
            Ok::<_, Error>(values.and_then(|values| values.first().copied()))
        };
        let (logit_scale, logit_bias) = (first("logit_scale")?, first("logit_bias")?);
        Ok(Self { path: path.to_path_buf(), arch, parameters, logit_scale, logit_bias, notes: Vec::new() })
    }

    /// Notes for the user: assumptions and contradictions, sentences without a full stop.
    pub fn notes(&self) -> &[String] {
        &self.notes
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

    /// What the model adds to the scaled similarities, where the file has it: that of a model whose scores are sigmoids
    /// (SigLIP); −10 before training.
    pub fn logit_bias(&self) -> Option<f32> {
        self.logit_bias
    }

    /// Sets what is added to the scaled similarities; `None` leaves the model's own.
    #[must_use]
    pub fn with_logit_bias(self, bias: Option<f32>) -> Self {
        Self { logit_bias: bias.or(self.logit_bias), ..self }
    }
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextModel({}; {})", self.path.display(), self.arch)
    }
}

fn tower_of(checkpoint: &Checkpoint) -> Result<IndexMap<String, Tensor>> {
    // The projection of transformers' SigLIP lies within its text tower.
    let named = checkpoint.iter().map(|(name, tensor)| match name {
        "text_model.head.weight" => ("text_projection.weight", tensor),
        "text_model.head.bias" => ("text_projection.bias", tensor),
        _ => (name, tensor),
    });
    let mut tower = names::text_tower(named).map_err(|e| e.at(checkpoint.path()))?;
    // A counter of positions, no parameter.
    tower.shift_remove("text_model.embeddings.position_ids");
    Ok(tower)
}

fn arch_of(checkpoint: &Checkpoint, tower: &IndexMap<String, Tensor>, hints: TextHints) -> Result<TextArch> {
    let shapes = tower.iter().map(|(name, tensor)| (name.as_str(), tensor.shape()));
    TextArch::infer(shapes, hints).map_err(|e| e.at(checkpoint.path()))
}
