//! The names of a graph's values: which of them are a state dict's, and what modules they tell of.

/// Parameters that are of no module within the model.
const BARE: [&str; 10] = [
    "cls_token",
    "class_embedding",
    "pos_embed",
    "positional_embedding",
    "position_embeddings",
    "reg_token",
    "register_tokens",
    "mask_token",
    "logit_scale",
    "proj",
];

/// Whether a constant's name is a parameter's: words with dots between them, as a state dict has, not
/// `onnx::MatMul_123`, `/blocks.0/Constant_output_0` or `val_7`.
pub(super) fn is_given(name: &str) -> bool {
    let is_word = |word: &str| {
        let starts_well = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        starts_well && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let is_index = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    match name.rsplit_once('.') {
        None => BARE.contains(&name),
        Some((module, last)) => is_word(last) && module.split('.').all(|word| is_word(word) || is_index(word)),
    }
}

/// The parameter that is called like this one, but for the word `own` at its end, with `other` in that word's place:
/// of `fc1.bias` the `fc1.weight`, of `attn.in_proj_bias` the `attn.in_proj_weight`.
pub(super) fn sibling(name: &str, own: &str, other: &str) -> Option<String> {
    let stem = name.strip_suffix(own)?;
    let is_whole = stem.ends_with('.') || (own == "bias" && stem.ends_with(".in_proj_"));
    (is_whole && is_given(name)).then(|| format!("{stem}{other}"))
}

/// The module that makes a value, as torch.onnx writes it down: of `/blocks/blocks.0/attn/qkv/MatMul_output_0` it is
/// `blocks.0.attn.qkv`.
pub(super) fn module_of(value: &str) -> Option<String> {
    let (scopes, _) = value.strip_prefix('/')?.rsplit_once('/')?;
    let mut words: Vec<&str> = Vec::new();
    for scope in scopes.split('/') {
        // A member of a list has the list's name before its own.
        if words.last().is_some_and(|last| scope.strip_prefix(last).is_some_and(|rest| rest.starts_with('.'))) {
            words.pop();
        }
        words.push(scope);
    }
    let module = words.join(".");
    is_given(&format!("{module}.weight")).then_some(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_state_dicts_are_told_from_made_up_ones() {
        for name in ["blocks.0.attn.qkv.weight", "cls_token", "encoder.layer.11.layer_scale1.lambda1", "0.bias"] {
            assert!(is_given(name), "{name}");
        }
        for name in
            ["onnx::MatMul_12", "/a/b/Constant_output_0", "val_7", "12", "", "a..b", "x.0", "kernel:0", "expand"]
        {
            assert!(!is_given(name), "{name}");
        }
    }

    #[test]
    fn siblings_and_modules_are_found() {
        assert_eq!(sibling("mlp.fc1.bias", "bias", "weight").as_deref(), Some("mlp.fc1.weight"));
        assert_eq!(sibling("attn.in_proj_bias", "bias", "weight").as_deref(), Some("attn.in_proj_weight"));
        assert_eq!(sibling("attn.rel_bias", "bias", "weight"), None);
        assert_eq!(sibling("onnx::Add_1.bias", "bias", "weight"), None);
        let module = |value| module_of(value).unwrap_or_default();
        assert_eq!(module("/blocks/blocks.0/attn/qkv/MatMul_output_0"), "blocks.0.attn.qkv");
        assert_eq!(module("/encoder/layer.3/key/MatMul_output_0"), "encoder.layer.3.key");
        assert_eq!(module("/MatMul_output_0"), "");
        assert_eq!(module("linear_3"), "");
    }
}
