//! The pooling that a checkpoint's classifier tells of its tower: the transformers library's
//! `CLIPForImageClassification` puts a linear classifier over the mean of the last block's patch tokens, without
//! `ln_post` and projection.

use super::arch::PROJECTION;
use super::variant::Pooling;
use crate::checkpoint::Checkpoint;

pub(crate) const WEIGHT: &str = "classifier.weight";
const CLASS_EMBEDDING: &str = "visual.class_embedding";

/// The pooling of the tower in `checkpoint`, where its own classifier tells: by the names of the transformers library,
/// over as many channels as the tower has, and in the place of the projection.
pub(crate) fn pooling_of(checkpoint: &Checkpoint) -> Option<Pooling> {
    let &[_, length] = checkpoint.get(WEIGHT)?.shape() else { return None };
    let is_as_wide = checkpoint.get(CLASS_EMBEDDING)?.shape() == [length];
    let has_place = checkpoint.naming().is_of_transformers() && checkpoint.get(PROJECTION).is_none();
    (is_as_wide && has_place).then_some(Pooling::PatchMean)
}

/// The note on a tower whose pooling nothing but its classifier tells.
pub(super) fn taken(checkpoint: &Checkpoint) -> String {
    format!(
        "{}: holds `{WEIGHT}` and no projection, and is taken for a CLIPForImageClassification: an embedding is the \
         {} (--pooling)",
        checkpoint.path().display(),
        Pooling::PatchMean
    )
}
