//! Features of towers that the graph lacks, told by the names of parameters.

use crate::error::{Error, Result};

/// Parts of parameters' names, and the features that a model with such a name has.
const FEATURES: [(&str, &str); 10] = [
    ("visual.layer1.", "a ResNet (the image encoder is no vision transformer)"),
    ("visual.trunk.", "a timm model that is no plain vision transformer as image encoder (ConvNeXt, ViTamin, …)"),
    ("visual.attn_pool.query", "attentional pooling (CoCa)"),
    ("visual.attn_pool.ln_q.", "attentional pooling (CoCa)"),
    ("visual.attn_pool.ln_k.", "attentional pooling (CoCa)"),
    ("visual.attn_pool_contrastive.", "attentional pooling (CoCa)"),
    (".ln_q.", "normalised queries and keys (qk_norm)"),
    (".attn.logit_scale", "scaled cosine attention"),
    (".attn.head_scale", "scaled attention heads"),
    (".ln_attn.", "a norm after attention (scale_attn)"),
];

/// Refuses a model with a feature that would be left out, by the feature's name.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), with the tensor.
pub(super) fn refuse<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    for name in names {
        if let Some((_, feature)) = FEATURES.iter().find(|(part, _)| name.contains(part)) {
            return Err(Error::unsupported(format!("the model has {feature}, which is not built in"))
                .tensor(name)
                .hint("An ONNX export of it can be run: --graph"));
        }
    }
    Ok(())
}
