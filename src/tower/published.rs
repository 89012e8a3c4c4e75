//! Published towers: values that are known for a shape though the shape does not tell them.

use super::form::TowerForm;
use super::variant::{Activation, ArchHints, Epsilon, Pooling, Positions, Rotary};
use crate::error::Error;

/// Width of an attention head in OpenAI's models, and open_clip's default `head_width`.
pub const HEAD_WIDTH: usize = 64;

/// Widths of published CLIP towers, with their attention heads. Facts of open_clip's and transformers' configurations.
const HEADS: [(usize, &[usize]); 14] = [
    (192, &[3]),
    (256, &[4]),
    (384, &[6]),
    (512, &[8]),
    (640, &[10]),
    (768, &[12]),
    (896, &[14]),
    (1024, &[16]),
    (1152, &[16]),
    (1280, &[16]),
    (1408, &[16]),
    (1536, &[16, 24]),
    (1664, &[16]),
    (1792, &[16]),
];
/// Widths of the published towers that have no norm before the blocks (CLIPA).
const WITHOUT_PRE_NORM: [usize; 3] = [1024, 1280, 1664];

/// The heads of published towers of this width, if they agree.
pub(super) fn published_heads(width: usize) -> Option<usize> {
    match HEADS.iter().find(|(known, _)| *known == width) {
        Some((_, [heads])) => Some(*heads),
        _ => None,
    }
}

/// The heads of published towers of this width, else width / 64, if that is a number of heads and no published tower
/// has another one.
pub(super) fn usual_heads(width: usize) -> Option<usize> {
    let is_disputed = HEADS.iter().any(|(known, heads)| *known == width && heads.len() > 1);
    published_heads(width).or(by_width(width).filter(|_| !is_disputed))
}

/// Whether text towers of this width are published, all with width / 64 heads.
#[cfg(feature = "text")]
pub(super) fn is_published_text(width: usize) -> bool {
    [256, 384, 512, 640, 768, 1024, 1280].contains(&width)
}

/// Width / 64, if that is a number of heads. All published text towers have it.
pub(super) fn by_width(width: usize) -> Option<usize> {
    width.is_multiple_of(HEAD_WIDTH).then_some(width / HEAD_WIDTH)
}

/// The heads of published towers of this form, if they agree: of those of width 1536, DINOv2's is gated and SigLIP 2's
/// pools by attention.
pub(super) fn heads_of(form: &TowerForm) -> Option<usize> {
    match form.width {
        1536 if form.blocks.gated => Some(24),
        1536 if form.has_probe => Some(16),
        width => published_heads(width),
    }
}

/// The pooling that published towers of this form agree on.
pub(super) fn published_pooling(form: &TowerForm) -> Option<Pooling> {
    let is_clipa = !form.pre_norm && !form.patch_bias && WITHOUT_PRE_NORM.contains(&form.width);
    match (form.has_probe, is_clipa) {
        (true, _) => Some(Pooling::Attention),
        (false, true) => Some(Pooling::MeanThenNorm),
        _ => None,
    }
}

/// The values that towers of this form usually have, as far as something is usual.
pub(super) fn usual(form: &TowerForm) -> ArchHints {
    let has_class_token = form.tokens.class && (form.pre_norm || form.patch_bias);
    let pooling = published_pooling(form).or(has_class_token.then_some(Pooling::ClassToken));
    let heads = heads_of(form).or(usual_heads(form.width));
    let (activation, norm_epsilon) = (usual_activation(form), usual_epsilon(form));
    ArchHints { heads, pooling, activation: Some(activation), norm_epsilon: Some(norm_epsilon), grid: None }
}

/// The activation of a tower of this form where nothing tells it: OpenAI's for CLIP's, GELU for the others.
pub(super) fn usual_activation(form: &TowerForm) -> Activation {
    match (form.blocks.gated, form.patch_bias || form.has_probe) {
        (true, _) => Activation::Silu,
        (false, true) => Activation::Gelu,
        (false, false) => Activation::QuickGelu,
    }
}

/// The epsilon of a tower of this form where nothing tells it.
pub(super) fn usual_epsilon(form: &TowerForm) -> Epsilon {
    let is_dinov3 = form.positions == Positions::None;
    if form.patch_bias && !is_dinov3 { Epsilon::SMALL } else { Epsilon::USUAL }
}

/// The rotary positions that published towers of this form have, which no name tells.
pub(super) fn rotary(form: &TowerForm) -> Option<Rotary> {
    if form.positions == Positions::None {
        Some(Rotary::DinoV3)
    } else if form.blocks.attn_norm && form.blocks.gated {
        Some(Rotary::Eva)
    } else if form.has_probe && form.pre_norm && form.has_projection {
        Some(Rotary::PerceptionEncoder)
    } else {
        None
    }
}

/// The heads of a pooling by attention; 0 for as many as a block has.
pub(super) fn pool_heads(form: &TowerForm) -> usize {
    if rotary(form) == Some(Rotary::PerceptionEncoder) { 8 } else { 0 }
}

/// The error for a tower that says nothing of the size of its images.
pub(super) fn unknown_grid() -> Error {
    Error::mismatch("the image encoder has no table of positions, and the size of its images is not told")
        .expected("a config beside the weights")
}

/// The error for heads that were not told and do not follow from the width.
pub(super) fn unknown_heads(width: usize) -> Error {
    let error = Error::invalid("the number of attention heads does not follow from the width");
    let error = match HEADS.iter().find(|(known, heads)| *known == width && heads.len() > 1) {
        Some((_, heads)) => {
            let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
            error.expected(format_args!("it to be told: published towers of width {width} have {}", heads.join(" or ")))
        }
        None => error.expected(format_args!("a width that {HEAD_WIDTH} divides")),
    };
    error.got(width).hint("Give the number of heads (--heads-count), or put the model's config beside the weights")
}

/// The error for pooling that was not told and that nothing tells.
pub(super) fn unknown_pooling() -> Error {
    Error::invalid("the tower has no norm before its blocks, and its pooling is not told")
        .expected("a config beside the weights, or the pooling")
        .hint("Give it (--pooling); CLIPA's towers have mean_then_norm")
}

/// The error where a graph is to be built for an encoder that only a user's graph is known of.
pub(super) fn unbuilt() -> Error {
    Error::unsupported("no graph can be built for this encoder: only a user's graph runs it")
        .hint("Give the graph, exported with the base's weights (--graph), or leave --built-graph out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_widths_have_their_heads() {
        for width in [1152, 1280, 1408, 1664, 1792] {
            assert_eq!((published_heads(width), usual_heads(width)), (Some(16), Some(16)), "{width}");
        }
        assert_eq!((usual_heads(768), usual_heads(320), published_heads(320)), (Some(12), Some(5), None));
        assert_eq!((usual_heads(1536), usual_heads(100)), (None, None));
        assert!(unknown_heads(1536).to_string().contains("16 or 24"));
    }
}
