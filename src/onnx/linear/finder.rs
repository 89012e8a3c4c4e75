//! The readers of a graph's values: the products of a matrix, and what follows a value alone.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::onnx::attributes::AttributeValue;
use crate::onnx::bound::BoundGraph;
use crate::onnx::constant::Constant;
use crate::onnx::file::{Node, is_onnx};
use crate::onnx::rewrite::Use;
use crate::tensor::{DType, Tensor};
use crate::weights::TensorSpec;

/// A look at a graph from the side of its values.
pub(super) struct Finder<'a> {
    graph: &'a BoundGraph,
    /// Uses in which a tensor takes the place of a constant of another name.
    renamed: HashMap<Use, String>,
    /// The needed nodes that read each value.
    readers: HashMap<String, Vec<Use>>,
    /// Values that more than nodes read: the output, and what subgraphs capture.
    beyond: HashSet<&'a str>,
    constants: HashMap<&'a str, &'a Constant>,
    tensors: HashMap<&'a str, &'a TensorSpec>,
}

/// A node that multiplies with a matrix.
pub(super) struct Product {
    pub(super) node: usize,
    /// Whether the matrix is `[in, out]` where it comes from.
    pub(super) is_columns: bool,
}

impl<'a> Finder<'a> {
    pub(super) fn of(graph: &'a BoundGraph) -> Self {
        let (file, tensors) = (&graph.file, graph.layout.tensors());
        let renamed = graph.uses(tensors);
        let needed = file.needed(&graph.output.name);
        let (mut readers, mut beyond) = (HashMap::new(), HashSet::from([graph.output.name.as_str()]));
        for (i, node) in file.nodes.iter().enumerate().filter(|(i, _)| needed.nodes[*i]) {
            beyond.extend(node.captured.iter().map(String::as_str));
            for (k, name) in node.inputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                let name = renamed.get(&(i, k)).unwrap_or(name);
                readers.entry(name.clone()).or_insert_with(Vec::new).push((i, k));
            }
        }
        let constants = file.constants.iter().map(|constant| (constant.name.as_str(), constant)).collect();
        let tensors = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        Self { graph, renamed, readers, beyond, constants, tensors }
    }

    pub(super) fn node(&self, index: usize) -> &'a Node {
        &self.graph.file.nodes[index]
    }

    /// The name of the value that is read there; empty where none is.
    pub(super) fn name(&self, at: Use) -> &str {
        let own = || self.node(at.0).inputs.get(at.1).map_or("", String::as_str);
        self.renamed.get(&at).map_or_else(own, String::as_str)
    }

    /// All uses of a value; nothing where it has others than nodes.
    pub(super) fn readers(&self, value: &str) -> &[Use] {
        if self.beyond.contains(value) { &[] } else { self.readers.get(value).map_or(&[], Vec::as_slice) }
    }

    /// The only result of a node of ONNX's own operator `op`.
    pub(super) fn result_of(&self, index: usize, op: &str) -> Option<&'a str> {
        let node = self.node(index);
        match node.outputs.as_slice() {
            [one] if is_onnx(&node.domain) && node.op == op => Some(one),
            _ => None,
        }
    }

    /// The products that this matrix is the second factor of, and the nodes that it goes through before. `None` where
    /// anything else reads it too.
    pub(super) fn products(&self, matrix: &str) -> Result<Option<(Vec<Product>, Vec<usize>)>> {
        let (mut products, mut passed) = (Vec::new(), Vec::new());
        let mut open = vec![(matrix, false)];
        while let Some((value, is_turned)) = open.pop() {
            let readers = self.readers(value);
            if readers.is_empty() {
                return Ok(None);
            }
            for &(i, k) in readers {
                let node = self.node(i);
                let op = if is_onnx(&node.domain) && node.outputs.len() == 1 { node.op.as_str() } else { "" };
                match (op, k) {
                    ("MatMul", 1) => products.push(Product { node: i, is_columns: !is_turned }),
                    ("Gemm", 1) => match self.turns_second(i)? {
                        Some(turns) => products.push(Product { node: i, is_columns: turns == is_turned }),
                        None => return Ok(None),
                    },
                    ("Transpose" | "Identity", 0) => {
                        let turns = op == "Transpose" && self.turns(i)?;
                        if op == "Transpose" && !turns {
                            return Ok(None);
                        }
                        passed.push(i);
                        open.push((&node.outputs[0], is_turned != turns));
                    }
                    _ => return Ok(None),
                }
            }
        }
        Ok(Some((products, passed)))
    }

    /// Whether a transposition exchanges the two dimensions of a matrix.
    fn turns(&self, index: usize) -> Result<bool> {
        Ok(match self.attributes(index)?.remove("perm") {
            None => true,
            Some(AttributeValue::Ints(order)) => order == [1, 0],
            Some(_) => false,
        })
    }

    /// Whether a `Gemm` transposes its second factor; `None` where it does more than a linear layer.
    fn turns_second(&self, index: usize) -> Result<Option<bool>> {
        let attributes = self.attributes(index)?;
        let is_one = |name| match attributes.get(name) {
            None => true,
            Some(AttributeValue::Float(value)) => *value == 1.0,
            Some(_) => false,
        };
        let flag = |name| match attributes.get(name) {
            None => Some(false),
            Some(AttributeValue::Int(value)) => Some(*value != 0),
            Some(_) => None,
        };
        let is_linear = is_one("alpha") && is_one("beta") && flag("transA") == Some(false);
        Ok(flag("transB").filter(|_| is_linear))
    }

    /// Whether what is read there is a vector of that many f32, a weight or a constant.
    pub(super) fn is_bias(&self, at: Use, length: usize) -> bool {
        let name = self.name(at);
        match (self.tensors.get(name), self.constant(name)) {
            (Some(tensor), _) => tensor.dtype == DType::F32 && tensor.shape == [length],
            (None, Some(tensor)) => tensor.dtype() == DType::F32 && tensor.shape() == [length],
            (None, None) => false,
        }
    }

    /// The values of a constant of floats that is no weight.
    pub(super) fn constant(&self, name: &str) -> Option<&'a Tensor> {
        let constant = self.constants.get(name).filter(|_| !self.tensors.contains_key(name))?;
        constant.tensor.as_ref()
    }

    /// The attributes of a node.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where it is damaged.
    pub(super) fn attributes(&self, index: usize) -> Result<HashMap<String, AttributeValue>> {
        self.graph.file.attributes(index)
    }
}
