//! The kinds of models without a CLIP image tower, told by their names.

use super::towers::without_infixes;

/// Something that is known by its names, and is no image tower of CLIP.
struct Kind {
    /// The marks of which some name has one in it.
    has: &'static [&'static str],
    what: &'static str,
    /// Whether a user's graph may run it all the same.
    is_encoder: bool,
}

/// The known kinds, of which the first with one of its marks counts.
const KINDS: [Kind; 9] = [
    Kind {
        has: &["head.probe", "embeddings.patch_embedding.bias", "attn_pool.latent", "attn_pool.kv."],
        what: "a part of a SigLIP tower",
        is_encoder: false,
    },
    Kind { has: &["layer_scale1.lambda1", ".ls1.gamma"], what: "a part of a DINOv2 tower", is_encoder: false },
    Kind {
        has: &["embeddings.patch_embeddings.projection."],
        what: "a part of a vision transformer, by the transformers library's names",
        is_encoder: false,
    },
    Kind {
        has: &["attn_pool.query", "attn_pool.ln_q."],
        what: "CoCa, whose attentional pooling is not read",
        is_encoder: true,
    },
    Kind {
        has: &["patch_embed.backbone.", "patch_embed.conv1."],
        what: "a vision transformer with a stem of several convolutions (MobileCLIP-B, ViTamin, …), which is not read",
        is_encoder: true,
    },
    Kind { has: &["layer1.0.conv1.weight"], what: "a ResNet: only vision transformers are read", is_encoder: true },
    Kind { has: &[".lora_A.", ".lora_B."], what: "a LoRA adapter, not the model that it adapts", is_encoder: false },
    Kind { has: &["text_model.", "token_embedding.weight"], what: "a text tower alone", is_encoder: false },
    Kind { has: &["down_blocks.", "quant_conv."], what: "a part of a diffusion model", is_encoder: false },
];

/// The kind of a model with parameters of these names, if it is known and no tower that is read; and whether a user's
/// graph may run it.
pub(super) fn known<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<(&'static str, bool)> {
    let has = |name: &str, mark: &str| {
        let name = without_infixes(name);
        match mark.strip_prefix('.') {
            Some(_) => name.contains(mark),
            // At the beginning of a module's or parameter's name.
            None => name.match_indices(mark).any(|(at, _)| at == 0 || name.as_bytes()[at - 1] == b'.'),
        }
    };
    let is = |kind: &&Kind| names.clone().any(|name| kind.has.iter().any(|mark| has(name, mark)));
    KINDS.iter().find(is).map(|kind| (kind.what, kind.is_encoder))
}
