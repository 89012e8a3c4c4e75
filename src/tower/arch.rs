//! The architecture of a vision transformer, read off the shapes of its parameters.
//!
//! Names are open_clip's (`visual.…`), the ones every checkpoint is brought to before it comes here. What shapes cannot
//! tell (heads, activation, pooling, epsilon) is a hint, which `tower::config` finds where it can be found; a parameter
//! that is missing, misshapen or without a place in the graph is an error that names it.

use std::collections::BTreeMap;
use std::fmt;

use super::features;
use super::form::TowerForm;
use super::published;
pub use super::published::HEAD_WIDTH;
pub use super::shapes::MAX_LAYERS;
use super::shapes::{self, MAX_EXTENT, Shapes};
pub use super::variant::{Activation, ArchHints, Epsilon, Pooling, Variant};
use super::variant::{BlockForm, Positions, Projection, Tokens};
use crate::error::{Error, Result};

/// The largest side of a patch in pixels, and of a grid of them.
const MAX_SIDE: usize = 1 << 12;
/// The most register tokens; published towers have 4.
const MAX_REGISTERS: usize = 1 << 10;

/// The prefix of the image encoder's parameters in a CLIP checkpoint.
pub const PREFIX: &str = "visual.";
pub(super) const CLASS_EMBEDDING: &str = "visual.class_embedding";
pub(super) const DISTILLATION_TOKEN: &str = "visual.distillation_token";
pub(super) const REGISTER_TOKENS: &str = "visual.register_tokens";
pub(super) const POSITIONAL_EMBEDDING: &str = "visual.positional_embedding";
pub(crate) const PROJECTION: &str = "visual.proj";
pub(super) const PROJECTION_BIAS: &str = "visual.proj_bias";
pub(super) const PATCH_EMBEDDING: &str = "visual.conv1.weight";
pub(super) const PATCH_BIAS: &str = "visual.conv1.bias";
const PRE_NORM: [&str; 2] = ["visual.ln_pre.weight", "visual.ln_pre.bias"];
const POST_NORM: [&str; 2] = ["visual.ln_post.weight", "visual.ln_post.bias"];
pub(super) const BLOCKS: &str = "visual.transformer.resblocks.";
/// The prefix of the parameters of pooling by attention.
pub(super) const POOL: &str = "visual.attn_pool.";
pub(super) const PROBE: &str = "visual.attn_pool.probe";

/// The architecture of a vision transformer: everything its graph depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Arch {
    /// Channels of the residual stream, `w`.
    pub width: usize,
    /// Number of residual blocks.
    pub layers: usize,
    /// Attention heads per block; they share `width` evenly.
    pub heads: usize,
    /// Width of the MLPs' hidden layer; 4·w in published models.
    pub mlp_width: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Patches along a side of the image, `g`.
    pub grid: usize,
    /// Length of an embedding, `e`; `w` where nothing is projected.
    pub embed_dim: usize,
    /// The activation of the MLPs.
    pub activation: Activation,
    /// The departures from OpenAI's form.
    #[serde(default, skip_serializing_if = "Variant::is_usual")]
    pub variant: Variant,
}

impl Arch {
    /// The hints that a caller needs to read this architecture off its shapes again.
    pub fn hints(&self) -> ArchHints {
        ArchHints {
            heads: Some(self.heads),
            activation: Some(self.activation),
            norm_epsilon: Some(self.variant.norm_epsilon),
            pooling: Some(self.variant.pooling),
            grid: Some(self.grid),
        }
    }

    /// The architecture that parameters of these names and shapes belong to.
    ///
    /// Names outside `visual.` (the text encoder) are passed over; every one inside it has to be used. No file is read:
    /// what `hints` leave open is what published towers of these shapes have, else what OpenAI's have.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the tensor, when a parameter is missing, a shape
    /// contradicts the others, or a `visual.` parameter has no place in the graph;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), by its name, for a feature that the graph lacks (layer
    /// scale, attentional pooling, a ResNet); [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when
    /// the heads do not divide the width, or do not follow from it.
    pub fn infer<'a>(shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>, hints: ArchHints) -> Result<Self> {
        Self::infer_with(shapes, hints, false)
    }

    /// As [`Arch::infer`]; where `is_pooling_open`, any pooling will do where nothing tells it.
    pub(super) fn infer_with<'a>(
        shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>,
        hints: ArchHints,
        is_pooling_open: bool,
    ) -> Result<Self> {
        let shapes: BTreeMap<&str, &[usize]> =
            shapes.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        if shapes.is_empty() {
            return Err(Error::mismatch("holds no image encoder")
                .expected(format_args!("parameters named `{PREFIX}…`"))
                .got("none"));
        }
        features::refuse(shapes.keys().copied())?;
        let mut tower = Shapes { what: "image encoder", shapes };
        let get = |name: &str| tower.get(name);

        let [width, patch] = match *get(PATCH_EMBEDDING)? {
            [width, 3, height, across] if height == across => [width, height],
            ref other => {
                return Err(Error::mismatch("not a convolution over square RGB patches")
                    .tensor(PATCH_EMBEDDING)
                    .expected("shape [width, 3, patch, patch]")
                    .got(format_args!("{other:?}")));
            }
        };
        let has = |name: &str| tower.shapes.contains_key(name);
        // What CLIP's towers have not: the others have no projection, and may lack positions and biases.
        let patch_bias = has(PATCH_BIAS);
        let tokens = Tokens {
            class: has(CLASS_EMBEDDING),
            distillation: has(DISTILLATION_TOKEN),
            registers: tower.shapes.get(REGISTER_TOKENS).map_or(0, |shape| shape.first().copied().unwrap_or(0)),
        };
        let (positions, grid) = match tower.shapes.get(POSITIONAL_EMBEDDING) {
            None if patch_bias && hints.grid.is_some() => (Positions::None, hints.grid.unwrap_or_default()),
            None if patch_bias => return Err(published::unknown_grid().tensor(POSITIONAL_EMBEDDING)),
            _ => positions_of(&tower, tokens, width, patch_bias)?,
        };
        // Either both of them are missing, or one is an error below.
        let pre_norm = PRE_NORM.iter().any(|name| has(name));
        let (mut blocks, mlp_width) = tower.block_form(BLOCKS, width)?;
        blocks.qkv_bias |= !patch_bias;
        let form = TowerForm {
            width,
            pre_norm,
            patch_bias,
            tokens,
            positions,
            blocks,
            has_probe: has(PROBE),
            has_projection: has(PROJECTION),
        };
        let known = hints.or(published::usual(&form));
        let any = if tokens.class { Pooling::ClassToken } else { Pooling::NormThenMean };
        let pooling = known.pooling.or(is_pooling_open.then_some(any));
        let is_normalised = pooling.is_none_or(Pooling::is_projected);
        let projection = match (has(PROJECTION), has(PROJECTION_BIAS)) {
            (_, true) => Projection::WithBias,
            (false, _) if patch_bias => Projection::None,
            _ => Projection::Matrix,
        };
        let is_projected = is_normalised && projection != Projection::None;
        let embed_dim = match pooling {
            _ if is_projected => projected(&tower, width)?,
            Some(pooling) if pooling.is_double() => 2 * width,
            _ => width,
        };
        let arch = Self {
            width,
            layers: tower.layers(BLOCKS)?,
            heads: known.heads.ok_or_else(|| published::unknown_heads(width))?,
            mlp_width,
            patch,
            grid,
            embed_dim,
            activation: known.activation.unwrap_or_default(),
            variant: Variant {
                pre_norm,
                norm_epsilon: known.norm_epsilon.unwrap_or_default(),
                pooling: pooling.ok_or_else(published::unknown_pooling)?,
                tokens,
                positions,
                rotary: published::rotary(&form),
                patch_bias,
                blocks,
                pool_heads: published::pool_heads(&form),
                projection: if is_normalised { projection } else { Projection::default() },
            },
        };
        arch.check()?;
        // They may be there all the same, and no value depends on them.
        if !is_normalised {
            tower.shapes.retain(|name, _| ![PROJECTION, PROJECTION_BIAS].contains(name) && !POST_NORM.contains(name));
        }
        if arch.variant.pooling != Pooling::Attention {
            tower.shapes.retain(|name, _| !name.starts_with(POOL));
        }
        tower.check(&arch.parameters())?;
        Ok(arch)
    }

    /// Whether the numbers make an architecture that can be built.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when one is zero or absurdly large, or the
    /// heads do not divide the width; or an embedding that is not projected is not as long as the width.
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for [`Arch::of_graph`].
    pub fn check(&self) -> Result<()> {
        if self.is_of_graph() {
            return Err(published::unbuilt());
        }
        let extents = [
            ("width", self.width, MAX_EXTENT),
            ("layers", self.layers, MAX_LAYERS),
            ("heads", self.heads, MAX_EXTENT),
            ("MLP width", self.mlp_width, MAX_EXTENT),
            ("patch size", self.patch, MAX_SIDE),
            ("patches along a side", self.grid, MAX_SIDE),
            ("embedding length", self.embed_dim, MAX_EXTENT),
        ];
        shapes::check_extents(&extents, self.width, self.heads)?;
        self.check_parts()?;
        let length = if self.variant.pooling.is_double() { 2 * self.width } else { self.width };
        if self.variant.is_projected() || self.embed_dim == length {
            return Ok(());
        }
        Err(Error::invalid("an embedding that is not projected is as long as the width, or as what is side by side")
            .expected(length)
            .got(self.embed_dim))
    }

    /// Whether the parts go together.
    fn check_parts(&self) -> Result<()> {
        let Variant { pooling, tokens, blocks, rotary, pool_heads, .. } = self.variant;
        let fail = |what: &str| Err(Error::invalid(what.to_owned()).got(self));
        if tokens.registers > MAX_REGISTERS {
            return Err(Error::invalid("out of range: the architecture's register tokens")
                .expected(format_args!("0 to {MAX_REGISTERS}"))
                .got(tokens.registers));
        }
        match pooling {
            Pooling::ClassToken | Pooling::ClassAndMean if !tokens.class => {
                fail("a pooling of the class token, but none")
            }
            Pooling::ClassAndDistillation if !tokens.class || !tokens.distillation => {
                fail("a pooling of the distillation token, but none")
            }
            Pooling::Attention if pool_heads != 0 && !self.width.is_multiple_of(pool_heads) => {
                fail("the heads of the pooling must share the width evenly")
            }
            _ if pooling.is_double() && self.variant.is_projected() => fail("a projection of two vectors side by side"),
            _ if blocks.gated != (self.activation == Activation::Silu) => {
                fail("SiLU is for gated MLPs, and these for it")
            }
            _ if rotary.is_some() && !(self.width / self.heads).is_multiple_of(4) => {
                fail("rotary positions in two dimensions, and heads whose width 4 does not divide")
            }
            _ => Ok(()),
        }
    }

    /// Names and shapes of all parameters, in the order in which the graph takes them. Where nothing is normalised and
    /// projected, `visual.ln_post.…` and `visual.proj` are none.
    ///
    /// Linear weights are `[out, in]`, as PyTorch keeps them; `visual.proj` alone is `[in, out]`.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        if self.is_of_graph() {
            return Vec::new();
        }
        let (w, p) = (self.width, self.patch);
        let Variant { pre_norm, pooling, tokens, positions, patch_bias, blocks, projection, .. } = self.variant;
        let patches = self.grid * self.grid;
        let rows = if positions == Positions::All { patches + tokens.without_registers() } else { patches };
        let stem = [
            (true, PATCH_EMBEDDING, vec![w, 3, p, p]),
            (patch_bias, PATCH_BIAS, vec![w]),
            (tokens.class, CLASS_EMBEDDING, vec![w]),
            (tokens.distillation, DISTILLATION_TOKEN, vec![w]),
            (tokens.registers > 0, REGISTER_TOKENS, vec![tokens.registers, w]),
            (positions != Positions::None, POSITIONAL_EMBEDDING, vec![rows, w]),
            (pre_norm, PRE_NORM[0], vec![w]),
            (pre_norm, PRE_NORM[1], vec![w]),
        ];
        let there = |parts: Vec<(bool, &str, Vec<usize>)>| {
            parts
                .into_iter()
                .filter(|(is_there, ..)| *is_there)
                .map(|(_, name, shape)| (name.to_owned(), shape))
                .collect()
        };
        let mut all: Vec<(String, Vec<usize>)> = there(stem.into());
        for layer in 0..self.layers {
            all.extend(shapes::block_parameters(&format!("{BLOCKS}{layer}."), w, self.mlp_width, blocks));
        }
        if pooling.is_projected() {
            all.extend(POST_NORM.map(|name| (name.into(), vec![w])));
        }
        if pooling == Pooling::Attention {
            all.push((PROBE.into(), vec![w]));
            let of_pool = shapes::block_parameters(POOL, w, self.mlp_width, BlockForm::default());
            // The tokens come normalised, and the probe is not.
            all.extend(of_pool.filter(|(name, _)| !name.contains(".ln_1.")));
        }
        if self.variant.is_projected() {
            all.push((PROJECTION.into(), vec![w, self.embed_dim]));
            if projection == Projection::WithBias {
                all.push((PROJECTION_BIAS.into(), vec![self.embed_dim]));
            }
        }
        all
    }

    /// The parts of it that names and shapes tell.
    pub(super) fn form(&self) -> TowerForm {
        let Variant { pre_norm, patch_bias, tokens, positions, blocks, projection, pooling, .. } = self.variant;
        let has_probe = pooling == Pooling::Attention;
        let has_projection = projection != Projection::None;
        TowerForm { width: self.width, pre_norm, patch_bias, tokens, positions, blocks, has_probe, has_projection }
    }

    /// Number of parameters' elements, all tensors together.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Side of the images, in pixels.
    pub fn image_size(&self) -> usize {
        self.grid * self.patch
    }

    /// Tokens in a sequence: the class token and its like, and one per patch.
    pub fn tokens(&self) -> usize {
        self.variant.tokens.count() + self.grid * self.grid
    }

    /// Width of a block's attention heads, in channels.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Values in the pixels of one image, `3·S·S`.
    pub fn pixels(&self) -> usize {
        3 * self.image_size() * self.image_size()
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_of_graph() {
            let (size, length) = (self.image_size(), self.embed_dim);
            return write!(f, "a user's graph: {size}×{size} px, embedding {length}");
        }
        write!(
            f,
            "vision transformer: {size}×{size} px, patch {}, width {}, layers {}, heads {}, embedding {}, {}",
            self.patch,
            self.width,
            self.layers,
            self.heads,
            self.embed_dim,
            self.activation,
            size = self.image_size(),
        )?;
        if self.mlp_width != 4 * self.width {
            write!(f, ", MLP width {}", self.mlp_width)?;
        }
        let Variant { pre_norm, norm_epsilon, pooling, tokens, rotary, blocks, .. } = self.variant;
        if pooling != Pooling::ClassToken {
            write!(f, ", {pooling}")?;
        }
        if !pre_norm {
            f.write_str(", no norm before the blocks")?;
        }
        if norm_epsilon != Epsilon::USUAL {
            write!(f, ", norm epsilon {norm_epsilon}")?;
        }
        let parts = [
            (!tokens.class, "no class token"),
            (tokens.distillation, "a distillation token"),
            (blocks.layer_scale, "LayerScale"),
            (blocks.gated, "gated MLPs"),
        ];
        parts.iter().filter(|(is_there, _)| *is_there).try_for_each(|(_, part)| write!(f, ", {part}"))?;
        if tokens.registers > 0 {
            write!(f, ", {} register tokens", tokens.registers)?;
        }
        rotary.map_or(Ok(()), |rotary| write!(f, ", {rotary} rotary positions"))
    }
}

/// The tokens that the table of positions has rows for, and the side of its grid.
/// The patches alone have some in towers that are no part of a CLIP, `is_plain`.
fn positions_of(tower: &Shapes<'_>, tokens: Tokens, width: usize, is_plain: bool) -> Result<(Positions, usize)> {
    let positions = tower.get(POSITIONAL_EMBEDDING)?;
    let before = tokens.without_registers();
    let found = match *positions {
        [rows, w] if w == width => {
            let found = square_grid(rows, before, is_plain);
            // Without a class token that fits one, it is what is missing.
            if found.is_none() && !tokens.class && square_grid(rows, 1, false).is_some() {
                tower.get(CLASS_EMBEDDING)?;
            }
            found
        }
        _ => None,
    };
    found.ok_or_else(|| {
        let expected = match before {
            0 => format!("shape [grid², {width}]"),
            before => format!("shape [{before} + grid², {width}]"),
        };
        Error::mismatch("not the positions of a square grid of patches, with those of the tokens before them")
            .tensor(POSITIONAL_EMBEDDING)
            .expected(expected)
            .got(format_args!("{positions:?}"))
    })
}

/// The length of the embeddings of a tower that has a projection from `width`.
fn projected(tower: &Shapes<'_>, width: usize) -> Result<usize> {
    let projection = tower.get(PROJECTION).map_err(|e| {
        e.hint("Give a base that has its projection: the whole CLIP model, or CLIPVisionModelWithProjection")
    })?;
    match *projection {
        [w, embed_dim] if w == width => Ok(embed_dim),
        ref other => Err(Error::mismatch("not a projection of the class token")
            .tensor(PROJECTION)
            .expected(format_args!("shape [{width}, embedding]"))
            .got(format_args!("{other:?}"))),
    }
}

/// The tokens that a table of `rows` positions is for, and the side of its grid, where `before` tokens that may have
/// some stand before the patches; the patches alone may have some where `may_be_patches`.
pub(super) fn square_grid(rows: usize, before: usize, may_be_patches: bool) -> Option<(Positions, usize)> {
    let side =
        |patches: usize| Some(patches.isqrt()).filter(|side| *side > 0 && side.checked_mul(*side) == Some(patches));
    let all = rows.checked_sub(before).and_then(side).map(|grid| (Positions::All, grid));
    all.or_else(|| side(rows).filter(|_| may_be_patches).map(|grid| (Positions::Patches, grid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Arch {
        Arch {
            width: 128,
            layers: 2,
            heads: 2,
            mlp_width: 200,
            patch: 7,
            grid: 3,
            embed_dim: 48,
            activation: Activation::QuickGelu,
            variant: Variant::default(),
        }
    }

    fn infer(parameters: &[(String, Vec<usize>)], hints: ArchHints) -> Result<Arch> {
        Arch::infer(parameters.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())), hints)
    }

    /// The error after `change` was made to the parameters of a good model.
    fn error(change: impl FnOnce(&mut Vec<(String, Vec<usize>)>)) -> String {
        let mut parameters = small().parameters();
        change(&mut parameters);
        infer(&parameters, ArchHints::default()).unwrap_err().to_string()
    }

    fn set(name: &'static str, shape: &'static [usize]) -> impl FnOnce(&mut Vec<(String, Vec<usize>)>) {
        move |parameters| parameters.iter_mut().find(|(n, _)| n == name).unwrap().1 = shape.to_vec()
    }

    #[test]
    fn shapes_tell_the_architecture() {
        let mut parameters = small().parameters();
        parameters.push(("text_projection".into(), vec![5, 6]));
        assert_eq!(infer(&parameters, ArchHints::default()).unwrap(), small());
        let hints = ArchHints { heads: Some(4), activation: Some(Activation::Gelu), ..ArchHints::default() };
        let other = infer(&parameters, hints).unwrap();
        assert_eq!((other.heads, other.activation), (4, Activation::Gelu));
        assert_eq!((other.image_size(), other.tokens(), other.pixels()), (21, 10, 3 * 21 * 21));
    }

    #[test]
    fn the_published_towers_have_their_sizes() {
        let b32 = Arch {
            width: 768,
            layers: 12,
            heads: 12,
            mlp_width: 3072,
            patch: 32,
            grid: 7,
            embed_dim: 512,
            activation: Activation::QuickGelu,
            variant: Variant::default(),
        };
        assert_eq!(b32.parameters().len(), 152);
        assert_eq!(b32.parameter_count(), 87_849_216);
        assert_eq!(infer(&b32.parameters(), ArchHints::default()).unwrap(), b32);
    }

    #[test]
    fn every_missing_parameter_is_named() {
        let all = small().parameters();
        for (absent, _) in &all {
            let message = error(|parameters| parameters.retain(|(name, _)| name != absent));
            assert!(message.contains(&format!("`{absent}`")) && message.contains("lacks"), "{message}");
        }
    }

    #[test]
    fn every_contradiction_is_named() {
        let all = small().parameters();
        for (changed, shape) in &all {
            for axis in 0..shape.len() {
                if changed == PROJECTION && axis == 1 {
                    continue; // The length of the embedding, which nothing else depends on.
                }
                let message = error(|parameters| {
                    parameters.iter_mut().find(|(name, _)| name == changed).unwrap().1[axis] += 1;
                });
                let named = message.contains("expected") && message.contains("got");
                // A wider patch embedding makes every other parameter the odd one out.
                assert!(
                    named && (message.contains(&format!("`{changed}`")) || axis == 0),
                    "{changed} {axis}: {message}"
                );
            }
        }
    }

    #[test]
    fn shapes_that_no_model_has_are_refused() {
        assert!(error(set(PATCH_EMBEDDING, &[128, 3, 7, 8])).contains("square"));
        assert!(error(set(PATCH_EMBEDDING, &[128, 1, 7, 7])).contains("RGB"));
        assert!(error(set(POSITIONAL_EMBEDDING, &[9, 128])).contains("1 + grid²"));
        assert!(error(set(POSITIONAL_EMBEDDING, &[1, 128])).contains("1 + grid²"));
        assert!(error(set(POSITIONAL_EMBEDDING, &[0, 128])).contains("1 + grid²"));
        assert!(error(set(PATCH_EMBEDDING, &[128, 3, usize::MAX, usize::MAX])).contains("out of range"));
        assert!(error(set(PROJECTION, &[128, 0])).contains("out of range"));
    }

    #[test]
    fn nothing_is_silently_ignored() {
        for extra in ["visual.transformer.resblocks.1.attn.out_proj.scale", "visual.conv2.bias", "visual.pool.query"] {
            let message = error(|parameters| parameters.push((extra.into(), vec![128])));
            assert!(message.contains(extra) && message.contains("not use"), "{message}");
        }
        let message = error(|parameters| parameters.push((format!("{BLOCKS}3.ln_1.weight"), vec![128])));
        assert!(message.contains("resblocks.2"), "a gap: {message}");
        for odd in ["01", "+1", "x", "1000", "99999999999999999999"] {
            let name = format!("{BLOCKS}{odd}.ln_1.weight");
            assert!(error(|parameters| parameters.push((name.clone(), vec![128]))).contains(&name));
        }
        assert!(error(|parameters| parameters.clear()).contains("no image encoder"));
        assert!(
            error(|parameters| parameters.push(("visual.layer1.0.conv1.weight".into(), vec![1]))).contains("ResNet")
        );
        for (name, feature) in [("transformer.resblocks.1.ln_attn.bias", "norm after"), ("attn_pool.query", "pooling")]
        {
            assert!(error(|all| all.push((format!("{PREFIX}{name}"), vec![128]))).contains(feature));
        }
    }

    #[test]
    fn without_a_projection_an_embedding_is_as_long_as_the_width() {
        let variant = Variant { pooling: Pooling::PatchMean, ..Variant::default() };
        let arch = Arch { embed_dim: 128, variant, ..small() };
        assert!(arch.parameters().iter().all(|(name, _)| name != PROJECTION && !name.contains("ln_post")));
        // What is not read may be there, and of any shape.
        for parameters in [arch.parameters(), small().parameters()] {
            assert_eq!(infer(&parameters, arch.hints()).unwrap(), arch);
        }
        assert!(infer(&arch.parameters(), ArchHints::default()).unwrap_err().to_string().contains(PROJECTION));
        assert!(Arch { embed_dim: 48, ..arch }.check().unwrap_err().to_string().contains("not projected"));
    }

    #[test]
    fn heads_must_divide_the_width() {
        let narrow = Arch { width: 96, heads: 3, ..small() };
        assert!(infer(&narrow.parameters(), ArchHints::default()).unwrap_err().to_string().contains("heads"));
        assert_eq!(infer(&narrow.parameters(), ArchHints { heads: Some(3), ..ArchHints::default() }).unwrap(), narrow);
        for heads in [0, 7, 97, usize::MAX] {
            let hints = ArchHints { heads: Some(heads), ..ArchHints::default() };
            assert!(infer(&narrow.parameters(), hints).is_err(), "{heads}");
        }
    }
}
