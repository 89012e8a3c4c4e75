//! The ONNX graph of a CLIP text encoder, written as the image encoder's is ([`crate::tower::graph`]).
//!
//! Attention looks back only, so nothing after a text's last token changes its embedding: sequences are as long as the
//! longest text of a run, not 77, which is most of a prompt's time. SigLIP's looks everywhere, and its
//! sequences are all padded.

use super::arch::{BLOCKS, POSITIONAL_EMBEDDING, PROJECTION, PROJECTION_BIAS, TOKEN_EMBEDDING, TextArch, TextForm};
use crate::error::Result;
use crate::onnx::TensorType;
use crate::onnx::emit::{Attribute, Extent, int};
use crate::tower::graph::layouts_of;
use crate::tower::graph::nodes::{Block, Form, Graph};
use crate::tower::precisions::{LayerKind, LayerPrecisions};

/// The input that takes the texts: i64 `[batch, tokens]`, where `tokens` is at most the context length.
pub const TOKENS: &str = "input_ids";
/// The input that says where each text ends: i64 `[batch]`, the position of its end-of-text token.
pub const ENDS: &str = "ends";
/// The output: f32 `[batch, e]`, not normalised.
pub const EMBEDS: &str = "text_embeds";

/// The bytes of the ONNX model of `arch`, with all parameters as inputs.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when [`TextArch::check`] refuses `arch`.
pub fn build(arch: &TextArch) -> Result<Vec<u8>> {
    build_in(arch, Form::Standard)
}

/// The graph whose linear layers and attention are our own operators, which take all parameters as they are.
///
/// # Errors
/// As [`build`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a matrix that cannot be packed.
pub(crate) fn build_own(arch: &TextArch, precisions: LayerPrecisions) -> Result<Vec<u8>> {
    arch.check()?;
    let kind = |name: &str| name.strip_prefix(BLOCKS).and_then(LayerKind::of_block_matrix);
    let layouts = layouts_of(arch.parameters(), kind, precisions)?;
    build_in(arch, Form::Own { layouts, is_packed: false })
}

fn build_in(arch: &TextArch, form: Form) -> Result<Vec<u8>> {
    arch.check()?;
    let w = int(arch.width);
    let mut graph = Graph::new("clip_text_encoder", arch.norm_epsilon, form);
    graph.declare(TOKENS, TensorType::Int64, &[Extent::Named("batch"), Extent::Named("tokens")]);
    graph.declare(ENDS, TensorType::Int64, &[Extent::Named("batch")]);
    graph.declare_parameters(&arch.parameters());

    let x = graph.node("token_embedding", "Gather", &[TOKEN_EMBEDDING, TOKENS], [Attribute::Int("axis", 0)]);
    let extents = graph.node("extents", "Shape", &[TOKENS], []);
    let length = graph.node("tokens", "Shape", &[TOKENS], [Attribute::Int("start", 1), Attribute::Int("end", 2)]);
    let zero = graph.constant("zero", &[1], &[0]);
    let positions = graph.node("positions", "Slice", &[POSITIONAL_EMBEDDING, &zero, &length, &zero], []);
    let x = graph.node("embedding", "Add", &[&x, &positions], []);
    let mut stream = graph.reshape("stream", &x, &[-1, w]);

    let three_widths = graph.constant("three_widths", &[1], &[3 * w]);
    let sequences = graph.node("sequences", "Concat", &[&extents, &three_widths], [Attribute::Int("axis", 0)]);
    for layer in 0..arch.layers {
        let block = Block::usual(layer, format!("{BLOCKS}{layer}."), arch.activation);
        let qkv = graph.queries_keys_values(&block, &stream, false);
        let qkv = graph.node(&block.node("attn.qkv"), "Reshape", &[&qkv, &sequences], []);
        let x = graph.attention(&block, &qkv, arch.heads, w, arch.form == TextForm::Clip);
        stream = graph.after_attention(&block, Some(&stream), &x);
    }

    // The row of each text's end.
    let one_width = graph.constant("one_width", &[1], &[w]);
    let shape = graph.node("stream.extents", "Concat", &[&extents, &one_width], [Attribute::Int("axis", 0)]);
    let x = graph.node("stream.sequences", "Reshape", &[&stream, &shape], []);
    let ends = graph.reshape("ends.column", ENDS, &[-1, 1]);
    let x = graph.node("last_token", "GatherND", &[&x, &ends], [Attribute::Int("batch_dims", 1)]);
    let norm = Some(["ln_final"; 2]);
    let bias = if arch.form == TextForm::Siglip { PROJECTION_BIAS } else { "" };
    graph.projection(["projection", EMBEDS], &x, norm, [PROJECTION, bias], [arch.width, arch.embed_dim])?;
    graph.give(EMBEDS, &[Extent::Named("batch"), Extent::Fixed(arch.embed_dim)]);
    graph.into_bytes()
}
