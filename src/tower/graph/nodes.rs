//! The operators that the graphs of both towers are made of.

use std::collections::HashMap;

use crate::error::Result;
use crate::kernel::linear::{self, PackedLayout};
use crate::onnx::TensorType;
use crate::onnx::emit::{Attribute, Extent, ModelWriter, Operator};
use crate::tower::arch::{Activation, Epsilon};

/// The first opset with `LayerNormalization`.
const OPSET: i64 = 17;
/// The file format version that came with it.
const IR_VERSION: i64 = 8;
/// The domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";
/// The domain of our own operators, and the one that multiplies with packed weights: inputs `[rows, in]`, the packed
/// weights as bytes, `[out]`, and, where the attribute `adds` is 1, `[rows, out]`; output `[rows, out]`, all f32.
pub(crate) const DOMAIN: &str = "taskbasis";
pub(crate) const LINEAR: &str = "Linear";
/// QuickGELU(x) = x·σ(1.702·x).
const QUICK_GELU_ALPHA: f32 = 1.702;

/// A residual block: x + attn(ln_1(x)), then that + mlp(ln_2(that)).
pub(crate) struct Block {
    pub(crate) layer: usize,
    /// The prefix of its parameters.
    pub(crate) parameters: String,
    pub(crate) activation: Activation,
}

impl Block {
    /// The name of a node of this block.
    pub(crate) fn node(&self, part: &str) -> String {
        format!("resblocks.{}.{part}", self.layer)
    }

    fn parameter(&self, part: &str) -> String {
        format!("{}{part}", self.parameters)
    }

    /// Weight and bias of a linear layer.
    fn linear(&self, part: &str) -> [String; 2] {
        [self.parameter(&format!("{part}.weight")), self.parameter(&format!("{part}.bias"))]
    }
}

/// A graph in the making. Methods append nodes and return the name of the value that they make.
pub(crate) struct Graph {
    writer: ModelWriter<'static>,
    /// The number that every `LayerNorm` adds to the variance.
    norm_epsilon: Epsilon,
    /// The packed form of each matrix, by name; empty where all weights are inputs as they are.
    packed: HashMap<String, PackedLayout>,
}

impl Graph {
    /// A graph without nodes, called `name`.
    pub(crate) fn new(name: &str, norm_epsilon: Epsilon) -> Self {
        Self::with_packed(name, norm_epsilon, HashMap::new())
    }

    /// A graph without nodes whose linear layers read these matrices packed.
    pub(crate) fn with_packed(name: &str, norm_epsilon: Epsilon, packed: HashMap<String, PackedLayout>) -> Self {
        let domains = [("", OPSET), (MICROSOFT, 1), (DOMAIN, 1)];
        // A session without our operators refuses a graph that names their domain.
        let domains = if packed.is_empty() { &domains[..2] } else { &domains[..] };
        Self { writer: ModelWriter::new(name, IR_VERSION, domains), norm_epsilon, packed }
    }

    /// The packed form of a matrix, where it is packed.
    pub(crate) fn packed(&self, parameter: &str) -> Option<PackedLayout> {
        self.packed.get(parameter).copied()
    }

    /// An input.
    pub(crate) fn declare(&mut self, name: &str, data_type: TensorType, shape: &[Extent]) {
        self.writer.input(name, data_type, shape);
    }

    /// Parameters become inputs, of f32 or packed.
    pub(crate) fn declare_parameters(&mut self, parameters: &[(String, Vec<usize>)]) {
        for (name, shape) in parameters {
            if let Some(layout) = self.packed.get(name) {
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

    /// ln_1 and the projection to queries, keys and values side by side: `[rows, 3·width]`.
    pub(crate) fn queries_keys_values(&mut self, block: &Block, stream: &str) -> String {
        let x = self.layer_norm(&block.node("ln_1"), stream, &block.parameter("ln_1"));
        let weight = [block.parameter("attn.in_proj_weight"), block.parameter("attn.in_proj_bias")];
        self.linear(&block.node("attn.in_proj"), &x, &weight, None, None)
    }

    /// Projects the rows that attention gave, adds them to `residual`, and takes the sum through the MLP.
    pub(crate) fn after_attention(&mut self, block: &Block, residual: &str, attended: &str) -> String {
        let at = |part: &str| block.node(part);
        let stream = self.linear(&at("attn.out_proj"), attended, &block.linear("attn.out_proj"), None, Some(residual));
        let x = self.layer_norm(&at("ln_2"), &stream, &block.parameter("ln_2"));
        let x = self.linear(&at("mlp.c_fc"), &x, &block.linear("mlp.c_fc"), Some(block.activation), None);
        self.linear(&at("mlp.c_proj"), &x, &block.linear("mlp.c_proj"), None, Some(&stream))
    }

    /// activation(x·Wᵀ + b) + residual with W `[out, in]`.
    fn linear(
        &mut self,
        name: &str,
        x: &str,
        [weight, bias]: &[String; 2],
        activation: Option<Activation>,
        residual: Option<&str>,
    ) -> String {
        if let Some(layout) = self.packed.get(weight).copied() {
            return self.packed_linear(name, x, (weight, layout), Some(bias), activation, residual);
        }
        let x = self.node(name, "Gemm", &[x, weight, bias], [Attribute::Int("transB", 1)]);
        let gelu = format!("{name}.gelu");
        let x = match activation {
            None => x,
            Some(Activation::QuickGelu) => {
                self.contrib(&gelu, "QuickGelu", &[&x], [Attribute::Float("alpha", QUICK_GELU_ALPHA)])
            }
            Some(Activation::Gelu) => self.contrib(&gelu, "Gelu", &[&x], []),
            Some(Activation::GeluTanh) => self.contrib(&gelu, "FastGelu", &[&x], []),
        };
        match residual {
            None => x,
            Some(residual) => self.node(&format!("{name}.residual"), "Add", &[residual, &x], []),
        }
    }

    /// The same by our own operator, with W packed.
    pub(crate) fn packed_linear(
        &mut self,
        name: &str,
        x: &str,
        (weight, layout): (&str, PackedLayout),
        bias: Option<&str>,
        activation: Option<Activation>,
        residual: Option<&str>,
    ) -> String {
        let activation = match activation {
            None => linear::Activation::None,
            Some(Activation::QuickGelu) => linear::Activation::QuickGelu,
            Some(Activation::Gelu) => linear::Activation::Gelu,
            Some(Activation::GeluTanh) => linear::Activation::TanhGelu,
        };
        let attributes = [
            Attribute::Int("outputs", int(layout.outputs())),
            Attribute::Int("inputs", int(layout.inputs())),
            Attribute::Int("precision", layout.precision().code()),
            Attribute::Int("activation", activation.code()),
        ];
        // An input that is left out has no name.
        let inputs = [x, weight, bias.unwrap_or_default(), residual.unwrap_or_default()];
        let given = if residual.is_some() {
            4
        } else if bias.is_some() {
            3
        } else {
            2
        };
        let (inputs, outputs, attributes) = (&inputs[..given], &[name], &attributes);
        self.push(&Operator { name, domain: DOMAIN, op: LINEAR, inputs, outputs, attributes });
        name.into()
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
    pub(crate) fn split_in_three(&mut self, name: &str, qkv: &str) -> [String; 3] {
        let parts = ["q", "k", "v"].map(|part| format!("{name}.{part}"));
        let outputs = &[parts[0].as_str(), &parts[1], &parts[2]];
        let attributes = &[Attribute::Int("axis", 2)];
        self.push(&Operator { name, domain: "", op: "Split", inputs: &[qkv], outputs, attributes });
        parts
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

/// The architectures' checks bound every extent far below `i64::MAX`.
pub(crate) fn int(extent: usize) -> i64 {
    i64::try_from(extent).unwrap_or(i64::MAX)
}
