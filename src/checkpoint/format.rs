//! The formats of checkpoints.

use std::fmt;

/// The format of the file that a checkpoint came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `torch.save`: a state dict, a training checkpoint or a pickled module.
    TorchZip,
    /// `torch.jit.save`, as OpenAI published CLIP.
    TorchScript,
    /// Safetensors.
    Safetensors,
}

impl Format {
    /// `torch`, `torchscript` or `safetensors`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TorchZip => "torch",
            Self::TorchScript => "torchscript",
            Self::Safetensors => "safetensors",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
