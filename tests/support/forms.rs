//! Small models and adapters as files, by numbers that can be worked out by hand.

use std::fs;
use std::path::Path;

use taskbasis::save_arrays;

/// A name, a shape, and the elements.
pub type Array = (String, Vec<usize>, Vec<f32>);

/// Numbers between −1 and 1 that differ from `seed` to `seed`.
pub fn array(name: &str, shape: &[usize], seed: u32) -> Array {
    let count = shape.iter().product::<usize>() as u32;
    let value = |i: u32| ((seed.wrapping_mul(97) + i).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    (name.to_owned(), shape.to_vec(), (0..count).map(value).collect())
}

pub fn write(path: &Path, arrays: &[Array]) {
    let views: Vec<_> = arrays.iter().map(|(name, shape, values)| (name.as_str(), &shape[..], &values[..])).collect();
    save_arrays(path, &views, &[], &[]).unwrap();
}

/// Width, width of the MLP, length of an embedding.
pub const SIZES: [usize; 3] = [8, 12, 4];

/// An image tower of one layer by the transformers library's names, patches of 2 × 2 in images of 4 × 4.
pub fn tower() -> Vec<Array> {
    let [w, m, e] = SIZES;
    let layer = |name: &str| format!("vision_model.encoder.layers.0.{name}");
    let mut shapes = vec![
        ("vision_model.embeddings.class_embedding".to_owned(), vec![w]),
        ("vision_model.embeddings.patch_embedding.weight".into(), vec![w, 3, 2, 2]),
        ("vision_model.embeddings.position_embedding.weight".into(), vec![5, w]),
        ("visual_projection.weight".into(), vec![e, w]),
    ];
    for (name, shape) in [
        ("self_attn.q_proj", vec![w, w]),
        ("self_attn.k_proj", vec![w, w]),
        ("self_attn.v_proj", vec![w, w]),
        ("self_attn.out_proj", vec![w, w]),
        ("mlp.fc1", vec![m, w]),
        ("mlp.fc2", vec![w, m]),
        ("layer_norm1", vec![w]),
        ("layer_norm2", vec![w]),
    ] {
        shapes.push((layer(&format!("{name}.bias")), vec![shape[0]]));
        shapes.push((layer(&format!("{name}.weight")), shape));
    }
    for name in ["pre_layrnorm", "post_layernorm"] {
        shapes.push((format!("vision_model.{name}.weight"), vec![w]));
        shapes.push((format!("vision_model.{name}.bias"), vec![w]));
    }
    shapes.iter().enumerate().map(|(seed, (name, shape))| array(name, shape, seed as u32 + 1)).collect()
}

/// An adapter's folder: its configuration, and its weights under `base_model.model.`.
pub fn adapter(folder: &Path, config: &str, weights: &[Array]) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), config).unwrap();
    let named: Vec<Array> =
        weights.iter().map(|(name, s, v)| (format!("base_model.model.{name}"), s.clone(), v.clone())).collect();
    write(&folder.join("adapter_model.safetensors"), &named);
}

/// A of [`SIZES`]' kind [rank, columns] and B [rows, rank] for one module.
pub fn lora(module: &str, rows: usize, columns: usize, rank: usize, seed: u32) -> [Array; 2] {
    [
        array(&format!("{module}.lora_A.weight"), &[rank, columns], seed),
        array(&format!("{module}.lora_B.weight"), &[rows, rank], seed + 1),
    ]
}

/// `w` + `scale` · `b` · `a`, in f64: rows of `columns`.
pub fn merged(w: &[f32], a: &[f32], b: &[f32], columns: usize, scale: f64) -> Vec<f64> {
    let rank = a.len() / columns;
    let product = |row: usize, column: usize| -> f64 {
        (0..rank).map(|r| f64::from(b[row * rank + r]) * f64::from(a[r * columns + column])).sum()
    };
    w.iter().enumerate().map(|(i, &w)| f64::from(w) + scale * product(i / columns, i % columns)).collect()
}
