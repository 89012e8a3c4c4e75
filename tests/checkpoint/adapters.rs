//! LoRA adapters over a base: what PEFT's `merge_and_unload()` gives, worked out here in f64 (and compared by hand with
//! PEFT 0.21, option by option: at most 2e-7 apart).

use std::fs;
use std::path::Path;

use crate::support::forms::{Array, SIZES, adapter, array, lora, merged, tower, write};
use taskbasis::{Checkpoint, ErrorKind};

const Q: &str = "vision_model.encoder.layers.0.self_attn.q_proj";
const K: &str = "vision_model.encoder.layers.0.self_attn.k_proj";
const FC1: &str = "vision_model.encoder.layers.0.mlp.fc1";
const IN_PROJ: &str = "visual.transformer.resblocks.0.attn.in_proj_weight";
const C_FC: &str = "visual.transformer.resblocks.0.mlp.c_fc.weight";

/// A folder with `base.safetensors`, open.
fn base() -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.safetensors");
    write(&path, &tower());
    let base = Checkpoint::open(path).unwrap();
    (folder, base)
}

fn of<'a>(arrays: &'a [Array], name: &str) -> &'a [f32] {
    &arrays.iter().find(|(known, ..)| known == name).unwrap().2
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.require(name).unwrap().to_f32().unwrap().into_owned()
}

#[track_caller]
fn assert_near(got: &[f32], right: &[f64]) {
    assert_eq!(got.len(), right.len());
    let worst = got.iter().zip(right).map(|(got, right)| (f64::from(*got) - right).abs()).fold(0.0, f64::max);
    assert!(worst < 2e-6, "off by {worst}");
}

/// The fine-tuned checkpoint of an adapter over the base.
fn tuned(config: &str, weights: &[Array]) -> (Checkpoint, Checkpoint) {
    let (folder, base) = base();
    adapter(&folder.path().join("a"), config, weights);
    let tuned = Checkpoint::open_tuned(folder.path().join("a"), &base, None).unwrap();
    (base, tuned)
}

#[test]
fn only_what_is_adapted_changes() {
    let [w, m, _] = SIZES;
    let weights = [lora(Q, w, w, 2, 50), lora(FC1, m, w, 2, 60)].concat();
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "fc1"]}"#;
    let (base, tuned) = tuned(config, &weights);
    let source = tower();
    let q = merged(of(&source, &format!("{Q}.weight")), &weights[0].2, &weights[1].2, w, 3.0);
    let found = values(&tuned, IN_PROJ);
    assert_near(&found[..w * w], &q);
    assert_eq!(found[w * w..], values(&base, IN_PROJ)[w * w..], "k and v stay");
    let fc1 = merged(of(&source, &format!("{FC1}.weight")), &weights[2].2, &weights[3].2, w, 3.0);
    assert_near(&values(&tuned, C_FC), &fc1);
    assert_eq!(tuned.len(), base.len());
    for (name, tensor) in base.iter().filter(|(name, _)| ![IN_PROJ, C_FC].contains(name)) {
        let same = tuned.require(name).unwrap();
        assert!(same.mapping().identity() == tensor.mapping().identity(), "{name} is the base's own, no copy");
    }
}

#[test]
fn the_options_mean_what_they_mean_to_the_library() {
    let [w, m, e] = SIZES;
    let source = tower();
    // Stabilised ranks, and patterns for single modules.
    let weights = [lora(Q, w, w, 4, 50), lora(K, w, w, 1, 60), lora("visual_projection", e, w, 4, 70)].concat();
    let config = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_rslora": true, "rank_pattern": {"k_proj": 1},
        "alpha_pattern": {".*layers\\.0.*k_proj": 5}, "fan_in_fan_out": true}"#;
    let (_, both) = tuned(config, &weights);
    let found = values(&both, IN_PROJ);
    let q = merged(of(&source, &format!("{Q}.weight")), &weights[0].2, &weights[1].2, w, 3.0);
    let k = merged(of(&source, &format!("{K}.weight")), &weights[2].2, &weights[3].2, w, 5.0);
    assert_near(&found[..w * w], &q);
    assert_near(&found[w * w..2 * w * w], &k);
    let projection = merged(of(&source, "visual_projection.weight"), &weights[4].2, &weights[5].2, w, 3.0);
    let transposed: Vec<f64> = (0..e * w).map(|i| projection[i % e * w + i / e]).collect();
    assert_near(&values(&both, "visual.proj"), &transposed);

    // Biases and whole modules that were trained, and a bias of the adapter's own.
    let mut weights = lora(FC1, m, w, 2, 50).to_vec();
    weights.push(array(&format!("{FC1}.lora_B.bias"), &[m], 80));
    weights.push(array(&format!("{Q}.base_layer.bias"), &[w], 81));
    weights.push(array("vision_model.post_layernorm.weight", &[w], 82));
    weights.push(array("visual_projection.weight", &[e, w], 83));
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_bias": true, "bias": "all",
        "modules_to_save": ["visual_projection", "post_layernorm"]}"#;
    let (base, trained) = tuned(config, &weights);
    let bias: Vec<f64> = of(&source, &format!("{FC1}.bias"))
        .iter()
        .zip(&weights[2].2)
        .map(|(bias, own)| f64::from(*bias) + 2.0 * f64::from(*own))
        .collect();
    assert_near(&values(&trained, "visual.transformer.resblocks.0.mlp.c_fc.bias"), &bias);
    let name = "visual.transformer.resblocks.0.attn.in_proj_bias";
    assert_eq!(values(&trained, name)[..w], weights[3].2);
    assert_eq!(values(&trained, name)[w..], values(&base, name)[w..]);
    assert_eq!(values(&trained, "visual.ln_post.weight"), weights[4].2);
    let transposed: Vec<f32> = (0..e * w).map(|i| weights[5].2[i % e * w + i / e]).collect();
    assert_eq!(values(&trained, "visual.proj"), transposed);
}

#[test]
fn convolutions_embeddings_and_dora() {
    let [w, m, _] = SIZES;
    let source = tower();
    let (conv, position) = ("vision_model.embeddings.patch_embedding", "vision_model.embeddings.position_embedding");
    let weights = [
        array(&format!("{conv}.lora_A.weight"), &[2, 3, 2, 2], 50),
        array(&format!("{conv}.lora_B.weight"), &[w, 2, 1, 1], 51),
        array(&format!("{position}.lora_embedding_A"), &[2, 5], 52),
        array(&format!("{position}.lora_embedding_B"), &[w, 2], 53),
    ];
    let (_, both) = tuned(r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2}"#, &weights);
    let right = merged(of(&source, &format!("{conv}.weight")), &weights[0].2, &weights[1].2, 12, 1.0);
    assert_near(&values(&both, "visual.conv1.weight"), &right);
    let zeros = vec![0.0; 5 * w];
    let change = merged(&zeros, &weights[2].2, &weights[3].2, 5, 1.0);
    let embedding = of(&source, &format!("{position}.weight"));
    let right: Vec<f64> = (0..5 * w).map(|i| f64::from(embedding[i]) + change[i % w * 5 + i / w]).collect();
    assert_near(&values(&both, "visual.positional_embedding"), &right);

    let mut weights = lora(FC1, m, w, 2, 50).to_vec();
    weights.push(array(&format!("{FC1}.lora_magnitude_vector"), &[m], 55));
    let (_, dora) = tuned(r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": true}"#, &weights);
    let sum = merged(of(&source, &format!("{FC1}.weight")), &weights[0].2, &weights[1].2, w, 2.0);
    let length = |row: usize| sum[row * w..][..w].iter().map(|v| v * v).sum::<f64>().sqrt();
    let right: Vec<f64> = (0..m * w).map(|i| sum[i] * f64::from(weights[2].2[i / w]) / length(i / w)).collect();
    assert_near(&values(&dora, C_FC), &right);
}

/// PEFT adds the change of a `MultiheadAttention`'s output projection twice, when it trains and when it merges.
#[test]
fn attention_as_one_module_is_as_it_was_trained() {
    let [w, ..] = SIZES;
    let (folder, base) = base();
    let module = "visual.transformer.resblocks.0.attn";
    let weights = [lora(module, 3 * w, w, 2, 50), lora(&format!("{module}.base_layer.out_proj"), w, w, 2, 60)].concat();
    adapter(&folder.path().join("a"), r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2}"#, &weights);
    let tuned = Checkpoint::open_tuned(folder.path().join("a"), &base, None).unwrap();
    let right = merged(&values(&base, IN_PROJ), &weights[0].2, &weights[1].2, w, 1.0);
    assert_near(&values(&tuned, IN_PROJ), &right);
    let name = "visual.transformer.resblocks.0.attn.out_proj.weight";
    assert_near(&values(&tuned, name), &merged(&values(&base, name), &weights[2].2, &weights[3].2, w, 2.0));
}

#[test]
fn names_of_wrapped_models_and_of_towers_alone() {
    let [w, m, _] = SIZES;
    let right = merged(
        of(&tower(), &format!("{FC1}.weight")),
        &lora("", m, w, 2, 50)[0].2,
        &lora("", m, w, 2, 50)[1].2,
        w,
        1.0,
    );
    for module in [
        FC1,
        "clip.vision_model.encoder.layers.0.mlp.fc1",
        "a.b.model.visual.transformer.resblocks.0.mlp.c_fc",
        "encoder.layers.0.mlp.fc1",
        "transformer.resblocks.0.mlp.c_fc",
        "blocks.0.mlp.fc1",
        "visual.trunk.blocks.0.mlp.fc1",
    ] {
        let (_, tuned) = tuned(r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2}"#, &lora(module, m, w, 2, 50));
        assert_near(&values(&tuned, C_FC), &right);
    }
}

#[test]
fn a_model_with_its_adapter_is_merged() {
    let [w, m, _] = SIZES;
    let (folder, base) = base();
    let weights = lora(FC1, m, w, 2, 50);
    let mut arrays: Vec<Array> = tower();
    for (name, ..) in &mut arrays {
        let module = if name.starts_with(FC1) { name.replace(".fc1.", ".fc1.base_layer.") } else { name.clone() };
        *name = format!("base_model.model.{module}");
    }
    for (name, shape, values) in &weights {
        let name = name.replace(".weight", ".default.weight");
        arrays.push((format!("base_model.model.{name}"), shape.clone(), values.clone()));
    }
    let path = folder.path().join("unmerged/model.safetensors");
    fs::create_dir(path.parent().unwrap()).unwrap();
    write(&path, &arrays);
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("`adapter_config.json`"), "{error}");
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 8}"#;
    fs::write(path.with_file_name("adapter_config.json"), config).unwrap();
    let right = merged(of(&tower(), &format!("{FC1}.weight")), &weights[0].2, &weights[1].2, w, 4.0);
    for opened in [Checkpoint::open(path.parent().unwrap()), Checkpoint::open_tuned(&path, &base, None)] {
        let opened = opened.unwrap();
        assert_near(&values(&opened, C_FC), &right);
        assert_eq!(opened.len(), base.len());
    }
}

#[track_caller]
fn refused(path: &Path, base: &Checkpoint, kind: ErrorKind, wanted: &[&str]) {
    let error = Checkpoint::open_tuned(path, base, None).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    wanted.iter().for_each(|wanted| assert!(text.contains(wanted), "{text}\nshould say\n{wanted}"));
}

#[test]
fn what_cannot_be_right_is_refused_by_name() {
    let [w, m, _] = SIZES;
    let (folder, base) = base();
    let at = folder.path().join("a");
    let plain = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "openai/clip"}"#;
    let check = |config: &str, weights: &[Array], kind, wanted: &[&str]| {
        adapter(&at, config, weights);
        refused(&at, &base, kind, wanted);
    };
    let good = lora(FC1, m, w, 2, 50);
    check(
        r#"{"peft_type": "IA3"}"#,
        &good,
        ErrorKind::Unsupported,
        &["adapter_config.json", "IA3", "merge_and_unload"],
    );
    check(r#"{"peft_type": "LORA", "r": 3}"#, &good, ErrorKind::Format, &["mlp.fc1", "expected 3, got 2"]);
    check("nonsense", &good, ErrorKind::Format, &["adapter_config.json: not the configuration"]);
    check(plain, &lora(FC1, m, w + 1, 2, 50), ErrorKind::Mismatch, &["mlp.fc1", "do not fit", "[12, 8]", "[2, 9]"]);
    check(plain, &lora("layers.7.fc1", m, w, 2, 50), ErrorKind::Mismatch, &["layers.7.fc1", "no such module"]);
    check(plain, &good[..1], ErrorKind::Format, &["incomplete", "lora_A and lora_B"]);
    let dora = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": true}"#;
    check(dora, &good, ErrorKind::Format, &["mlp.fc1", "`lora_magnitude_vector`"]);
    let extra = |name: &str, shape: &[usize]| [&good[..], &[array(name, shape, 9)]].concat();
    let magnitude = format!("{FC1}.lora_magnitude_vector");
    check(plain, &extra(&magnitude, &[m]), ErrorKind::Format, &["without `use_dora`"]);
    check(dora, &extra(&magnitude, &[m + 1]), ErrorKind::Mismatch, &["expected 12, got 13"]);
    check(plain, &extra(&format!("{FC1}.lora_E"), &[m]), ErrorKind::Unsupported, &["`lora_E`"]);
    check(plain, &extra(&format!("{Q}.ia3_l"), &[w]), ErrorKind::Unsupported, &["another kind than LoRA", "`ia3_l`"]);
    let other = lora(Q, w, w, 2, 60).map(|(name, s, v)| (name.replace(".weight", ".other.weight"), s, v));
    let first = good.clone().map(|(name, s, v)| (name.replace(".weight", ".one.weight"), s, v));
    check(plain, &[first, other].concat(), ErrorKind::Unsupported, &["several adapters", "`one` and `other`"]);
    check(plain, &extra("vision_model.post_layernorm.weight", &[w + 1]), ErrorKind::Mismatch, &["[8]", "[9]"]);

    adapter(&at, plain, &good);
    let error = Checkpoint::open(&at).unwrap_err().to_string();
    assert!(error.contains("a LoRA adapter, which is no model") && error.contains("(openai/clip)"), "{error}");
    write(&at.join("model.safetensors"), &tower());
    refused(&at, &base, ErrorKind::NotFound, &["a whole checkpoint and an adapter", "Name the file"]);
    assert!(Checkpoint::open(&at).is_ok(), "a base is no adapter");
    fs::remove_file(at.join("adapter_config.json")).unwrap();
    refused(&at.join("adapter_model.safetensors"), &base, ErrorKind::NotFound, &["`adapter_config.json`"]);
    fs::write(at.join("adapter_config.json"), plain).unwrap();
    assert!(Checkpoint::open_tuned(at.join("adapter_config.json"), &base, None).is_ok(), "stands for its weights");
}

/// A tower fits twice where the text tower has its sizes: nothing is guessed.
#[test]
fn an_adapter_that_fits_both_towers_is_ambiguous() {
    let [w, m, _] = SIZES;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.safetensors");
    let mut arrays = tower();
    arrays.push(array("token_embedding.weight", &[4, w], 90));
    arrays.push(array("transformer.resblocks.0.mlp.c_fc.weight", &[m, w], 91));
    write(&path, &arrays);
    let base = Checkpoint::open(&path).unwrap();
    let at = folder.path().join("a");
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2}"#;
    adapter(&at, config, &lora("transformer.resblocks.0.mlp.c_fc", m, w, 2, 50));
    refused(&at, &base, ErrorKind::Mismatch, &["fits the image tower and the text tower"]);
    adapter(&at, config, &lora("visual.transformer.resblocks.0.mlp.c_fc", m, w, 2, 50));
    assert!(Checkpoint::open_tuned(&at, &base, None).is_ok());
}
