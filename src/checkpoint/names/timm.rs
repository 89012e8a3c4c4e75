//! The names of vision transformers in timm, which are DINOv2's own too: CLIP's, SigLIP's, EVA-02's and the Perception
//! Encoder's image towers, DINOv2 and DINOv3, and classifiers.

use super::place::{Part, Place};
use super::table::{As, Table};
use crate::checkpoint::unread_type::Stored;
use crate::error::{Error, Result};

const TABLE: Table = Table {
    outside: &[
        ("cls_token", As::Squeezed("visual.class_embedding", 1)),
        ("dist_token", As::Squeezed("visual.distillation_token", 1)),
        ("reg_token", As::Squeezed("visual.register_tokens", 2)),
        ("register_tokens", As::Squeezed("visual.register_tokens", 2)),
        ("storage_tokens", As::Squeezed("visual.register_tokens", 2)),
        ("pos_embed", As::Squeezed("visual.positional_embedding", 2)),
        ("patch_embed.proj.", As::Same("visual.conv1.")),
        // Of training, and a table that follows from the architecture.
        ("mask_token", As::Kept),
        ("rope_embed.periods", As::Kept),
        ("norm_pre.", As::Same("visual.ln_pre.")),
        ("norm.", As::Same("visual.ln_post.")),
        // The same norm, behind the mean of the patches.
        ("fc_norm.", As::Same("visual.ln_post.")),
        ("attn_pool.latent", As::Squeezed("visual.attn_pool.probe", 1)),
        ("attn_pool.q.", As::Part("visual.attn_pool.attn.in_proj_", Part::Query)),
        ("attn_pool.kv.", As::Part("visual.attn_pool.attn.in_proj_", Part::KeyValue)),
        ("attn_pool.proj.", As::Same("visual.attn_pool.attn.out_proj.")),
        ("attn_pool.norm.", As::Same("visual.attn_pool.ln_2.")),
        ("attn_pool.mlp.fc1.", As::Same("visual.attn_pool.mlp.c_fc.")),
        ("attn_pool.mlp.fc2.", As::Same("visual.attn_pool.mlp.c_proj.")),
    ],
    blocks: &["blocks."],
    canonical_blocks: "visual.transformer.resblocks.",
    block: &[
        ("norm1.", As::Same("ln_1.")),
        ("norm2.", As::Same("ln_2.")),
        ("attn.qkv.", As::Same("attn.in_proj_")),
        ("attn.q_proj.", As::Part("attn.in_proj_", Part::Query)),
        ("attn.k_proj.", As::Part("attn.in_proj_", Part::Key)),
        ("attn.v_proj.", As::Part("attn.in_proj_", Part::Value)),
        ("attn.q_bias", As::Part("attn.in_proj_bias", Part::Query)),
        ("attn.k_bias", As::Part("attn.in_proj_bias", Part::Key)),
        ("attn.v_bias", As::Part("attn.in_proj_bias", Part::Value)),
        ("attn.norm.", As::Same("attn.ln_inner.")),
        ("attn.proj.", As::Same("attn.out_proj.")),
        ("ls1.gamma", As::Same("ls_1.gamma")),
        ("gamma_1", As::Same("ls_1.gamma")),
        ("mlp.fc1.", As::Same("mlp.c_fc.")),
        ("mlp.fc2.", As::Same("mlp.c_proj.")),
        ("mlp.fc1_g.", As::Part("mlp.c_fc.", Part::Gate)),
        ("mlp.fc1_x.", As::Part("mlp.c_fc.", Part::Up)),
        ("mlp.w12.", As::Same("mlp.c_fc.")),
        ("mlp.w3.", As::Same("mlp.c_proj.")),
        ("mlp.norm.", As::Same("mlp.ln.")),
        ("ls2.gamma", As::Same("ls_2.gamma")),
        ("gamma_2", As::Same("ls_2.gamma")),
    ],
};

/// The classes of ImageNet, which no embedding is as long as.
const IMAGENET: usize = 1_000;

/// The tensor in the place of the projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimmHead {
    /// `head.weight` is the projection, transposed. Where `has_bias`, `head.bias` is one; else it is zero: so timm
    /// converts CLIP's towers.
    Projection { has_bias: bool },
    /// A classifier, over this number of classes.
    Classifier(usize),
}

impl TimmHead {
    /// The kind of a tower's `head`; without one, the projection. Within open_clip's models, `is_of_clip`, it is never
    /// a classifier.
    pub(super) fn of(weight: Option<&Stored>, bias: Option<&Stored>, is_of_clip: bool) -> Self {
        let rows = weight.and_then(|weight| weight.as_ref().ok()?.shape().first().copied()).unwrap_or(0);
        let is_zero = bias.is_none_or(|bias| bias.as_ref().is_ok_and(|bias| bias.is_zero()));
        match (is_of_clip, rows == IMAGENET || !is_zero) {
            (false, true) => Self::Classifier(rows),
            _ => Self::Projection { has_bias: is_of_clip && bias.is_some() },
        }
    }
}

/// The place of the tensor of this name, which is `full` in the model; `None` for the zero bias that timm puts beside
/// the projection.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a parameter that these towers do not have.
pub(super) fn place(name: &str, full: &str, head: TimmHead) -> Result<Option<Place>> {
    Ok(match (name, head) {
        ("head.weight", TimmHead::Projection { .. }) => Some(Place::Transposed("visual.proj".into())),
        ("head.bias", TimmHead::Projection { has_bias: true }) => Some(Place::Whole("visual.proj_bias".into())),
        ("head.bias", TimmHead::Projection { has_bias: false }) => None,
        ("head.weight" | "head.bias" | "head_dist.weight" | "head_dist.bias", _) => Some(Place::Whole(full.to_owned())),
        _ => Some(TABLE.place(name, full).ok_or_else(|| unknown(full))?),
    })
}

fn unknown(name: &str) -> Error {
    Error::unsupported("this tensor, by timm's names, has no place in the vision transformers that are read")
        .tensor(name)
        .hint("An ONNX export of another model can be run: --graph")
}
