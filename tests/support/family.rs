//! A small family of no published shape, and checkpoints that were fine-tuned from one base.

use crate::support::synthetic::Synthetic;
use taskbasis::{Activation, Arch, DType, Method, Variant};

/// Two layers and a text tower of two parameters, which no task changes; three vectors.
pub fn small(method: Method, tasks: usize) -> Synthetic {
    let arch = Arch {
        width: 48,
        layers: 2,
        heads: 3,
        mlp_width: 80,
        patch: 5,
        grid: 3,
        embed_dim: 20,
        activation: Activation::QuickGelu,
        variant: Variant::default(),
    };
    let text = vec![("token_embedding.weight".to_owned(), vec![10, 48]), ("logit_scale".to_owned(), vec![])];
    Synthetic { arch, text, method, tasks, vectors: 3, dtype: DType::F32, seed: 1 }
}
