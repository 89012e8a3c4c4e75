//! The ONNX graph of an image encoder, written operator by operator.
//!
//! A torch export of the same network has some 1,600 nodes; this one has 13 per block, already fused, so nothing has to
//! be optimised when a session is made. Three choices carry it:
//!
//! * Every parameter is an input under its own name, in the layout of the state dict: `Gemm` reads `[out, in]`
//!   matrices with `transB`, so no weight is ever transposed or copied.
//! * The residual stream is a matrix `[batch·tokens, width]`, the form that `Gemm` wants; it takes three dimensions
//!   only around attention.
//! * Where the class token is what is projected, it alone leaves the last block, so that block attends, projects and
//!   transforms for that token alone. That drops most of a block's work from every run, and no value of the result
//!   depends on what is dropped.

pub(super) mod nodes;
mod pooling;
mod stem;

use std::collections::HashMap;

use self::nodes::{Block, Form, Graph, Rotation};
use super::arch::{Arch, BLOCKS, POOL, PROJECTION, PROJECTION_BIAS, Pooling};
use super::precisions::{LayerKind, LayerPrecisions};
use crate::error::{Error, Result};
use crate::kernel::linear::PackedLayout;
use crate::onnx::TensorType;
use crate::onnx::emit::{Extent, int};

/// The input that takes the images: f32 `[batch, 3, S, S]`.
pub const PIXELS: &str = "pixel_values";
/// The output: f32 `[batch, e]`, not normalised, as the reference's encoder gives it.
pub const EMBEDS: &str = "embeds";
/// The output of [`build_hidden`]: f32 `[batch, 2·width + e]`.
pub(crate) const HIDDEN: &str = "hidden";
/// The residual stream between the graphs of a chain: f32 `[batch·tokens, width]`.
const STREAM: &str = "stream.in";

/// The name of the graph.
const NAME: &str = "clip_image_encoder";

/// The bytes of the ONNX model of `arch`, with all parameters as inputs.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when [`Arch::check`] refuses `arch`.
pub fn build(arch: &Arch) -> Result<Vec<u8>> {
    build_in(arch, Form::Standard)
}

/// The graph of `arch` whose linear layers and attention are our own operators. Matrices are inputs in the packed forms
/// of [`packed_layouts`], or as they are.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_own(arch: &Arch, precisions: LayerPrecisions, is_packed: bool) -> Result<Vec<u8>> {
    build_in(arch, own_form(arch, precisions, is_packed)?)
}

/// The graph of [`build_own`] with more to give: of each image the class token behind the last norm, the mean of its
/// patches' tokens behind the last block, and the embedding, side by side. The last block is computed for all tokens.
///
/// # Errors
/// As [`build`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for another pooling than the class token's.
pub(crate) fn build_hidden(arch: &Arch, precisions: LayerPrecisions, is_packed: bool) -> Result<Vec<u8>> {
    arch.check()?;
    if arch.variant.pooling != Pooling::ClassToken {
        let error = Error::unsupported("hidden features of an encoder that pools otherwise than by its class token");
        return Err(error.expected(Pooling::ClassToken).got(arch.variant.pooling));
    }
    let mut graph = Graph::new(NAME, arch.variant.norm_epsilon, own_form(arch, precisions, is_packed)?);
    let stream = graph.stream(arch, Kept::All);
    graph.give_hidden(arch, &stream)?;
    graph.into_bytes()
}

fn build_in(arch: &Arch, form: Form) -> Result<Vec<u8>> {
    arch.check()?;
    let mut graph = Graph::new(NAME, arch.variant.norm_epsilon, form);
    let stream = graph.stream(arch, Kept::Pooled);
    graph.project(arch, &stream)?;
    graph.into_bytes()
}

fn own_form(arch: &Arch, precisions: LayerPrecisions, is_packed: bool) -> Result<Form> {
    Ok(Form::Own { layouts: packed_layouts(arch, precisions)?, is_packed })
}

/// The tokens that leave the last block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Those that are pooled.
    Pooled,
    All,
}

/// The tower as a chain of graphs, so that not all weights need be there at once.
pub(crate) struct Chain {
    /// Pixels to the residual stream.
    pub(crate) stem: Link,
    /// A block before the last: stream to stream. Its parameters are called as those of block 0. `None` where the last
    /// is the only one.
    pub(crate) block: Option<Link>,
    /// The last block and the projection: stream to embeddings.
    pub(crate) last: Link,
}

/// A graph of a [`Chain`].
pub(crate) struct Link {
    /// The bytes of the ONNX model.
    pub(crate) model: Vec<u8>,
    /// Names and shapes of its parameters, all inputs.
    pub(crate) parameters: Vec<(String, Vec<usize>)>,
    /// The input that takes what the link before gives, f32: pixels, or the stream `[batch·tokens, width]`.
    pub(crate) input: String,
    /// The output.
    pub(crate) output: String,
}

/// The packed form of every matrix of a linear layer and of the patch embedding, by name.
///
/// # Errors
/// As [`PackedLayout::new`].
pub(crate) fn packed_layouts(arch: &Arch, precisions: LayerPrecisions) -> Result<HashMap<String, PackedLayout>> {
    layouts_of(arch.parameters(), LayerKind::of_matrix, precisions)
}

/// The packed form of those parameters that are matrices of a kind, by name.
///
/// # Errors
/// As [`PackedLayout::new`].
pub(super) fn layouts_of(
    parameters: Vec<(String, Vec<usize>)>,
    kind: impl Fn(&str) -> Option<LayerKind>,
    precisions: LayerPrecisions,
) -> Result<HashMap<String, PackedLayout>> {
    let mut packed = HashMap::new();
    for (name, shape) in parameters {
        if let Some(kind) = kind(&name) {
            let layout = PackedLayout::new(shape[0], shape[1..].iter().product(), precisions.get(kind));
            let layout = layout.map_err(|e| e.tensor(&name))?;
            packed.insert(name, layout);
        }
    }
    Ok(packed)
}

/// The graphs that, one after the other, compute what [`build`]'s computes, or [`build_own`]'s with these precisions.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_chain(arch: &Arch, own: Option<LayerPrecisions>) -> Result<Chain> {
    arch.check()?;
    let form = match own {
        None => Form::Standard,
        Some(precisions) => own_form(arch, precisions, false)?,
    };
    let graph_of = |arch: &Arch| Graph::new(NAME, arch.variant.norm_epsilon, form.clone());
    let last_layer = arch.layers - 1;
    let of_block = |name: &str, layer: usize| name.starts_with(&block_prefix(layer));
    let is_last = |name: &str| {
        ["visual.ln_post.", POOL].iter().any(|prefix| name.starts_with(prefix))
            || [PROJECTION, PROJECTION_BIAS].contains(&name)
    };
    let parameters = |wanted: &dyn Fn(&str) -> bool| -> Vec<_> {
        arch.parameters().into_iter().filter(|(name, _)| wanted(name)).collect()
    };

    let stem = {
        let mut graph = graph_of(arch);
        let parameters = parameters(&|name| !is_of_block(name) && !is_last(name));
        graph.declare_pixels(arch);
        graph.declare_parameters(&parameters);
        let output = graph.embed_patches(arch);
        graph.give_stream(arch, &output);
        graph.into_link(parameters, PIXELS, output)?
    };
    let block = (last_layer > 0).then(|| {
        let mut graph = graph_of(arch);
        let parameters = parameters(&|name| of_block(name, 0));
        graph.take_stream(arch);
        graph.declare_parameters(&parameters);
        let rotation = graph.rotation(arch);
        let output = graph.block(arch, rotation.as_ref(), 0, STREAM, Kept::Pooled);
        graph.give_stream(arch, &output);
        graph.into_link(parameters, STREAM, output)
    });
    let block = block.transpose()?;
    let last = {
        let mut graph = graph_of(arch);
        let parameters = parameters(&|name| of_block(name, last_layer) || is_last(name));
        graph.take_stream(arch);
        graph.declare_parameters(&parameters);
        let rotation = graph.rotation(arch);
        let output = graph.block(arch, rotation.as_ref(), last_layer, STREAM, Kept::Pooled);
        graph.project(arch, &output)?;
        graph.into_link(parameters, STREAM, EMBEDS.into())?
    };
    Ok(Chain { stem, block, last })
}

/// The prefix of a block's parameters.
pub(crate) fn block_prefix(layer: usize) -> String {
    format!("{BLOCKS}{layer}.")
}

/// Whether a parameter belongs to any block.
pub(crate) fn is_of_block(name: &str) -> bool {
    name.starts_with(BLOCKS)
}

impl Graph {
    /// All of the tower up to what leaves its last block.
    fn stream(&mut self, arch: &Arch, kept: Kept) -> String {
        self.declare_pixels(arch);
        self.declare_parameters(&arch.parameters());
        let rotation = self.rotation(arch);
        let stream = self.embed_patches(arch);
        let block = |stream: String, layer| self.block(arch, rotation.as_ref(), layer, &stream, kept);
        (0..arch.layers).fold(stream, block)
    }

    fn declare_pixels(&mut self, arch: &Arch) {
        let size = arch.image_size();
        let shape = [Extent::Named("batch"), Extent::Fixed(3), Extent::Fixed(size), Extent::Fixed(size)];
        self.declare(PIXELS, TensorType::Float, &shape);
    }

    fn take_stream(&mut self, arch: &Arch) {
        self.declare(STREAM, TensorType::Float, &[Extent::Named("rows"), Extent::Fixed(arch.width)]);
    }

    fn give_stream(&mut self, arch: &Arch, name: &str) {
        self.give(name, &[Extent::Named("rows"), Extent::Fixed(arch.width)]);
    }

    /// x + attn(ln_1(x)), then that + mlp(ln_2(that)). The last block keeps the class token alone, `[batch, width]`,
    /// where that is what is pooled and nothing else is wanted.
    fn block(&mut self, arch: &Arch, rotation: Option<&Rotation>, layer: usize, stream: &str, kept: Kept) -> String {
        let (w, tokens) = (int(arch.width), int(arch.tokens()));
        let (form, rotation) = (arch.variant.blocks, rotation.cloned());
        let block = Block { form, rotation, ..Block::usual(layer, block_prefix(layer), arch.activation) };
        let at = |part: &str| block.node(part);

        let qkv = self.queries_keys_values(&block, stream, false);
        let qkv = self.reshape(&at("attn.qkv"), &qkv, &[-1, tokens, 3 * w]);
        let is_last = layer + 1 == arch.layers;
        let is_class_alone = is_last && kept == Kept::Pooled && arch.variant.pooling == Pooling::ClassToken;
        if is_class_alone {
            let [x, residual] = self.first_tokens_attention(&block, [&qkv, stream], arch.heads, [tokens, w]);
            return self.after_attention(&block, Some(&residual), &x);
        }
        let x = self.attention(&block, &qkv, arch.heads, w, false);
        self.after_attention(&block, Some(stream), &x)
    }

    /// The tables of rotary positions, where the tower has such: tokens before the patches stay as they are.
    fn rotation(&mut self, arch: &Arch) -> Option<Rotation> {
        let rotary = arch.variant.rotary?;
        let (factors, tables) = ("rotation".to_owned(), ["rotation.cosines", "rotation.sines"]);
        let (pairing, half) = (rotary.pairing(), arch.head_width() / 2);
        let mut angles = vec![0.0; arch.variant.tokens.count() * half];
        angles.extend(rotary.angles(arch.grid, arch.head_width()));
        let [cosines, sines] = [f32::cos, f32::sin].map(|of| angles.iter().map(|&angle| of(angle)).collect::<Vec<_>>());
        if self.is_own() {
            let values: Vec<f32> = [cosines, sines].iter().flat_map(|table| pairing.doubled(table, half)).collect();
            self.table(&factors, &[2, arch.tokens(), 2 * half], &values);
        } else {
            self.table(tables[0], &[arch.tokens(), half], &cosines);
            self.table(tables[1], &[arch.tokens(), half], &sines);
        }
        Some(Rotation { factors, tables: tables.map(String::from), pairing })
    }

    fn into_link(self, parameters: Vec<(String, Vec<usize>)>, input: &str, output: String) -> Result<Link> {
        Ok(Link { model: self.into_bytes()?, parameters, input: input.into(), output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tower::arch::{Activation, Variant};

    fn b32() -> Arch {
        Arch {
            width: 768,
            layers: 12,
            heads: 12,
            mlp_width: 3072,
            patch: 32,
            grid: 7,
            embed_dim: 512,
            activation: Activation::QuickGelu,
            variant: Variant::default(),
        }
    }

    #[test]
    fn an_impossible_architecture_is_refused() {
        assert!(build(&Arch { heads: 7, ..b32() }).is_err());
        assert!(build(&Arch { layers: 0, ..b32() }).is_err());
        assert!(build(&Arch { patch: usize::MAX, ..b32() }).is_err());
    }
}
