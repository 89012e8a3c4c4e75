//! The names of CLIP's image towers in timm: its vision transformers `vit_…_clip_…`.

use super::scheme::Place;
use crate::checkpoint::unread_type::Stored;
use crate::error::{Error, Result};

/// The names outside the blocks that keep their shape.
const OUTSIDE: [(&str, &str); 5] = [
    ("patch_embed.proj.weight", "visual.conv1.weight"),
    ("norm_pre.weight", "visual.ln_pre.weight"),
    ("norm_pre.bias", "visual.ln_pre.bias"),
    ("norm.weight", "visual.ln_post.weight"),
    ("norm.bias", "visual.ln_post.bias"),
];

/// The modules of a block, `weight` and `bias` alike.
const BLOCK: [(&str, &str); 6] = [
    ("norm1.", "ln_1."),
    ("norm2.", "ln_2."),
    ("attn.qkv.", "attn.in_proj_"),
    ("attn.proj.", "attn.out_proj."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
];

/// The classes of ImageNet, which no embedding is as long as.
const IMAGENET: usize = 1_000;

/// The tensor in the place of the projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimmHead {
    /// `head.weight` is the projection, transposed, and `head.bias` is zero: so timm converts CLIP's towers.
    Projection,
    /// A classifier, over this number of classes.
    Classifier(usize),
}

impl TimmHead {
    /// The kind of a tower's `head`; without one, the projection.
    pub(super) fn of(weight: Option<&Stored>, bias: Option<&Stored>) -> Self {
        let rows = weight.and_then(|weight| weight.as_ref().ok()?.shape().first().copied()).unwrap_or(0);
        let is_zero = bias.is_none_or(|bias| bias.as_ref().is_ok_and(|bias| bias.is_zero()));
        if rows == IMAGENET || !is_zero { Self::Classifier(rows) } else { Self::Projection }
    }
}

/// The place of the tensor of this name; `None` for the zero bias that timm puts beside the projection.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a parameter that CLIP's towers do not have.
pub(super) fn place(name: &str, head: TimmHead) -> Result<Option<Place>> {
    let place = match (name, head) {
        ("cls_token", _) => Place::Squeezed("visual.class_embedding".into(), 1),
        ("pos_embed", _) => Place::Squeezed("visual.positional_embedding".into(), 2),
        ("head.weight", TimmHead::Projection) => Place::Transposed("visual.proj".into()),
        ("head.bias", TimmHead::Projection) => return Ok(None),
        ("head.weight" | "head.bias", TimmHead::Classifier(_)) => Place::Whole(name.to_owned()),
        _ => match OUTSIDE.iter().find(|(theirs, _)| *theirs == name) {
            Some((_, ours)) => Place::Whole((*ours).to_owned()),
            None => Place::Whole(block(name).ok_or_else(|| unknown(name))?),
        },
    };
    Ok(Some(place))
}

/// A name of the form `blocks.{i}.{module}.{weight|bias}`, as open_clip has it.
fn block(name: &str) -> Option<String> {
    let (index, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    if index.parse::<u32>().ok()?.to_string() != index {
        return None;
    }
    let (ours, kind) = BLOCK.iter().find_map(|(theirs, ours)| Some((*ours, rest.strip_prefix(theirs)?)))?;
    matches!(kind, "weight" | "bias").then(|| format!("visual.transformer.resblocks.{index}.{ours}{kind}"))
}

fn unknown(name: &str) -> Error {
    Error::unsupported("this tensor, by timm's names, has no place in CLIP's image tower")
        .tensor(name)
        .hint("Of timm's models, only the towers of CLIP (vit_…_clip_…) are supported")
}
