//! The names of a tower in the transformers library and in open_clip.

use crate::error::{Error, Result};

/// The names of one tower in the transformers library and in open_clip.
pub(super) struct Scheme {
    /// The prefix of its names.
    root: &'static str,
    /// The names outside the layers.
    outside: &'static [(&'static str, &'static str)],
    /// The prefixes of layers' names, in the spellings that there are.
    layers: (&'static [&'static str], &'static str),
    /// The projection: `nn.Linear` holds [out, in], open_clip has [in, out].
    projection: (&'static str, &'static str),
    /// The word for it in errors.
    what: &'static str,
}

/// The image tower. `pre_layrnorm` is how the library spells it. Since its version 5 AltCLIP's layers lie in `layer`.
pub(super) const IMAGE: Scheme = Scheme {
    root: "vision_model.",
    outside: &[
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        ("vision_model.pre_layrnorm.weight", "visual.ln_pre.weight"),
        ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias"),
        ("vision_model.pre_layernorm.weight", "visual.ln_pre.weight"),
        ("vision_model.pre_layernorm.bias", "visual.ln_pre.bias"),
        ("vision_model.post_layernorm.weight", "visual.ln_post.weight"),
        ("vision_model.post_layernorm.bias", "visual.ln_post.bias"),
    ],
    layers: (&["vision_model.encoder.layers.", "vision_model.encoder.layer."], "visual.transformer.resblocks."),
    projection: ("visual_projection.weight", "visual.proj"),
    what: "image tower",
};

pub(super) const TEXT: Scheme = Scheme {
    root: "text_model.",
    outside: &[
        ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm.weight", "ln_final.weight"),
        ("text_model.final_layer_norm.bias", "ln_final.bias"),
    ],
    layers: (&["text_model.encoder.layers."], "transformer.resblocks."),
    projection: ("text_projection.weight", "text_projection"),
    what: "text tower",
};

/// The modules of a layer, `weight` and `bias` alike.
const LAYER: [(&str, &str); 5] = [
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
];

/// The place of a source tensor among the canonical ones.
pub(crate) enum Place {
    /// Under this name, as it is.
    Whole(String),
    /// Under this name, transposed: `nn.Linear` holds [out, in], open_clip's `proj` is [in, out].
    Transposed(String),
    /// Under this name, without leading extents of 1, down to this number of extents.
    Squeezed(String, usize),
    /// A third of the tensor of this name: 0 = q, 1 = k, 2 = v, as rows in this order.
    Third(String, usize),
}

impl Place {
    /// The canonical name of the tensor that it goes into.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Whole(name) | Self::Transposed(name) | Self::Squeezed(name, _) | Self::Third(name, _) => name,
        }
    }
}

/// The letters of the thirds of attention weights, in the order in which they are joined.
pub(super) const THIRDS: [&str; 3] = ["q", "k", "v"];

/// The place of the tensor of this name, which is without what is before the model's own.
pub(super) fn place(name: &str, scheme: &Scheme) -> Result<Place> {
    if name == scheme.projection.0 {
        return Ok(Place::Transposed(scheme.projection.1.to_owned()));
    }
    let Some(rest) = name.strip_prefix(scheme.root) else { return Ok(Place::Whole(name.to_owned())) };
    // A counter that old versions of the library saved with the weights.
    if rest == "embeddings.position_ids" {
        return Ok(Place::Whole(name.to_owned()));
    }
    if let Some((_, canonical)) = scheme.outside.iter().find(|(theirs, _)| *theirs == name) {
        return Ok(Place::Whole((*canonical).to_owned()));
    }
    layer(name, scheme).ok_or_else(|| {
        Error::unsupported(format!("this tensor has no place in CLIP's {}", scheme.what))
            .tensor(name)
            .hint("Only CLIP's own transformers are supported")
    })
}

/// A name of the form `vision_model.encoder.layers.{i}.{module}.{weight|bias}`.
fn layer(name: &str, scheme: &Scheme) -> Option<Place> {
    let (theirs, ours) = scheme.layers;
    let (index, rest) = theirs.iter().find_map(|theirs| name.strip_prefix(theirs))?.split_once('.')?;
    // The digits alone, so that `+1` or `01` is not taken for a second layer 1.
    if index.parse::<u32>().ok()?.to_string() != index {
        return None;
    }
    let (module, kind) = rest.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    let block = format!("{ours}{index}");
    if let Some((_, ours)) = LAYER.iter().find(|(theirs, _)| *theirs == module) {
        return Some(Place::Whole(format!("{block}.{ours}.{kind}")));
    }
    let letter = module.strip_prefix("self_attn.")?.strip_suffix("_proj")?;
    let third = THIRDS.iter().position(|third| *third == letter)?;
    Some(Place::Third(format!("{block}.attn.in_proj_{kind}"), third))
}
