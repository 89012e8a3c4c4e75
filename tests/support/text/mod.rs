//! A small text tower whose weights follow from their names, as `golden.py` makes them.

use std::path::Path;

use serde_json::Value;
use taskbasis::save_arrays;

const WIDTH: usize = 32;
const LAYERS: usize = 2;
/// The length of an embedding.
pub const E: usize = 24;

pub type Named = (String, Vec<usize>, Vec<f32>);

/// The values that open_clip computed.
pub fn golden() -> Value {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

pub fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The numbers of a matrix, row by row.
pub fn floats(value: &Value) -> Vec<f32> {
    let rows = value.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
    rows.map(|number| number.as_f64().unwrap() as f32).collect()
}

/// Numbers in [-0.1, 0.1) from the tensor's name and each element's index; layer norms' weights are around 1.
fn values(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(2_166_136_261u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(16_777_619));
    let around = if name.contains("ln_") && name.ends_with("weight") { 1.0 } else { 0.0 };
    let value = |index: u32| {
        let mut x = index.wrapping_add(seed);
        for _ in 0..2 {
            x = ((x >> 16) ^ x).wrapping_mul(0x045D_9F3B);
        }
        x ^= x >> 16;
        ((f64::from(x) / 4_294_967_296.0 - 0.5) * 0.2 + around) as f32
    };
    (0..u32::try_from(count).unwrap()).map(value).collect()
}

/// The tower's parameters under open_clip's names, and the scale.
pub fn parameters() -> Vec<Named> {
    let (w, mut shapes) = (WIDTH, Vec::<(String, Vec<usize>)>::new());
    shapes.push(("token_embedding.weight".into(), vec![49_408, w]));
    shapes.push(("positional_embedding".into(), vec![77, w]));
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("ln_1.weight", vec![w]),
            ("ln_1.bias", vec![w]),
            ("attn.in_proj_weight", vec![3 * w, w]),
            ("attn.in_proj_bias", vec![3 * w]),
            ("attn.out_proj.weight", vec![w, w]),
            ("attn.out_proj.bias", vec![w]),
            ("ln_2.weight", vec![w]),
            ("ln_2.bias", vec![w]),
            ("mlp.c_fc.weight", vec![4 * w, w]),
            ("mlp.c_fc.bias", vec![4 * w]),
            ("mlp.c_proj.weight", vec![w, 4 * w]),
            ("mlp.c_proj.bias", vec![w]),
        ] {
            shapes.push((format!("transformer.resblocks.{layer}.{name}"), shape));
        }
    }
    shapes.push(("ln_final.weight".into(), vec![w]));
    shapes.push(("ln_final.bias".into(), vec![w]));
    shapes.push(("text_projection".into(), vec![w, E]));
    let mut all: Vec<_> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = values(&name, shape.iter().product());
            (name, shape, values)
        })
        .collect();
    all.push(("logit_scale".into(), vec![], vec![100f32.ln()]));
    all
}

/// Parts of names in the transformers library, and in open_clip.
const RENAMED: [(&str, &str); 9] = [
    ("embeddings.token_embedding", "token_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("encoder.layers", "transformer.resblocks"),
    ("final_layer_norm", "ln_final"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
];

/// The tensors under the names of the transformers library, which `golden` lists: q, k and v apart, the projection
/// transposed.
pub fn theirs(golden: &Value) -> Vec<Named> {
    let ours = parameters();
    let find = |name: &str| ours.iter().find(|(known, ..)| known == name).unwrap_or_else(|| panic!("no {name}"));
    let mut all = vec![find("logit_scale").clone()];
    for name in strings(&golden["names"]) {
        let mut source = name.strip_prefix("text_model.").unwrap_or(&name).to_owned();
        for (theirs, ours) in RENAMED {
            source = source.replace(theirs, ours);
        }
        if source == "text_projection.weight" {
            let (_, _, values) = find("text_projection");
            let transposed = (0..E * WIDTH).map(|i| values[i % WIDTH * E + i / WIDTH]).collect();
            all.push((name, vec![E, WIDTH], transposed));
        } else if let Some((block, third)) = source.split_once("self_attn.") {
            let (letter, kind) = third.split_once("_proj.").unwrap();
            let (_, shape, values) = find(&format!("{block}attn.in_proj_{kind}"));
            let (part, third) = (values.len() / 3, "qkv".find(letter).unwrap());
            let shape = std::iter::once(shape[0] / 3).chain(shape[1..].iter().copied()).collect();
            all.push((name, shape, values[third * part..][..part].to_vec()));
        } else {
            let (_, shape, values) = find(&source);
            all.push((name, shape.clone(), values.clone()));
        }
    }
    all
}

pub fn save(path: &Path, tensors: &[Named]) {
    let arrays: Vec<(&str, &[usize], &[f32])> =
        tensors.iter().map(|(name, shape, values)| (name.as_str(), shape.as_slice(), values.as_slice())).collect();
    save_arrays(path, &arrays, &[], &[]).unwrap();
}

/// What the transformers library computed with a small text tower of SigLIP's.
pub fn siglip() -> Value {
    serde_json::from_str(include_str!("siglip.json")).unwrap()
}

/// The parameters of that tower, under the names of the transformers library, and scale and bias.
pub fn siglip_parameters(golden: &Value) -> Vec<Named> {
    let number = |name: &str| golden[name].as_f64().unwrap() as f32;
    let names = golden["names"].as_object().unwrap();
    let parameter = |(name, shape): (&String, &Value)| {
        let shape: Vec<usize> = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let values = match name.as_str() {
            "logit_scale" => vec![number("scale")],
            "logit_bias" => vec![number("bias")],
            _ => values(&name.replace("layer_norm", "ln_"), shape.iter().product()),
        };
        (name.clone(), shape, values)
    };
    names.iter().map(parameter).collect()
}

/// The same under open_clip's names.
pub fn siglip_of_open_clip(golden: &Value) -> Vec<Named> {
    let mut all: Vec<Named> = Vec::new();
    for (name, mut shape, values) in siglip_parameters(golden) {
        let mut ours = name.replace("text_model.", "text.");
        for (theirs, ours_too) in RENAMED.into_iter().chain([("text.head.", "text.text_projection.")]) {
            ours = ours.replace(theirs, ours_too);
        }
        let Some((block, third)) = ours.split_once("self_attn.") else {
            all.push((ours, shape, values));
            continue;
        };
        let (letter, kind) = third.split_once("_proj.").unwrap();
        let (joined, count) = (format!("{block}attn.in_proj_{kind}"), values.len());
        shape[0] *= 3;
        let at = all.iter().position(|(name, ..)| *name == joined).unwrap_or_else(|| {
            all.push((joined, shape, vec![0.0; 3 * count]));
            all.len() - 1
        });
        all[at].2["qkv".find(letter).unwrap() * count..][..count].copy_from_slice(&values);
    }
    all
}
