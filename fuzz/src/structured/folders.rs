//! Checkpoints of several files: adapters, shards, configurations beside weights.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use taskbasis::{Activation, Arch, Checkpoint, Format, Tensor, TowerConfig, TowerOptions, Variant};

use super::{Result, Unstructured, json, number, object, safetensors, tensor, word};

/// A folder that goes with the process's thread.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(name), bytes).expect("a file");
    }
}

/// Every value of what opened can be read.
fn read(checkpoint: &Checkpoint) {
    for (name, tensor) in checkpoint.iter() {
        if let Ok(values) = tensor.to_f64() {
            assert_eq!(values.len(), tensor.numel(), "{name}");
        }
    }
}

const MODULES: [&str; 6] = [
    "visual.transformer.resblocks.0.mlp.c_fc",
    "visual.transformer.resblocks.0.attn.out_proj",
    "visual.transformer.resblocks.0.attn",
    "vision_model.encoder.layers.0.mlp.fc1",
    "vision_model.encoder.layers.0.self_attn.q_proj",
    "visual.conv1",
];
const PARTS: [&str; 14] = [
    "lora_A.weight",
    "lora_B.weight",
    "lora_A.default.weight",
    "lora_B.default.weight",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "lora_magnitude_vector.default.weight",
    "lora_B.bias",
    "base_layer.weight",
    "base_layer.lora_A.weight",
    "modules_to_save.weight",
    "original_module.weight",
    "bias",
];
const ADAPTER: [&str; 18] = [
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "peft_type",
    "LORA",
    "bias",
    "none",
    "lora_only",
    "init_lora_weights",
    "gaussian",
    "pissa",
    "fan_in_fan_out",
    "modules_to_save",
    "target_modules",
    "layers_to_transform",
];

/// A LoRA adapter put together with a base: the base's names and shapes, finite values, or an error.
pub(super) fn adapter(u: &mut Unstructured<'_>) -> Result<()> {
    static BASE: LazyLock<Checkpoint> = LazyLock::new(|| {
        let tensor = |name: &str, shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32 / 8.0).collect();
            (name.to_owned(), Tensor::from_f32(&values, shape, "fuzz").expect("a tensor"))
        };
        let block = "visual.transformer.resblocks.0";
        let tensors = vec![
            tensor("visual.conv1.weight", &[4, 3, 2, 2]),
            tensor(&format!("{block}.mlp.c_fc.weight"), &[8, 4]),
            tensor(&format!("{block}.mlp.c_fc.bias"), &[8]),
            tensor(&format!("{block}.attn.in_proj_weight"), &[12, 4]),
            tensor(&format!("{block}.attn.out_proj.weight"), &[4, 4]),
            tensor("visual.proj", &[4, 2]),
        ];
        Checkpoint::from_tensors("fuzz", Format::Safetensors, tensors).expect("a checkpoint")
    });
    let rank = u.int_in_range(1..=3)?;
    let mut config = json!({"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["c_fc"]});
    let stated = object(u, &ADAPTER, 2)?;
    let keeps = u.ratio(3, 4)?;
    for (key, value) in stated {
        if !(keeps && ["r", "peft_type"].contains(&&*key)) {
            config[key] = value;
        }
    }
    if u.ratio(1, 4)? {
        config["rank_pattern"] = json!({ word(u, &["c_fc", "^c_fc", ".*", "(a|b)*c", "out_proj", "("])?: number(u)? });
    }
    let mut tensors = Vec::new();
    for _ in 0..u.int_in_range(1..=5)? {
        let (module, prefix) = (word(u, &MODULES)?, *u.choose(&["base_model.model.", "base_model.model.", ""])?);
        // Mostly the two that belong together.
        let parts = match u.int_in_range(0..=3)? {
            0 => vec![word(u, &PARTS)?],
            _ => vec!["lora_A.weight".to_owned(), "lora_B.weight".to_owned()],
        };
        for part in parts {
            let wide = *u.choose(&[4, 8, 12, 2])?;
            let shape = match (part.contains("_A"), u.ratio(1, 8)?) {
                (_, true) => (0..u.int_in_range(0..=4)?).map(|_| u.int_in_range(0..=4)).collect::<Result<_>>()?,
                (true, false) => vec![rank, 4],
                (false, false) => vec![wide, rank],
            };
            tensors.push(tensor(u, format!("{prefix}{module}.{part}"), shape)?);
        }
    }
    let folder = Folder::new();
    folder.write("adapter_config.json", config.to_string());
    folder.write("adapter_model.safetensors", safetensors(&tensors));
    assert!(Checkpoint::open(folder.0.path()).is_err() || tensors.iter().all(|(name, ..)| !name.contains("lora_")));
    let Ok(tuned) = Checkpoint::open_tuned(folder.0.path(), &BASE, None) else { return Ok(()) };
    read(&tuned);
    for (name, tensor) in tuned.iter() {
        if let Some(base) = BASE.get(name) {
            assert_eq!(tensor.shape(), base.shape(), "{name}");
        }
    }
    Ok(())
}

/// Several files and an index: every tensor from the file that the index names, or an error.
pub(super) fn shards(u: &mut Unstructured<'_>) -> Result<()> {
    const FILES: [&str; 6] = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "other.safetensors",
        "model.safetensors.index.json",
        "../model-00001-of-00002.safetensors",
        "",
    ];
    const TENSORS: [&str; 5] = ["visual.proj", "visual.conv1.weight", "visual.class_embedding", "a", "__metadata__"];

    let folder = Folder::new();
    for file in &FILES[..3] {
        let tensors = (0..u.int_in_range(0..=3)?)
            .map(|_| {
                let (name, shape) = (word(u, &TENSORS[..4])?, vec![u.int_in_range(0..=3)?, 2]);
                tensor(u, name, shape)
            })
            .collect::<Result<Vec<_>>>()?;
        if u.ratio(7, 8)? {
            folder.write(file, safetensors(&tensors));
        }
    }
    let entries = (0..u.int_in_range(0..=5)?).map(|_| {
        let file = if u.ratio(7, 8)? { (*u.choose(&FILES[..3])?).to_owned() } else { word(u, &FILES)? };
        Ok((word(u, &TENSORS)?, Value::from(file)))
    });
    let mut index =
        json!({"metadata": {"total_size": 1}, "weight_map": entries.collect::<Result<serde_json::Map<_, _>>>()?});
    if u.ratio(1, 8)? {
        super::edit(u, &mut index, &TENSORS)?;
    }
    folder.write("model.safetensors.index.json", index.to_string());
    for path in [folder.0.path().join("model.safetensors.index.json"), folder.0.path().to_owned()] {
        let Ok(checkpoint) = Checkpoint::open(path) else { continue };
        read(&checkpoint);
        for (name, _) in checkpoint.iter() {
            assert!(index["weight_map"].get(name).is_some(), "{name} is in no entry of {index}");
        }
    }
    Ok(())
}

/// Configurations beside a tower: a tower that can be built, or an error.
pub(super) fn tower_config(u: &mut Unstructured<'_>) -> Result<()> {
    /// The keys that the readers know, and values of theirs.
    const WORDS: &str = include_str!("words.txt");
    static KEYS: LazyLock<Vec<&str>> = LazyLock::new(|| WORDS.split_whitespace().collect());

    let folder = Folder::new();
    folder.write("model.safetensors", tower());
    for name in ["open_clip_config.json", "config.json", "preprocessor_config.json", "model_config.json"] {
        if !u.ratio(5, 8)? {
            continue;
        }
        // What such a file mostly is, with something of it changed, or anything.
        let mut config = match u.int_in_range(0..=4)? {
            0 => {
                json!({"model_cfg": {"embed_dim": 4, "vision_cfg": {"image_size": 4, "layers": 1, "width": 8, "patch_size": 2,
                "head_width": 4, "no_ln_pre": false, "pool_type": "tok", "norm_kwargs": {"eps": 1e-6}},
                "quick_gelu": true}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
                "resize_mode": "squash", "interpolation": "bicubic", "size": [4, 4], "fill_color": 0}})
            }
            1 => json!({"model_type": "clip", "projection_dim": 4, "vision_config": {"hidden_size": 8,
                "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 4,
                "patch_size": 2, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}}),
            2 => json!({"architecture": "vit_base_patch32_clip_224", "num_features": 8, "global_pool": "token",
                "pretrained_cfg": {"input_size": [3, 4, 4], "crop_pct": 1.0, "interpolation": "bicubic",
                "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_mode": "center"},
                "model_args": {"act_layer": "quick_gelu"}}),
            3 => json!({"crop_size": {"height": 4, "width": 4}, "do_center_crop": true, "do_normalize": true,
                "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3,
                "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 4}}),
            _ => json(u, &KEYS, 4)?,
        };
        for _ in 0..u.int_in_range(0..=4)? {
            super::edit(u, &mut config, &KEYS)?;
        }
        folder.write(name, config.to_string());
    }
    check(folder.0.path());
    Ok(())
}

fn check(path: &Path) {
    let checkpoint = Checkpoint::open(path).expect("the weights are whole");
    let Ok(tower) = TowerConfig::read(&checkpoint, &TowerOptions::default()) else { return };
    tower.arch.check().expect("a tower that was read can be built");
    let _ = (tower.assumed(), tower.assumed_images());
    assert_eq!(tower.arch.image_size(), 4);
    let mut out = vec![f32::NAN; tower.preprocess.len()];
    // An image as binary PPM.
    if tower.preprocess.encoded(b"P6 2 2 255\n0123456789ab", &mut out).is_ok() {
        assert!(out.iter().all(|value| value.is_finite()), "{:?}", tower.preprocess);
    }
}

/// The weights of a tiny tower.
fn tower() -> &'static [u8] {
    static TOWER: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let arch = Arch {
            width: 8,
            layers: 1,
            heads: 2,
            mlp_width: 8,
            patch: 2,
            grid: 2,
            embed_dim: 4,
            activation: Activation::QuickGelu,
            variant: Variant::default(),
        };
        let parameters = arch.parameters().into_iter();
        let tensors: Vec<_> = parameters
            .map(|(name, shape)| {
                let bytes = vec![0; 4 * shape.iter().product::<usize>()];
                (name, "F32", shape, bytes)
            })
            .collect();
        safetensors(&tensors)
    });
    &TOWER
}
