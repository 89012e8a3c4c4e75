//! The pooling that a checkpoint's classifier tells of its tower, by the classes of the transformers library and of
//! timm that have such a classifier.

use super::arch::{CLASS_EMBEDDING, PATCH_BIAS, PROJECTION};
use super::variant::Pooling;
use crate::checkpoint::Checkpoint;

pub(crate) const WEIGHT: &str = "classifier.weight";
/// The second classifier of a distilled DeiT, over the distillation token: in transformers, and in timm.
pub(crate) const OF_DISTILLATION: [&str; 2] = ["distillation_classifier.weight", "head_dist.weight"];

/// The pooling of the tower in `checkpoint`, where its own classifier tells: by the names of the library, over as many
/// channels as the pooling gives, and in the place of the projection.
///
/// | names, and what else there is | what it is over |
/// | --- | --- |
/// | CLIP's, no projection | the mean of the patches as they are |
/// | SigLIP's, no class token | the mean of the normalised patches |
/// | ViT's and DINOv2's, as long as the width | the class token |
/// | DINOv2's, twice as long | the class token beside the mean of the patches |
/// | DeiT's, two classifiers | the class token beside the distillation token |
pub(crate) fn pooling_of(checkpoint: &Checkpoint) -> Option<Pooling> {
    if OF_DISTILLATION.iter().any(|name| checkpoint.get(name).is_some()) {
        return Some(Pooling::ClassAndDistillation);
    }
    let &[_, length] = checkpoint.get(WEIGHT)?.shape() else { return None };
    if !checkpoint.naming().is_of_transformers() || checkpoint.get(PROJECTION).is_some() {
        return None;
    }
    let (token, bias) = (checkpoint.get(CLASS_EMBEDDING), checkpoint.get(PATCH_BIAS));
    let width = token.or(bias)?.shape().first().copied()?;
    match (token.is_some(), bias.is_some()) {
        (true, false) if length == width => Some(Pooling::PatchMean),
        (true, true) if length == width => Some(Pooling::ClassToken),
        (true, true) if length == 2 * width => Some(Pooling::ClassAndMean),
        (false, _) if length == width => Some(Pooling::NormThenMean),
        _ => None,
    }
}

/// The note on a tower whose pooling nothing but its classifier tells.
pub(super) fn taken(checkpoint: &Checkpoint, pooling: Pooling) -> String {
    let class = match pooling {
        Pooling::PatchMean => "CLIPForImageClassification",
        Pooling::NormThenMean => "SiglipForImageClassification",
        Pooling::ClassAndMean => "Dinov2ForImageClassification",
        Pooling::ClassAndDistillation => "distilled DeiT",
        _ => "ViTForImageClassification",
    };
    let held =
        [WEIGHT].into_iter().chain(OF_DISTILLATION).find(|name| checkpoint.get(name).is_some()).unwrap_or(WEIGHT);
    format!(
        "{}: holds `{held}` and no projection, and is taken for a {class}: an embedding is the {pooling} (--pooling)",
        checkpoint.path().display(),
    )
}
