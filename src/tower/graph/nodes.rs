//! The operators that the graphs of both towers are made of.

use prost::Message;

use crate::onnx::proto::{
    AttributeProto, AttributeType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorType, TensorTypeProto, TypeProto, ValueInfoProto, dimension,
};
use crate::tower::arch::{Activation, Epsilon};

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
    graph: GraphProto,
    /// The number that every `LayerNorm` adds to the variance.
    norm_epsilon: Epsilon,
}

impl Graph {
    /// A graph without nodes.
    pub(crate) fn new(norm_epsilon: Epsilon) -> Self {
        Self { graph: GraphProto::default(), norm_epsilon }
    }

    /// An input.
    pub(crate) fn declare(&mut self, name: &str, kind: TensorType, shape: Vec<Dimension>) {
        self.graph.input.push(value_info(name, kind, shape));
    }

    /// Parameters become inputs. (Freezing weights turns these inputs into constants.)
    pub(crate) fn declare_parameters(&mut self, parameters: &[(String, Vec<usize>)]) {
        for (name, shape) in parameters {
            self.declare(name, TensorType::Float, shape.iter().copied().map(fixed).collect());
        }
    }

    /// An output, of f32.
    pub(crate) fn give(&mut self, name: &str, shape: Vec<Dimension>) {
        self.graph.output.push(value_info(name, TensorType::Float, shape));
    }

    /// ln_1 and the projection to queries, keys and values side by side: `[rows, 3·width]`.
    pub(crate) fn queries_keys_values(&mut self, block: &Block, stream: &str) -> String {
        let x = self.layer_norm(&block.node("ln_1"), stream, &block.parameter("ln_1"));
        let weight = [block.parameter("attn.in_proj_weight"), block.parameter("attn.in_proj_bias")];
        self.linear(&block.node("attn.in_proj"), &x, &weight)
    }

    /// Projects the rows that attention gave, adds them to `residual`, and takes the sum through the MLP.
    pub(crate) fn after_attention(&mut self, block: &Block, residual: &str, attended: &str) -> String {
        let at = |part: &str| block.node(part);
        let x = self.linear(&at("attn.out_proj"), attended, &block.linear("attn.out_proj"));
        let stream = self.node(&at("attn.residual"), "Add", &[residual, &x], []);

        let x = self.layer_norm(&at("ln_2"), &stream, &block.parameter("ln_2"));
        let x = self.linear(&at("mlp.c_fc"), &x, &block.linear("mlp.c_fc"));
        let x = match block.activation {
            Activation::QuickGelu => {
                self.contrib(&at("mlp.gelu"), "QuickGelu", &[&x], [attribute_float("alpha", QUICK_GELU_ALPHA)])
            }
            Activation::Gelu => self.contrib(&at("mlp.gelu"), "Gelu", &[&x], []),
            Activation::GeluTanh => self.contrib(&at("mlp.gelu"), "FastGelu", &[&x], []),
        };
        let x = self.linear(&at("mlp.c_proj"), &x, &block.linear("mlp.c_proj"));
        self.node(&at("mlp.residual"), "Add", &[&stream, &x], [])
    }

    /// x·Wᵀ + b with W `[out, in]`.
    fn linear(&mut self, name: &str, x: &str, [weight, bias]: &[String; 2]) -> String {
        self.node(name, "Gemm", &[x, weight, bias], [attribute_int("transB", 1)])
    }

    pub(crate) fn layer_norm(&mut self, name: &str, x: &str, parameter: &str) -> String {
        let inputs = [x, &format!("{parameter}.weight"), &format!("{parameter}.bias")];
        let epsilon = [attribute_int("axis", -1), attribute_float("epsilon", self.norm_epsilon.get())];
        self.node(name, "LayerNormalization", &inputs, epsilon)
    }

    pub(crate) fn reshape(&mut self, name: &str, x: &str, shape: &[i64]) -> String {
        let shape = self.constant(&format!("{name}.shape"), &[shape.len()], shape);
        self.node(name, "Reshape", &[x, &shape], [])
    }

    /// Queries, keys and values, which `in_proj` computes side by side.
    pub(crate) fn split_in_three(&mut self, name: &str, qkv: &str) -> [String; 3] {
        let parts = ["q", "k", "v"].map(|part| format!("{name}.{part}"));
        self.push(name, "", "Split", &[qkv], parts.to_vec(), [attribute_int("axis", 2)]);
        parts
    }

    /// A small integer tensor that is part of the graph (a shape, an index).
    pub(crate) fn constant(&mut self, name: &str, dims: &[usize], values: &[i64]) -> String {
        self.graph.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: dims.iter().map(|&extent| int(extent)).collect(),
            data_type: Some(TensorType::Int64 as i32),
            int64_data: values.to_vec(),
            ..TensorProto::default()
        });
        name.into()
    }

    pub(crate) fn node<const A: usize>(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        with: [AttributeProto; A],
    ) -> String {
        self.push(name, "", op, inputs, vec![name.into()], with);
        name.into()
    }

    pub(crate) fn contrib<const A: usize>(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        with: [AttributeProto; A],
    ) -> String {
        self.push(name, MICROSOFT, op, inputs, vec![name.into()], with);
        name.into()
    }

    pub(crate) fn push<const A: usize>(
        &mut self,
        name: &str,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: Vec<String>,
        attributes: [AttributeProto; A],
    ) {
        self.graph.node.push(NodeProto {
            name: Some(name.into()),
            domain: (!domain.is_empty()).then(|| domain.into()),
            op_type: Some(op.into()),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs,
            attribute: attributes.into(),
            doc_string: None,
        });
    }

    /// The bytes of the model.
    pub(crate) fn into_bytes(mut self, name: &str) -> Vec<u8> {
        self.graph.name = Some(name.into());
        let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
        let model = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some(env!("CARGO_PKG_NAME").into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            graph: Some(self.graph),
            opset_import: vec![opset("", OPSET), opset(MICROSOFT, 1)],
            metadata_props: Vec::new(),
        };
        model.encode_to_vec()
    }
}

/// The architectures' checks bound every extent far below `i64::MAX`.
pub(crate) fn int(extent: usize) -> i64 {
    i64::try_from(extent).unwrap_or(i64::MAX)
}

pub(crate) fn fixed(extent: usize) -> Dimension {
    Dimension { value: Some(dimension::Value::DimValue(int(extent))) }
}

pub(crate) fn named(name: &str) -> Dimension {
    Dimension { value: Some(dimension::Value::DimParam(name.into())) }
}

fn value_info(name: &str, kind: TensorType, dim: Vec<Dimension>) -> ValueInfoProto {
    let shape = Some(TensorShapeProto { dim });
    let tensor_type = Some(TensorTypeProto { elem_type: Some(kind as i32), shape });
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type }), doc_string: None }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

pub(crate) fn attribute_int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

fn attribute_float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}
