//! Real and random weights by name.

use std::collections::HashMap;
use std::path::Path;

use super::{Random, digits};
use taskbasis::{Activation, Arch, ArchHints, WeightSource};

/// Named tensors with their shapes.
#[derive(Clone, Default)]
pub struct Tensors(pub HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Tensors {
    /// The f32 tensors of a safetensors file.
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let f32s = file.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
        Self(
            f32s.map(|(name, view)| {
                let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                (name.to_string(), (view.shape().to_vec(), values))
            })
            .collect(),
        )
    }

    /// Weights in the range that trained ones have; the same for the same seed.
    pub fn random(arch: &Arch, seed: u64) -> Self {
        let mut random = Random(seed);
        let tensors = arch.parameters().into_iter().map(|(name, shape)| {
            let count = shape.iter().product();
            let scale = 1.0 / (shape.last().copied().unwrap_or(1) as f32).sqrt();
            // Normalisations around 1, everything else around 0.
            let centre = if name.contains("ln_") && name.ends_with("weight") { 1.0 } else { 0.0 };
            let values = (0..count).map(|_| centre + scale * random.uniform()).collect();
            (name, (shape, values))
        });
        Self(tensors.collect())
    }

    pub fn arch(&self, activation: Activation) -> Arch {
        let shapes = self.0.iter().map(|(name, (shape, _))| (name.as_str(), shape.as_slice()));
        Arch::infer(shapes, ArchHints { activation: Some(activation), ..ArchHints::default() }).unwrap()
    }

    pub fn values(&self, name: &str) -> &[f32] {
        &self.0.get(name).unwrap_or_else(|| panic!("no {name}")).1
    }

    pub fn values_mut(&mut self, name: &str) -> &mut Vec<f32> {
        &mut self.0.get_mut(name).unwrap_or_else(|| panic!("no {name}")).1
    }
}

impl WeightSource for Tensors {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(|(_, values)| values.as_slice())
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(|(shape, _)| shape.as_slice())
    }
}

/// The digits' zero-shot weights and the reference's inputs and outputs.
pub fn digits_model() -> Option<(Tensors, Tensors)> {
    let weights = digits("base/open_clip_names.safetensors")?;
    let golden = digits("golden.safetensors")?;
    Some((Tensors::open(&weights), Tensors::open(&golden)))
}
