//! The architecture of a CLIP text transformer, read off the shapes of its parameters.

use std::fmt;

use crate::error::{Error, Result};
use crate::tower::arch::{Activation, ArchHints, Epsilon};
use crate::tower::shapes::{self, MAX_EXTENT, MAX_LAYERS, Shapes};
use crate::tower::variant::BlockForm;
use crate::tower::{features, published};

pub(super) const TOKEN_EMBEDDING: &str = "token_embedding.weight";
pub(super) const POSITIONAL_EMBEDDING: &str = "positional_embedding";
pub(super) const PROJECTION: &str = "text_projection";
pub(super) const BLOCKS: &str = "transformer.resblocks.";

pub(super) const PROJECTION_BIAS: &str = "text_projection.bias";

/// The form of a text tower, which its parameters tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TextForm {
    /// CLIP's: no token sees one after it, the state of each text's end is projected, without a bias.
    #[default]
    Clip,
    /// SigLIP's: every token sees every other, padding up to the context length included; the state of the last of them
    /// is projected, with a bias.
    Siglip,
}

impl TextForm {
    /// The values that towers of this form have where nothing says otherwise.
    pub(crate) fn usual(self, width: usize) -> ArchHints {
        let (activation, epsilon, heads) = match self {
            Self::Clip => (Activation::QuickGelu, Epsilon::USUAL, None),
            Self::Siglip => (Activation::GeluTanh, Epsilon::SMALL, published::published_heads(width)),
        };
        ArchHints {
            heads: heads.or(published::by_width(width)),
            activation: Some(activation),
            norm_epsilon: Some(epsilon),
            ..ArchHints::default()
        }
    }
}

/// The architecture of a transformer over tokens, one of whose states is projected: everything its graph depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TextArch {
    /// Number of tokens that have an embedding.
    pub vocabulary: usize,
    /// The longest sequence, in tokens; CLIP's is 77, SigLIP's 64.
    pub context: usize,
    /// Channels of the residual stream, `w`.
    pub width: usize,
    /// Number of residual blocks.
    pub layers: usize,
    /// Attention heads per block; they share `width` evenly.
    pub heads: usize,
    /// Width of the MLPs' hidden layer; 4·w in published models.
    pub mlp_width: usize,
    /// Length of an embedding, `e`: as the image encoder's.
    pub embed_dim: usize,
    /// The activation of the MLPs.
    pub activation: Activation,
    /// The number that every `LayerNorm` adds to the variance.
    pub norm_epsilon: Epsilon,
    /// What tokens see, and which of them is projected.
    pub form: TextForm,
}

impl TextArch {
    /// The architecture that parameters of these names (as
    /// [`text_tower`](crate::checkpoint::names::text_tower) gives them) and shapes belong to; all of them have to be
    /// used.
    ///
    /// # Errors
    /// As [`Arch::infer`](crate::Arch::infer).
    pub fn infer<'a>(shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>, hints: ArchHints) -> Result<Self> {
        let tower = Shapes { what: "text encoder", shapes: shapes.into_iter().collect() };
        if !tower.shapes.contains_key(TOKEN_EMBEDDING) {
            return Err(Error::mismatch("holds no text encoder")
                .expected(format_args!("a tensor named `{TOKEN_EMBEDDING}`"))
                .got(format_args!("{} tensors of other names", tower.shapes.len()))
                .hint("Give the whole CLIP model; a checkpoint of the image encoder alone is not enough"));
        }
        features::refuse(tower.shapes.keys().copied())?;
        let matrix = |name: &str, form: &str| match *tower.get(name)? {
            [rows, columns] => Ok([rows, columns]),
            ref other => Err(Error::mismatch("not a matrix")
                .tensor(name)
                .expected(format_args!("shape {form}"))
                .got(format_args!("{other:?}"))),
        };
        let [vocabulary, width] = matrix(TOKEN_EMBEDDING, "[vocabulary, width]")?;
        let [context, _] = matrix(POSITIONAL_EMBEDDING, "[context, width]")?;
        let [_, embed_dim] = matrix(PROJECTION, "[width, embedding]")?;
        let form = if tower.shapes.contains_key(PROJECTION_BIAS) { TextForm::Siglip } else { TextForm::Clip };
        let known = hints.or(form.usual(width));
        let arch = Self {
            vocabulary,
            context,
            width,
            layers: tower.layers(BLOCKS)?,
            heads: known.heads.ok_or_else(|| published::unknown_heads(width))?,
            mlp_width: tower.mlp_width(BLOCKS, width)?,
            embed_dim,
            activation: known.activation.unwrap_or_default(),
            norm_epsilon: known.norm_epsilon.unwrap_or_default(),
            form,
        };
        arch.check()?;
        tower.check(&arch.parameters())?;
        Ok(arch)
    }

    /// Whether the numbers make an architecture that can be built.
    ///
    /// # Errors
    /// As [`Arch::check`](crate::Arch::check).
    pub fn check(&self) -> Result<()> {
        let extents = [
            ("vocabulary", self.vocabulary, MAX_EXTENT),
            ("context length", self.context, 1 << 16),
            ("width", self.width, MAX_EXTENT),
            ("layers", self.layers, MAX_LAYERS),
            ("heads", self.heads, MAX_EXTENT),
            ("MLP width", self.mlp_width, MAX_EXTENT),
            ("embedding length", self.embed_dim, MAX_EXTENT),
        ];
        shapes::check_extents(&extents, self.width, self.heads)
    }

    /// Names and shapes of all parameters, in the order in which the graph takes them.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let w = self.width;
        let mut all: Vec<(String, Vec<usize>)> = vec![
            (TOKEN_EMBEDDING.into(), vec![self.vocabulary, w]),
            (POSITIONAL_EMBEDDING.into(), vec![self.context, w]),
        ];
        for layer in 0..self.layers {
            all.extend(shapes::block_parameters(&format!("{BLOCKS}{layer}."), w, self.mlp_width, BlockForm::default()));
        }
        all.push(("ln_final.weight".into(), vec![w]));
        all.push(("ln_final.bias".into(), vec![w]));
        all.push((PROJECTION.into(), vec![w, self.embed_dim]));
        if self.form == TextForm::Siglip {
            all.push((PROJECTION_BIAS.into(), vec![self.embed_dim]));
        }
        all
    }
}

impl fmt::Display for TextArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "text transformer: {} tokens of {}, width {}, layers {}, heads {}, embedding {}, {}",
            self.context, self.vocabulary, self.width, self.layers, self.heads, self.embed_dim, self.activation,
        )
    }
}
