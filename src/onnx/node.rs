//! The parts of a graph: nodes, and the values that come in and go out.

use std::ops::Range;

/// One application of an operator.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) op: String,
    pub(super) domain: String,
    /// Names of the values that it reads; empty where an optional one is left out.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    /// Names that its subgraphs read from outside.
    pub(super) captured: Vec<String>,
    /// The tensor of a `Constant`: its place in the file's constants.
    pub(super) constant: Option<usize>,
    /// The node's message in the file.
    pub(super) message: Range<usize>,
}

/// An input or output of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The name of the value.
    pub name: String,
    /// The ONNX type of its elements (1 is f32, 10 is f16); 0 where the file does not say.
    pub data_type: i32,
    /// The extents, where the rank is known: a number, or `None` for one that is only known in a run.
    pub shape: Option<Vec<Option<usize>>>,
    /// The message in the file.
    pub(super) message: Range<usize>,
}

/// Whether a domain is ONNX's own, which has two spellings.
pub(super) fn is_onnx(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}
