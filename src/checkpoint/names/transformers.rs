//! The names of towers in the transformers library: CLIP's and SigLIP's, and those of its vision transformers (ViT,
//! DeiT, DINOv2, DINOv3), as the library saves them and as its version 5 has them in memory.

use super::place::{Part, Place};
use super::table::{As, Table};
use crate::error::{Error, Result};

/// The names of one of CLIP's towers, within a model.
pub(super) struct Scheme {
    /// The prefix of its names.
    root: &'static str,
    table: Table,
    /// The projection, which lies outside.
    projection: (&'static str, &'static str),
    /// The word for it in errors.
    what: &'static str,
}

/// The modules of a layer.
const LAYER: &[(&str, As)] = &[
    ("layer_norm1.", As::Same("ln_1.")),
    ("layer_norm2.", As::Same("ln_2.")),
    ("self_attn.q_proj.", As::Part("attn.in_proj_", Part::Query)),
    ("self_attn.k_proj.", As::Part("attn.in_proj_", Part::Key)),
    ("self_attn.v_proj.", As::Part("attn.in_proj_", Part::Value)),
    ("self_attn.out_proj.", As::Same("attn.out_proj.")),
    ("mlp.fc1.", As::Same("mlp.c_fc.")),
    ("mlp.fc2.", As::Same("mlp.c_proj.")),
];

/// The image tower. `pre_layrnorm` is how the library spells it. Since its version 5 AltCLIP's layers lie in `layer`.
/// What lies in `head` is SigLIP's.
pub(super) const IMAGE: Scheme = Scheme {
    root: "vision_model.",
    table: Table {
        outside: &[
            ("embeddings.class_embedding", As::Same("visual.class_embedding")),
            ("embeddings.patch_embedding.", As::Same("visual.conv1.")),
            ("embeddings.position_embedding.weight", As::Same("visual.positional_embedding")),
            // A counter that old versions of the library saved with the weights.
            ("embeddings.position_ids", As::Kept),
            ("pre_layrnorm.", As::Same("visual.ln_pre.")),
            ("pre_layernorm.", As::Same("visual.ln_pre.")),
            ("post_layernorm.", As::Same("visual.ln_post.")),
            ("head.probe", As::Squeezed("visual.attn_pool.probe", 1)),
            ("head.attention.in_proj_weight", As::Same("visual.attn_pool.attn.in_proj_weight")),
            ("head.attention.in_proj_bias", As::Same("visual.attn_pool.attn.in_proj_bias")),
            ("head.attention.out_proj.", As::Same("visual.attn_pool.attn.out_proj.")),
            ("head.layernorm.", As::Same("visual.attn_pool.ln_2.")),
            ("head.mlp.fc1.", As::Same("visual.attn_pool.mlp.c_fc.")),
            ("head.mlp.fc2.", As::Same("visual.attn_pool.mlp.c_proj.")),
        ],
        blocks: &["encoder.layers.", "encoder.layer."],
        canonical_blocks: "visual.transformer.resblocks.",
        block: LAYER,
    },
    projection: ("visual_projection.weight", "visual.proj"),
    what: "CLIP's and SigLIP's image towers",
};

pub(super) const TEXT: Scheme = Scheme {
    root: "text_model.",
    table: Table {
        outside: &[
            ("embeddings.token_embedding.weight", As::Same("token_embedding.weight")),
            ("embeddings.position_embedding.weight", As::Same("positional_embedding")),
            ("embeddings.position_ids", As::Kept),
            ("final_layer_norm.", As::Same("ln_final.")),
        ],
        blocks: &["encoder.layers."],
        canonical_blocks: "transformer.resblocks.",
        block: LAYER,
    },
    projection: ("text_projection.weight", "text_projection"),
    what: "CLIP's text tower",
};

/// The place of the tensor of this name, which is without what is before the model's own.
pub(super) fn place(name: &str, scheme: &Scheme) -> Result<Place> {
    if name == scheme.projection.0 {
        return Ok(Place::Transposed(scheme.projection.1.to_owned()));
    }
    let Some(rest) = name.strip_prefix(scheme.root) else { return Ok(Place::Whole(name.to_owned())) };
    scheme.table.place(rest, name).ok_or_else(|| {
        Error::unsupported(format!("this tensor has no place in {}", scheme.what))
            .tensor(name)
            .hint("An ONNX export of another model can be run: --graph")
    })
}

/// The prefixes of the vision transformers' names within a model that has a classifier or the like beside them.
pub(super) const VIT_ROOTS: [(&str, &str); 5] = [
    ("vit", "vit."),
    ("deit", "deit."),
    ("dinov2", "dinov2."),
    ("dinov2_with_registers", "dinov2_with_registers."),
    ("dinov3_vit", "dinov3_vit."),
];

/// The library's vision transformers.
const VIT: Table = Table {
    outside: &[
        ("embeddings.cls_token", As::Squeezed("visual.class_embedding", 1)),
        ("embeddings.distillation_token", As::Squeezed("visual.distillation_token", 1)),
        ("embeddings.register_tokens", As::Squeezed("visual.register_tokens", 2)),
        ("embeddings.position_embeddings", As::Squeezed("visual.positional_embedding", 2)),
        ("embeddings.patch_embeddings.projection.", As::Same("visual.conv1.")),
        ("embeddings.patch_embeddings.", As::Same("visual.conv1.")),
        // Of training, and of a pooling that no classifier takes.
        ("embeddings.mask_token", As::Kept),
        ("pooler.dense.", As::Kept),
        ("layernorm.", As::Same("visual.ln_post.")),
        ("norm.", As::Same("visual.ln_post.")),
    ],
    blocks: &["encoder.layer.", "layers.", "layer.", "model.layer."],
    canonical_blocks: "visual.transformer.resblocks.",
    block: &[
        ("layernorm_before.", As::Same("ln_1.")),
        ("norm1.", As::Same("ln_1.")),
        ("attention.attention.query.", As::Part("attn.in_proj_", Part::Query)),
        ("attention.attention.key.", As::Part("attn.in_proj_", Part::Key)),
        ("attention.attention.value.", As::Part("attn.in_proj_", Part::Value)),
        ("attention.output.dense.", As::Same("attn.out_proj.")),
        ("attention.q_proj.", As::Part("attn.in_proj_", Part::Query)),
        ("attention.k_proj.", As::Part("attn.in_proj_", Part::Key)),
        ("attention.v_proj.", As::Part("attn.in_proj_", Part::Value)),
        ("attention.o_proj.", As::Same("attn.out_proj.")),
        ("layer_scale1.lambda1", As::Same("ls_1.gamma")),
        ("layernorm_after.", As::Same("ln_2.")),
        ("norm2.", As::Same("ln_2.")),
        ("intermediate.dense.", As::Same("mlp.c_fc.")),
        ("output.dense.", As::Same("mlp.c_proj.")),
        ("mlp.fc1.", As::Same("mlp.c_fc.")),
        ("mlp.fc2.", As::Same("mlp.c_proj.")),
        ("mlp.weights_in.", As::Same("mlp.c_fc.")),
        ("mlp.weights_out.", As::Same("mlp.c_proj.")),
        ("mlp.gate_proj.", As::Part("mlp.c_fc.", Part::Gate)),
        ("mlp.up_proj.", As::Part("mlp.c_fc.", Part::Up)),
        ("mlp.down_proj.", As::Same("mlp.c_proj.")),
        ("layer_scale2.lambda1", As::Same("ls_2.gamma")),
    ],
};

/// The place of the tensor of this name within a vision transformer; `full` is its name in the model. `has_gate` is
/// whether MLPs have one: without it `up_proj` is the whole first layer.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a parameter that they do not have.
pub(super) fn vit_place(name: &str, full: &str, has_gate: bool) -> Result<Place> {
    match VIT.place(name, full) {
        Some(Place::Part(ours, Part::Up)) if !has_gate => Ok(Place::Whole(ours)),
        Some(place) => Ok(place),
        None => Err(Error::unsupported("this tensor has no place in the vision transformers that are read")
            .tensor(full)
            .hint("Read are ViT, DeiT, DINOv2 and DINOv3; an ONNX export of another model can be run: --graph")),
    }
}
