//! The operators that the graphs of both towers are made of.

use std::collections::HashMap;

use crate::error::Result;
use crate::kernel::linear::{self, PackedLayout, Pairing};
use crate::onnx::TensorType;
use crate::onnx::emit::{Attribute, Extent, ModelWriter, Operator, int};
use crate::onnx::own::{ATTENTION, DOMAIN, LINEAR, SWIGLU, UNPACKED_LINEAR, linear_attributes};
use crate::tower::arch::{Activation, Epsilon};
use crate::tower::variant::BlockForm;

/// The first opset with `LayerNormalization`.
const OPSET: i64 = 17;
/// The file format version that came with it.
const IR_VERSION: i64 = 8;
/// The domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";
/// QuickGELU(x) = x·σ(1.702·x).
const QUICK_GELU_ALPHA: f32 = 1.702;

/// A residual block: x + attn(ln_1(x)), then that + mlp(ln_2(that)).
pub(crate) struct Block {
    /// The prefix of its nodes.
    pub(crate) nodes: String,
    /// The prefix of its parameters.
    pub(crate) parameters: String,
    pub(crate) activation: Activation,
    pub(crate) form: BlockForm,
    /// The table of rotary positions.
    pub(crate) rotation: Option<Rotation>,
}

/// Rotary positions among a graph's constants.
#[derive(Clone)]
pub(crate) struct Rotation {
    /// In our own form cosines and sines, f32 `[2, tokens, head_width]`.
    pub(crate) factors: String,
    /// In the standard form cosines, and sines, f32 `[tokens, head_width/2]` each.
    pub(crate) tables: [String; 2],
    pub(crate) pairing: Pairing,
}

/// The form of an attention by our own operator.
#[derive(Clone, Copy, Default)]
struct OwnAttention {
    /// The first tokens that ask; 0 for all.
    queries: i64,
    /// The first tokens that are no keys and values.
    skipped_keys: i64,
    is_causal: bool,
}

impl Block {
    /// The block of a tower with the usual form.
    pub(crate) fn usual(layer: usize, parameters: String, activation: Activation) -> Self {
        Self { nodes: Self::nodes_of(layer), parameters, activation, form: BlockForm::default(), rotation: None }
    }

    /// The prefix of the nodes of a layer.
    pub(crate) fn nodes_of(layer: usize) -> String {
        format!("resblocks.{layer}.")
    }

    /// The name of a node of this block.
    pub(crate) fn node(&self, part: &str) -> String {
        format!("{}{part}", self.nodes)
    }

    fn parameter(&self, part: &str) -> String {
        format!("{}{part}", self.parameters)
    }

    /// Weight and bias of a linear layer.
    fn linear(&self, part: &str) -> [String; 2] {
        [self.parameter(&format!("{part}.weight")), self.parameter(&format!("{part}.bias"))]
    }
}

/// The operators that linear layers and attention are written with.
#[derive(Clone)]
pub(crate) enum Form {
    /// ONNX Runtime's, which any provider computes.
    Standard,
    /// Our own, which the CPU computes.
    Own {
        /// The packed form of each matrix.
        layouts: HashMap<String, PackedLayout>,
        /// Whether the matrices arrive in that form, or as they are.
        is_packed: bool,
    },
}

/// A linear layer in the making: `gain·activation(norm(x)·Wᵀ + b) + residual` with W `[out, in]`.
#[derive(Clone)]
struct LinearNode<'a> {
    name: String,
    /// Weight and bias.
    parameters: [String; 2],
    /// Node and parameters of the norm in front.
    norm: Option<[String; 2]>,
    activation: Option<Activation>,
    /// The factors of the outputs.
    gain: Option<String>,
    residual: Option<&'a str>,
}

impl LinearNode<'_> {
    /// A layer without any of what may be around it.
    fn plain(name: String, parameters: [String; 2]) -> Self {
        Self { name, parameters, norm: None, activation: None, gain: None, residual: None }
    }
}

/// A graph in the making. Methods append nodes and return the name of the value that they make.
pub(crate) struct Graph {
    writer: ModelWriter<'static>,
    /// The number that every `LayerNorm` adds to the variance.
    norm_epsilon: Epsilon,
    form: Form,
}

impl Graph {
    /// A graph without nodes, called `name`.
    pub(crate) fn new(name: &str, norm_epsilon: Epsilon, form: Form) -> Self {
        let domains = [("", OPSET), (MICROSOFT, 1), (DOMAIN, 1)];
        // A session without our operators refuses a graph that names their domain.
        let domains = if matches!(form, Form::Standard) { &domains[..2] } else { &domains[..] };
        Self { writer: ModelWriter::new(name, IR_VERSION, domains), norm_epsilon, form }
    }

    /// The packed form of a matrix, where our own operators multiply with it.
    pub(crate) fn layout(&self, parameter: &str) -> Option<PackedLayout> {
        match &self.form {
            Form::Standard => None,
            Form::Own { layouts, .. } => layouts.get(parameter).copied(),
        }
    }

    /// Whether linear layers and attention are our own operators.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.form, Form::Own { .. })
    }

    fn is_packed(&self) -> bool {
        matches!(self.form, Form::Own { is_packed: true, .. })
    }

    /// An input.
    pub(crate) fn declare(&mut self, name: &str, data_type: TensorType, shape: &[Extent]) {
        self.writer.input(name, data_type, shape);
    }

    /// Parameters become inputs, of f32 or packed.
    pub(crate) fn declare_parameters(&mut self, parameters: &[(String, Vec<usize>)]) {
        for (name, shape) in parameters {
            if let Some(layout) = self.layout(name).filter(|_| self.is_packed()) {
                let bytes = [Extent::Fixed(layout.nbytes())];
                self.declare(name, TensorType::Uint8, &bytes);
                continue;
            }
            let extents: Vec<Extent> = shape.iter().copied().map(Extent::Fixed).collect();
            self.declare(name, TensorType::Float, &extents);
        }
    }

    /// An output, of f32.
    pub(crate) fn give(&mut self, name: &str, shape: &[Extent]) {
        self.writer.output(name, TensorType::Float, shape);
    }

    /// ln_1, unless `is_normed` already, and the projection to queries, keys and values side by side:
    /// `[rows, 3·width]`.
    pub(crate) fn queries_keys_values(&mut self, block: &Block, stream: &str, is_normed: bool) -> String {
        let bias = if block.form.qkv_bias { block.parameter("attn.in_proj_bias") } else { String::new() };
        let parameters = [block.parameter("attn.in_proj_weight"), bias];
        let norm = (!is_normed).then(|| [block.node("ln_1"), block.parameter("ln_1")]);
        self.linear(stream, &LinearNode { norm, ..LinearNode::plain(block.node("attn.in_proj"), parameters) })
    }

    /// Turns queries and keys, of `[sequences, tokens, 3·width]`, by rotary positions.
    fn rotated(&mut self, block: &Block, parts: [String; 3]) -> [String; 3] {
        let Some(Rotation { tables: [cosines, sines], pairing, .. }) = &block.rotation else { return parts };
        let first = self.constant(&block.node("attn.rotation.first"), &[1], &[0]);
        let [q, k, v] = parts;
        let mut turn = |x: &str, part: &str| {
            let pairs = Attribute::Int("interleaved", i64::from(*pairing == Pairing::Neighbours));
            self.contrib(&block.node(part), "RotaryEmbedding", &[x, &first, cosines, sines], [pairs])
        };
        [turn(&q, "attn.q.rotated"), turn(&k, "attn.k.rotated"), v]
    }

    /// Attention between the tokens of each sequence, `[sequences, tokens, 3·width]` to `[rows, width]`, where no token
    /// sees one after it if `is_causal`.
    pub(crate) fn attention(&mut self, block: &Block, qkv: &str, heads: usize, width: i64, is_causal: bool) -> String {
        if self.is_own() {
            return self.own_attention(block, qkv, heads, OwnAttention { is_causal, ..OwnAttention::default() });
        }
        let parts = self.split_in_three(&block.node("attn.split"), qkv);
        let [q, k, v] = self.rotated(block, parts);
        self.standard_attention(block, [&q, &k, &v], heads, width, is_causal)
    }

    /// Attention by ONNX Runtime's operator: `[sequences, queries or tokens, width]` each to `[rows, width]`.
    fn standard_attention(
        &mut self,
        block: &Block,
        parts: [&str; 3],
        heads: usize,
        width: i64,
        is_causal: bool,
    ) -> String {
        let heads = Attribute::Int("num_heads", int(heads));
        let name = block.node("attn");
        let x = match is_causal {
            true => {
                let causal = Attribute::Int("unidirectional", 1);
                self.contrib(&name, "MultiHeadAttention", &parts, [heads, causal])
            }
            false => self.contrib(&name, "MultiHeadAttention", &parts, [heads]),
        };
        self.reshape(&block.node("attn.rows"), &x, &[-1, width])
    }

    /// Attention where the first token of each sequence alone asks, `[sequences, tokens, 3·width]` to
    /// `[sequences, width]`, and those tokens' part of the stream.
    pub(crate) fn first_tokens_attention(
        &mut self,
        block: &Block,
        [qkv, stream]: [&str; 2],
        heads: usize,
        [tokens, width]: [i64; 2],
    ) -> [String; 2] {
        let at = |part: &str| block.node(part);
        let is_standard = !self.is_own();
        let parts = is_standard.then(|| {
            let parts = self.split_in_three(&at("attn.split"), qkv);
            self.rotated(block, parts)
        });
        let sequences = self.reshape(&at("sequences"), stream, &[-1, tokens, width]);
        let first = self.constant(&at("class_token.index"), &[1], &[0]);
        let take = |graph: &mut Self, name: &str, x: &str| {
            graph.node(&at(name), "Gather", &[x, &first], [Attribute::Int("axis", 1)])
        };
        let parts = parts.map(|[q, k, v]| [take(self, "attn.q.class_token", &q), k, v]);
        let kept = take(self, "class_token", &sequences);
        let kept = self.reshape(&at("class_token.rows"), &kept, &[-1, width]);
        let attended = match parts {
            None => self.own_attention(block, qkv, heads, OwnAttention { queries: 1, ..OwnAttention::default() }),
            Some([q, k, v]) => self.standard_attention(block, [&q, &k, &v], heads, width, false),
        };
        [attended, kept]
    }

    /// Attention from the first token of each sequence to all others, `[sequences, tokens, 3·width]` to
    /// `[sequences, width]`.
    pub(crate) fn attention_to_others(
        &mut self,
        block: &Block,
        qkv: &str,
        heads: usize,
        [tokens, width]: [i64; 2],
    ) -> String {
        if self.is_own() {
            let form = OwnAttention { queries: 1, skipped_keys: 1, ..OwnAttention::default() };
            return self.own_attention(block, qkv, heads, form);
        }
        let at = |part: &str| block.node(part);
        let [q, k, v] = self.split_in_three(&at("attn.split"), qkv);
        let (zero, one) = (self.constant(&at("attn.0"), &[1], &[0]), self.constant(&at("attn.1"), &[1], &[1]));
        let end = self.constant(&at("attn.end"), &[1], &[tokens]);
        let mut cut =
            |name: &str, x: &str, from: &str, to: &str| self.node(&at(name), "Slice", &[x, from, to, &one], []);
        let q = cut("attn.q.first", &q, &zero, &one);
        let k = cut("attn.k.others", &k, &one, &end);
        let v = cut("attn.v.others", &v, &one, &end);
        self.standard_attention(block, [&q, &k, &v], heads, width, false)
    }

    fn own_attention(&mut self, block: &Block, qkv: &str, heads: usize, form: OwnAttention) -> String {
        let name = block.node("attn");
        let mut attributes = vec![
            Attribute::Int("num_heads", int(heads)),
            Attribute::Int("queries", form.queries),
            Attribute::Int("is_causal", i64::from(form.is_causal)),
        ];
        if form.skipped_keys > 0 {
            attributes.push(Attribute::Int("skipped_keys", form.skipped_keys));
        }
        let mut inputs = vec![qkv];
        if let Some(rotation) = &block.rotation {
            attributes.push(Attribute::Int("rotation", rotation.pairing.code()));
            inputs.push(&rotation.factors);
        }
        let (inputs, outputs, attributes) = (&inputs, &[name.as_str()], &attributes);
        self.push(&Operator { name: &name, domain: DOMAIN, op: ATTENTION, inputs, outputs, attributes });
        name
    }

    /// Projects the rows that attention gave, adds them to `residual` where there is one, and takes the sum through the
    /// MLP.
    pub(crate) fn after_attention(&mut self, block: &Block, residual: Option<&str>, attended: &str) -> String {
        let form = block.form;
        let layer = |part: &str| LinearNode::plain(block.node(part), block.linear(part));
        let norm = |is_there: bool, part: &str| is_there.then(|| [block.node(part), block.parameter(part)]);
        let gain = |part: &str| form.layer_scale.then(|| block.parameter(part));
        let (attn_norm, gain_1) = (norm(form.attn_norm, "attn.ln_inner"), gain("ls_1.gamma"));
        let layer_1 = LinearNode { norm: attn_norm, gain: gain_1, residual, ..layer("attn.out_proj") };
        let stream = self.linear(attended, &layer_1);
        let activation = (!form.gated).then_some(block.activation);
        let mut x = self.linear(&stream, &LinearNode { norm: norm(true, "ln_2"), activation, ..layer("mlp.c_fc") });
        if form.gated {
            x = self.gated(block, &x);
        }
        let (mlp_norm, gain_2) = (norm(form.mlp_norm, "mlp.ln"), gain("ls_2.gamma"));
        self.linear(&x, &LinearNode { norm: mlp_norm, gain: gain_2, residual: Some(&stream), ..layer("mlp.c_proj") })
    }

    /// SwiGLU: the second half of each row by SiLU of the first.
    fn gated(&mut self, block: &Block, x: &str) -> String {
        let at = |part: &str| block.node(part);
        if self.is_own() {
            let name = at("mlp.gated");
            let outputs = &[name.as_str()];
            self.push(&Operator { name: &name, domain: DOMAIN, op: SWIGLU, inputs: &[x], outputs, attributes: &[] });
            return name;
        }
        let parts = ["gate", "up"].map(|part| at(&format!("mlp.{part}")));
        let outputs = &[parts[0].as_str(), &parts[1]];
        let attributes = &[Attribute::Int("axis", 1)];
        self.push(&Operator { name: &at("mlp.halves"), domain: "", op: "Split", inputs: &[x], outputs, attributes });
        let [gate, up] = &parts;
        let sigmoid = self.node(&at("mlp.sigmoid"), "Sigmoid", &[gate], []);
        let gate = self.node(&at("mlp.silu"), "Mul", &[gate, &sigmoid], []);
        self.node(&at("mlp.gated"), "Mul", &[&gate, up], [])
    }

    fn linear(&mut self, x: &str, layer: &LinearNode<'_>) -> String {
        let LinearNode { name, parameters: [weight, bias], norm, activation, gain, residual } = layer;
        if let Some(layout) = self.layout(weight) {
            return self.own_linear(x, layer, layout, &[]);
        }
        let x = match norm {
            None => x.to_owned(),
            Some([node, parameter]) => self.layer_norm(node, x, parameter),
        };
        let inputs = [x.as_str(), weight, bias];
        let given = if bias.is_empty() { &inputs[..2] } else { &inputs[..] };
        let x = self.node(name, "Gemm", given, [Attribute::Int("transB", 1)]);
        let gelu = format!("{name}.gelu");
        let x = match activation {
            None => x,
            Some(Activation::QuickGelu) => {
                self.contrib(&gelu, "QuickGelu", &[&x], [Attribute::Float("alpha", QUICK_GELU_ALPHA)])
            }
            Some(Activation::Gelu) => self.contrib(&gelu, "Gelu", &[&x], []),
            Some(Activation::GeluTanh) => self.contrib(&gelu, "FastGelu", &[&x], []),
            Some(Activation::Silu) => {
                let sigmoid = self.node(&format!("{name}.sigmoid"), "Sigmoid", &[&x], []);
                self.node(&format!("{name}.silu"), "Mul", &[&x, &sigmoid], [])
            }
        };
        self.scaled_and_added(name, x, gain.as_deref(), *residual)
    }

    fn scaled_and_added(&mut self, name: &str, x: String, gain: Option<&str>, residual: Option<&str>) -> String {
        let x = match gain {
            None => x,
            Some(gain) => self.node(&format!("{name}.gain"), "Mul", &[&x, gain], []),
        };
        match residual {
            None => x,
            Some(residual) => self.node(&format!("{name}.residual"), "Add", &[residual, &x], []),
        }
    }

    /// The patches of images by W, by our own operator: `[rows, out]`.
    pub(crate) fn own_patches(
        &mut self,
        name: &str,
        pixels: &str,
        [weight, bias]: [&str; 2],
        layout: PackedLayout,
        [patch, grid]: [usize; 2],
    ) -> String {
        let layer = LinearNode::plain(name.into(), [weight.to_owned(), bias.to_owned()]);
        let patches = [Attribute::Int("patch", int(patch)), Attribute::Int("grid", int(grid))];
        self.own_linear(pixels, &layer, layout, &patches)
    }

    /// A layer norm and x·W + b, called `output`, with W `[in, out]`, which is never packed; b has no name where there
    /// is none.
    ///
    /// # Errors
    /// As [`PackedLayout::new`].
    pub(crate) fn projection(
        &mut self,
        [name, output]: [&str; 2],
        x: &str,
        norm: Option<[&str; 2]>,
        [weight, bias]: [&str; 2],
        [inputs, outputs]: [usize; 2],
    ) -> Result<()> {
        if matches!(self.form, Form::Standard) {
            let x = match norm {
                None => x.to_owned(),
                Some([node, parameter]) => self.layer_norm(node, x, parameter),
            };
            let inputs = [x.as_str(), weight, bias];
            let inputs = if bias.is_empty() { &inputs[..2] } else { &inputs[..] };
            self.push(&Operator { name, domain: "", op: "Gemm", inputs, outputs: &[output], attributes: &[] });
            return Ok(());
        }
        let layout = PackedLayout::new(outputs, inputs, linear::Precision::F32).map_err(|e| e.tensor(weight))?;
        let norm = norm.map(|norm| norm.map(str::to_owned));
        let layer = LinearNode { norm, ..LinearNode::plain(output.into(), [weight.to_owned(), bias.to_owned()]) };
        self.own_linear(x, &layer, layout, &[Attribute::Int("columns", 1)]);
        Ok(())
    }

    /// A layer by our own operator. What it has not has no name.
    fn own_linear(&mut self, x: &str, layer: &LinearNode<'_>, layout: PackedLayout, others: &[Attribute]) -> String {
        let LinearNode { name, parameters: [weight, bias], norm, activation, gain, residual } = layer;
        let activation = match activation {
            None | Some(Activation::Silu) => linear::Activation::None,
            Some(Activation::QuickGelu) => linear::Activation::QuickGelu,
            Some(Activation::Gelu) => linear::Activation::Gelu,
            Some(Activation::GeluTanh) => linear::Activation::TanhGelu,
        };
        let mut attributes = linear_attributes(layout, activation, self.norm_epsilon.get());
        attributes.extend(others.iter().cloned());
        let is_columns = attributes.iter().any(|attribute| matches!(attribute, Attribute::Int("columns", 1)));
        let norm = norm.as_ref().map(|[_, parameter]| ["weight", "bias"].map(|part| format!("{parameter}.{part}")));
        let [norm_weight, norm_bias] = norm.unwrap_or_default();
        let gain = gain.as_deref().unwrap_or_default();
        let inputs = [x, weight, bias, residual.unwrap_or_default(), &norm_weight, &norm_bias, gain];
        let given = inputs.iter().rposition(|input| !input.is_empty()).map_or(0, |last| last + 1);
        let op = if self.is_packed() && !is_columns { LINEAR } else { UNPACKED_LINEAR };
        let (inputs, outputs, attributes) = (&inputs[..given], &[name.as_str()], &attributes);
        self.push(&Operator { name, domain: DOMAIN, op, inputs, outputs, attributes });
        name.clone()
    }

    pub(crate) fn layer_norm(&mut self, name: &str, x: &str, parameter: &str) -> String {
        let inputs = [x, &format!("{parameter}.weight"), &format!("{parameter}.bias")];
        let epsilon = [Attribute::Int("axis", -1), Attribute::Float("epsilon", self.norm_epsilon.get())];
        self.node(name, "LayerNormalization", &inputs, epsilon)
    }

    pub(crate) fn reshape(&mut self, name: &str, x: &str, shape: &[i64]) -> String {
        let shape = self.constant(&format!("{name}.shape"), &[shape.len()], shape);
        self.node(name, "Reshape", &[x, &shape], [])
    }

    /// Queries, keys and values, which `in_proj` computes side by side.
    fn split_in_three(&mut self, name: &str, qkv: &str) -> [String; 3] {
        let parts = ["q", "k", "v"].map(|part| format!("{name}.{part}"));
        let outputs = &[parts[0].as_str(), &parts[1], &parts[2]];
        let attributes = &[Attribute::Int("axis", 2)];
        self.push(&Operator { name, domain: "", op: "Split", inputs: &[qkv], outputs, attributes });
        parts
    }

    /// A table of f32 that is part of the graph.
    pub(crate) fn table(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        self.writer.floats(name, shape, values);
        name.into()
    }

    /// A small integer tensor that is part of the graph (a shape, an index).
    pub(crate) fn constant(&mut self, name: &str, shape: &[usize], values: &[i64]) -> String {
        self.writer.integers(name, shape, values);
        name.into()
    }

    pub(crate) fn node<const A: usize>(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: [Attribute; A],
    ) -> String {
        self.push(&Operator { name, domain: "", op, inputs, outputs: &[name], attributes: &attributes });
        name.into()
    }

    pub(crate) fn contrib<const A: usize>(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: [Attribute; A],
    ) -> String {
        self.push(&Operator { name, domain: MICROSOFT, op, inputs, outputs: &[name], attributes: &attributes });
        name.into()
    }

    pub(crate) fn push(&mut self, node: &Operator<'_>) {
        self.writer.node(node);
    }

    /// The bytes of the model.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn into_bytes(self) -> Result<Vec<u8>> {
        self.writer.to_vec()
    }
}
