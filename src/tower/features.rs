//! Features of towers that the graph lacks, told by the names of parameters.

use crate::error::{Error, Result};

/// Parts of parameters' names, and the features that a model with such a name has.
const FEATURES: [(&str, &str); 12] = [
    ("visual.layer1.", "a ResNet (the image encoder is no vision transformer)"),
    ("visual.trunk.", "a timm model as image encoder (SigLIP, ConvNeXt, EVA, …)"),
    ("visual.attn_pool.", "attentional pooling (CoCa)"),
    ("visual.attn_pool_contrastive.", "attentional pooling (CoCa)"),
    (".ls_1.", "LayerScale"),
    (".ls_2.", "LayerScale"),
    (".ln_q.", "normalised queries and keys (qk_norm)"),
    (".attn.logit_scale", "scaled cosine attention"),
    (".attn.head_scale", "scaled attention heads"),
    (".attn.ln_inner.", "a norm within attention (scale_attn_inner)"),
    (".ln_attn.", "a norm after attention (scale_attn)"),
    (".mlp.ln.", "a norm within MLPs (scale_fc)"),
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
