//! The residual stream to embeddings.

use super::nodes::{Block, Graph};
use super::{EMBEDS, HIDDEN};
use crate::error::Result;
use crate::onnx::emit::{Attribute, Extent, int};
use crate::tower::arch::{Arch, POOL, PROBE, PROJECTION, PROJECTION_BIAS, Pooling};
use crate::tower::variant::{BlockForm, Projection};

/// The node and the parameters of the norm behind the blocks.
const NORM: [&str; 2] = ["ln_post", "visual.ln_post"];

impl Graph {
    /// Takes what the last block gives, pooled, through norm and projection, which is kept `[in, out]`, where there are
    /// such.
    ///
    /// # Errors
    /// As [`PackedLayout::new`](crate::kernel::linear::PackedLayout::new).
    pub(super) fn project(&mut self, arch: &Arch, last: &str) -> Result<()> {
        let is_projected = arch.variant.is_projected();
        // What comes last has the output's name.
        let name = |usual: &'static str| if is_projected { usual } else { EMBEDS };
        let (x, norm) = match arch.variant.pooling {
            Pooling::ClassToken => (last.to_owned(), Some(NORM)),
            Pooling::MeanThenNorm => (self.mean_of_patches(arch, last, "pool.mean"), Some(NORM)),
            Pooling::NormThenMean => {
                let x = self.layer_norm(NORM[0], last, NORM[1]);
                (self.mean_of_patches(arch, &x, name("pool.mean")), None)
            }
            Pooling::PatchMean => (self.mean_of_patches(arch, last, EMBEDS), None),
            Pooling::Attention => {
                let x = self.attention_pooling(arch, last);
                (if is_projected { x } else { self.node(EMBEDS, "Identity", &[&x], []) }, None)
            }
            Pooling::ClassAndMean => {
                let x = self.layer_norm(NORM[0], last, NORM[1]);
                let first = self.first_tokens(arch, &x, 1, "pool.first.rows");
                let mean = self.mean_of_patches(arch, &x, "pool.mean");
                (self.node(EMBEDS, "Concat", &[&first, &mean], [Attribute::Int("axis", 1)]), None)
            }
            Pooling::ClassAndDistillation => {
                let x = self.layer_norm(NORM[0], last, NORM[1]);
                (self.first_tokens(arch, &x, 2, EMBEDS), None)
            }
        };
        if is_projected {
            let bias = if arch.variant.projection == Projection::WithBias { PROJECTION_BIAS } else { "" };
            self.projection(["proj", EMBEDS], &x, norm, [PROJECTION, bias], [arch.width, arch.embed_dim])?;
        } else if let Some([_, parameter]) = norm {
            self.layer_norm(EMBEDS, &x, parameter);
        }
        self.give(EMBEDS, &[Extent::Named("batch"), Extent::Fixed(arch.embed_dim)]);
        Ok(())
    }

    /// Gives the class token behind the norm, the mean of the patches' tokens before it, and the embedding, side by
    /// side.
    ///
    /// # Errors
    /// As [`Graph::project`].
    pub(super) fn give_hidden(&mut self, arch: &Arch, last: &str) -> Result<()> {
        let first = self.first_tokens(arch, last, 1, "pool.first.rows");
        let token = self.layer_norm(NORM[0], &first, NORM[1]);
        let mean = self.mean_of_patches(arch, last, "pool.mean");
        let embeds = if arch.variant.is_projected() {
            let bias = if arch.variant.projection == Projection::WithBias { PROJECTION_BIAS } else { "" };
            let sizes = [arch.width, arch.embed_dim];
            self.projection(["proj", "hidden.embeds"], &token, None, [PROJECTION, bias], sizes)?;
            "hidden.embeds"
        } else {
            &*token
        };
        let hidden = self.node(HIDDEN, "Concat", &[&token, &mean, embeds], [Attribute::Int("axis", 1)]);
        self.give(&hidden, &[Extent::Named("batch"), Extent::Fixed(2 * arch.width + arch.embed_dim)]);
        Ok(())
    }

    /// The first tokens of each sequence side by side, called `name`: `[batch·tokens, width]` to
    /// `[batch, count·width]`.
    fn first_tokens(&mut self, arch: &Arch, stream: &str, count: i64, name: &str) -> String {
        let x = self.reshape("pool.all", stream, &[-1, int(arch.tokens()), int(arch.width)]);
        let [start, end] = [("pool.first.start", 0), ("pool.first.end", count)]
            .map(|(name, value)| self.constant(name, &[1], &[value]));
        let axis = self.constant("pool.first.axis", &[1], &[1]);
        let x = self.node("pool.first", "Slice", &[&x, &start, &end, &axis], []);
        self.reshape(name, &x, &[-1, count * int(arch.width)])
    }

    /// The mean of the patches' tokens, called `name`: `[batch·tokens, width]` to `[batch, width]`.
    fn mean_of_patches(&mut self, arch: &Arch, stream: &str, name: &str) -> String {
        let (w, tokens) = (int(arch.width), int(arch.tokens()));
        let x = self.reshape("pool.sequences", stream, &[-1, tokens, w]);
        let x = match int(arch.variant.tokens.count()) {
            0 => x,
            before => {
                let start = self.constant("pool.start", &[1], &[before]);
                let end = self.constant("pool.end", &[1], &[tokens]);
                let axis = if before == 1 { start.clone() } else { self.constant("pool.axis", &[1], &[1]) };
                self.node("pool.patches", "Slice", &[&x, &start, &end, &axis], [])
            }
        };
        self.node(name, "ReduceMean", &[&x], [Attribute::Ints("axes", vec![1]), Attribute::Int("keepdims", 0)])
    }

    /// Attention from the probe to all tokens, normalised, and an MLP: `[batch·tokens, width]` to `[batch, width]`. The
    /// probe goes in front of each sequence, and so through the same matrix of queries, keys and
    /// values.
    fn attention_pooling(&mut self, arch: &Arch, stream: &str) -> String {
        let (w, tokens) = (int(arch.width), int(arch.tokens()));
        let x = self.layer_norm(NORM[0], stream, NORM[1]);
        let x = self.reshape("pool.sequences", &x, &[-1, tokens, w]);
        let batch = self.node("pool.batch", "Shape", &[&x], [Attribute::Int("start", 0), Attribute::Int("end", 1)]);
        let probe = self.repeated("pool.probe", PROBE, &batch, [1, arch.width]);
        let x = self.node("pool.tokens", "Concat", &[&probe, &x], [Attribute::Int("axis", 1)]);
        let rows = self.reshape("pool.rows", &x, &[-1, w]);

        let (nodes, form) = ("pool.".to_owned(), BlockForm::default());
        let (parameters, activation) = (POOL.to_owned(), arch.activation);
        let block = Block { nodes, parameters, activation, form, rotation: None };
        let qkv = self.queries_keys_values(&block, &rows, true);
        let qkv = self.reshape("pool.attn.qkv", &qkv, &[-1, 1 + tokens, 3 * w]);
        let heads = if arch.variant.pool_heads > 0 { arch.variant.pool_heads } else { arch.heads };
        let attended = self.attention_to_others(&block, &qkv, heads, [1 + tokens, w]);
        self.after_attention(&block, None, &attended)
    }
}
