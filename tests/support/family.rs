//! A small family of no published shape, and checkpoints that were fine-tuned from one base.

use std::path::{Path, PathBuf};

use super::forms;
use super::synthetic::Synthetic;
use super::tensors::Tensors;
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

/// A family whose normalisations in the blocks have gains of twenty in six of their 256 channels, as published towers
/// have outliers: what follows them is hard to round. Its base and its basis, in `folder`, and its tower.
pub fn amplified(folder: &Path) -> (PathBuf, PathBuf, Arch) {
    let family = small(Method::Autoencoder, 3);
    let (width, heads, mlp_width, patch, grid) = (256, 8, 512, 8, 4);
    let arch = Arch { width, heads, mlp_width, layers: 3, patch, grid, ..family.arch };
    let family = Synthetic { arch: arch.clone(), text: Vec::new(), vectors: 2, ..family };
    let (base, basis) = (folder.join("amplified.safetensors"), folder.join("amplified"));
    let mut tensors = Tensors::random(&arch, 5);
    for (name, (_, values)) in &mut tensors.0 {
        if name.contains("resblocks") && name.contains(".ln_") && name.ends_with("weight") {
            (0..6).for_each(|i| values[i * width / 6] *= 20.0);
        }
    }
    let arrays: Vec<_> = tensors.0.into_iter().map(|(name, (shape, values))| (name, shape, values)).collect();
    forms::write(&base, &arrays);
    family.write_basis(&basis).unwrap();
    (base, basis, arch)
}
