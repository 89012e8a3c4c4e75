//! Published towers: values that are known for a shape though the shape does not tell them.

use super::variant::{ArchHints, Pooling};
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

/// The pooling that published towers of this form agree on.
pub(super) fn published_pooling(width: usize, pre_norm: bool) -> Option<Pooling> {
    (!pre_norm && WITHOUT_PRE_NORM.contains(&width)).then_some(Pooling::MeanThenNorm)
}

/// The values that towers of this form usually have, as far as something is usual.
pub(super) fn usual(width: usize, pre_norm: bool) -> ArchHints {
    let pooling = published_pooling(width, pre_norm).or(pre_norm.then_some(Pooling::ClassToken));
    ArchHints { heads: usual_heads(width), pooling, ..ArchHints::default() }
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
