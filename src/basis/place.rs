//! The place of a parameter in its tower, as its canonical name tells: which block, and which kind of layer.

use std::fmt;

/// The kind of layer that a parameter belongs to. Each parameter whose place is known has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// What comes before the blocks: the embeddings of patches, or tokens, and positions.
    Stem,
    /// Attention: what makes queries, keys and values, and puts their sum out; the scale of its branch.
    Attn,
    /// The two or three layers of an MLP; the scale of its branch.
    Mlp,
    /// Layer norms, wherever they stand.
    Norm,
    /// What comes after the blocks: pooling and projection.
    Proj,
}

impl Kind {
    /// All of them, in the order of the tower.
    pub const ALL: [Self; 5] = [Self::Stem, Self::Attn, Self::Mlp, Self::Norm, Self::Proj];

    /// The word for it in expressions.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stem => "stem",
            Self::Attn => "attn",
            Self::Mlp => "mlp",
            Self::Norm => "norm",
            Self::Proj => "proj",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The place of a parameter. Of names that are not those of a tower that is known here, block and kind are `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: Option<usize>,
    pub(super) kind: Option<Kind>,
    pub(super) is_bias: bool,
}

impl Place {
    /// The place of the parameter of this canonical name. Image and text towers name their parts alike.
    pub(super) fn of(name: &str) -> Self {
        let is_bias = name.ends_with(".bias") || name.ends_with("_bias");
        let inner = name.strip_prefix("visual.").or_else(|| name.strip_prefix("text.")).unwrap_or(name);
        let in_block = inner.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.'));
        let (block, kind) = match in_block.and_then(|(n, rest)| Some((n.parse().ok()?, rest))) {
            Some((n, rest)) => (Some(n), of_block(rest)),
            None => (None, of_ends(inner)),
        };
        Self { block, kind, is_bias }
    }
}

fn of_block(rest: &str) -> Option<Kind> {
    let (part, rest) = rest.split_once('.')?;
    match part {
        "ln_1" | "ln_2" => Some(Kind::Norm),
        "attn" | "mlp" if rest.starts_with("ln") => Some(Kind::Norm),
        "attn" | "ls_1" => Some(Kind::Attn),
        "mlp" | "ls_2" => Some(Kind::Mlp),
        _ => None,
    }
}

fn of_ends(name: &str) -> Option<Kind> {
    let is = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    if is(&["ln_", "attn_pool.ln"]) {
        Some(Kind::Norm)
    } else if is(&["conv1.", "class_embedding", "distillation_token", "register_tokens"])
        || is(&["positional_embedding", "token_embedding."])
    {
        Some(Kind::Stem)
    } else if is(&["proj", "attn_pool.", "text_projection"]) {
        Some(Kind::Proj)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_of_a_tower_has_a_kind() {
        for (name, block, kind, is_bias) in [
            ("visual.conv1.weight", None, Kind::Stem, false),
            ("visual.conv1.bias", None, Kind::Stem, true),
            ("visual.class_embedding", None, Kind::Stem, false),
            ("visual.register_tokens", None, Kind::Stem, false),
            ("visual.positional_embedding", None, Kind::Stem, false),
            ("visual.ln_pre.weight", None, Kind::Norm, false),
            ("visual.transformer.resblocks.0.ln_1.bias", Some(0), Kind::Norm, true),
            ("visual.transformer.resblocks.11.attn.in_proj_weight", Some(11), Kind::Attn, false),
            ("visual.transformer.resblocks.11.attn.in_proj_bias", Some(11), Kind::Attn, true),
            ("visual.transformer.resblocks.11.attn.ln_inner.weight", Some(11), Kind::Norm, false),
            ("visual.transformer.resblocks.2.ls_1.gamma", Some(2), Kind::Attn, false),
            ("visual.transformer.resblocks.2.mlp.c_proj.bias", Some(2), Kind::Mlp, true),
            ("visual.transformer.resblocks.2.mlp.ln.bias", Some(2), Kind::Norm, true),
            ("visual.transformer.resblocks.2.ls_2.gamma", Some(2), Kind::Mlp, false),
            ("visual.ln_post.weight", None, Kind::Norm, false),
            ("visual.attn_pool.probe", None, Kind::Proj, false),
            ("visual.attn_pool.ln.weight", None, Kind::Norm, false),
            ("visual.proj", None, Kind::Proj, false),
            ("visual.proj_bias", None, Kind::Proj, true),
            ("token_embedding.weight", None, Kind::Stem, false),
            ("transformer.resblocks.3.mlp.c_fc.weight", Some(3), Kind::Mlp, false),
            ("ln_final.bias", None, Kind::Norm, true),
            ("text_projection", None, Kind::Proj, false),
        ] {
            assert_eq!(Place::of(name), Place { block, kind: Some(kind), is_bias }, "{name}");
        }
        for name in ["logit_scale", "stages.0.blocks.1.norm.weight", "visual.trunk.stem.conv.weight"] {
            assert_eq!(Place::of(name), Place { block: None, kind: None, is_bias: false }, "{name}");
        }
    }
}
