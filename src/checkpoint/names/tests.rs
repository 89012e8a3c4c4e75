use super::*;
use crate::checkpoint::unread::Unread;

fn named(tensors: Vec<(String, Stored)>) -> Result<Named> {
    canonical(tensors, None, Beside::LeaveOut)
}

fn tensors(names: &[&str]) -> Vec<(String, Stored)> {
    let tensor = |i: usize| Tensor::from_f32(&[i as f32, i as f32 + 0.5], &[2, 1], "test").unwrap();
    names.iter().enumerate().map(|(i, &name)| (name.to_owned(), Ok(tensor(i)))).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    canonical(tensors(names), None, Beside::Keep).unwrap().tensors.into_keys().collect()
}

fn error(names: &[&str]) -> String {
    named(tensors(names)).unwrap_err().to_string()
}

#[test]
fn wrappers_are_taken_off_the_whole_model() {
    assert_eq!(names(&["model.visual.proj", "model.logit_scale"]), ["visual.proj", "logit_scale"]);
    assert_eq!(names(&["state_dict.module.model.visual.proj"]), ["visual.proj"]);
    assert_eq!(names(&["n_averaged", "module.visual.proj"]), ["n_averaged", "visual.proj"]);
    assert_eq!(names(&["model.weight", "model.bias"]), ["weight", "bias"]);
    assert_eq!(names(&["model.weight", "bias"]), ["model.weight", "bias"]);
    assert_eq!(names(&["weight", "bias"]), ["weight", "bias"]);
}

#[test]
fn two_models_are_not_mixed() {
    assert_eq!(
        error(&["model.visual.proj", "ema", "module.visual.conv1.weight"]),
        "two image towers, or one that is wrapped in two ways: got `model.visual.proj` and \
         `module.visual.conv1.weight`. Save the weights of one model"
    );
    assert_eq!(
        error(&["visual.proj", "visual_projection.weight"]),
        "two tensors stand for the same weights: got `visual.proj` and `visual_projection.weight`"
    );
    let pre = ["vision_model.pre_layrnorm.bias", "vision_model.pre_layernorm.bias"];
    assert!(error(&pre).contains("same weights: got `vision_model.pre_layrnorm.bias` and"));
}

#[test]
fn q_k_and_v_become_one() {
    let [k, q, v] = ["k", "q", "v"].map(|x| format!("vision_model.encoder.layers.3.self_attn.{x}_proj.weight"));
    let joined = named(tensors(&[&k, &q, &v])).unwrap().tensors;
    let tensor = joined["visual.transformer.resblocks.3.attn.in_proj_weight"].as_ref().unwrap();
    assert_eq!((joined.len(), tensor.shape()), (1, &[6, 1][..]));
    assert_eq!(*tensor.to_f32().unwrap(), [1., 1.5, 0., 0.5, 2., 2.5], "q, then k, then v");
    assert_eq!(error(&[&k, &v]), format!("tensor `{k}`: attention weights are incomplete: expected beside it `{q}`"));
    let whole = "visual.transformer.resblocks.3.attn.in_proj_weight";
    assert!(error(&[&k, &q, whole, &v]).contains("same weights"));
}

#[test]
fn the_projection_is_transposed() {
    let found = named(tensors(&["visual_projection.weight"])).unwrap().tensors;
    assert_eq!(found["visual.proj"].as_ref().unwrap().shape(), [1, 2]);
}

#[test]
fn unknown_parts_of_the_tower_are_refused() {
    for name in [
        "vision_model.head.attention.in_proj_weight",
        "vision_model.encoder.layers.01.layer_norm1.weight",
        "vision_model.encoder.layers.1.layer_norm1.scale",
        "vision_model.embeddings.patch_embedding.bias",
    ] {
        assert!(error(&[name]).starts_with(&format!("tensor `{name}`: this tensor has no place")));
    }
    assert_eq!(names(&["text_model.final_layer_norm.bias"]), ["text_model.final_layer_norm.bias"]);
}
