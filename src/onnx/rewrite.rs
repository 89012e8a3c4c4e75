//! A graph with some of its constants given from outside, or with other values. Everything else stays as it is in the
//! file, byte for byte.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use prost::Message;

use super::constant::{Constant, onnx_type};
use super::file::{Node, OnnxFile, Port};
use super::proto::{Dimension, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, dimension};
use super::rope::Rope;
use super::stub;
use super::wire::{fields, put_bytes};
use super::write::{halves, narrowed_name, widening};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, f32_bytes};
use crate::weights::{LaidOut, Values, Weights};

/// A place where a node reads a value.
pub(super) type Use = (usize, usize);

/// A value that takes the place of a constant, in all or some of its uses.
pub(super) struct Replacement<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    pub(super) shape: &'a [usize],
    pub(super) values: Given<'a>,
}

/// Where the values of a [`Replacement`] come from.
pub(super) enum Given<'a> {
    /// Every run gives them: it becomes an input.
    Input,
    /// They are part of the model.
    Constant(&'a [u8]),
    /// They are part of the model as f16, and cast to f32 in front of everything.
    Narrowed(&'a [f32]),
    /// Whoever makes a session gives them: a constant in a file that nobody opens.
    Elsewhere,
}

impl<'a> Given<'a> {
    /// The values of some weights in a graph's layout.
    pub(super) fn of(weights: &'a Weights, tensor: &LaidOut) -> Result<Self> {
        match weights.at(weights.index_of(&tensor.name)?)?.2 {
            Values::F32(values) => Ok(Self::Constant(f32_bytes(values))),
            Values::Cast(_, bytes) => Ok(Self::Constant(bytes)),
            Values::Carried(_) => Err(Error::new(ErrorKind::Internal, "no float").tensor(&tensor.name)),
        }
    }
}

/// The part of a graph that one of its outputs needs.
pub(super) struct Needed {
    pub(super) nodes: Vec<bool>,
    /// Every value that those nodes read.
    names: HashSet<String>,
}

impl Needed {
    /// Whether a value takes part.
    pub(super) fn reads(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

impl OnnxFile {
    /// What `output` needs.
    pub(super) fn needed(&self, output: &str) -> Needed {
        let mut producers: HashMap<&str, usize> = HashMap::with_capacity(self.nodes.len());
        for (i, node) in self.nodes.iter().enumerate() {
            producers.extend(node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), i)));
        }
        let mut needed = Needed { nodes: vec![false; self.nodes.len()], names: HashSet::new() };
        let mut wanted = vec![output];
        while let Some(name) = wanted.pop() {
            if name.is_empty() || !needed.names.insert(name.to_owned()) {
                continue;
            }
            if let Some(&i) = producers.get(name)
                && !std::mem::replace(&mut needed.nodes[i], true)
            {
                let node = &self.nodes[i];
                wanted.extend(node.inputs.iter().chain(&node.captured).map(String::as_str));
            }
        }
        needed
    }

    /// The model that gives `output` alone, with `replacements` in the place of constants: everywhere a constant of the
    /// same name is read, and in the `uses` that name them.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a model that is too large for memory or for ONNX.
    pub(super) fn rewritten<'a>(
        &'a self,
        output: &str,
        replacements: &[Replacement<'a>],
        uses: &HashMap<Use, String>,
    ) -> Result<Rope<'a>> {
        let needed = self.needed(output);
        let replaced: HashMap<&str, &Replacement<'a>> = replacements.iter().map(|r| (r.name, r)).collect();
        let mut graph = Rope::default();
        let mut alive: HashSet<&str> = HashSet::from([output]);
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, _)| needed.nodes[*i]) {
            alive.extend(node.captured.iter().map(String::as_str));
            for (k, name) in node.inputs.iter().enumerate() {
                alive.insert(uses.get(&(i, k)).unwrap_or(name));
            }
        }
        for replacement in replacements.iter().filter(|r| matches!(r.values, Given::Narrowed(_))) {
            let mut message = Rope::default();
            let narrowed = narrowed_name(replacement.name);
            if self.has(&narrowed) || replaced.contains_key(narrowed.as_str()) {
                return Err(Error::unsupported("the graph has a value of this name, which weights as f16 would need")
                    .tensor(narrowed)
                    .hint("Write the weights as f32 instead"));
            }
            message.own(&widening(&narrowed, replacement.name).encode_to_vec());
            graph.field(1, message);
        }
        for (i, node) in self.sorted().filter(|(i, _)| needed.nodes[*i]) {
            if node.constant.is_some_and(|c| {
                let name = self.constants[c].name.as_str();
                replaced.contains_key(name) || !alive.contains(name)
            }) {
                continue;
            }
            self.put_node(&mut graph, i, node, uses)?;
        }
        let of_nodes: HashSet<usize> = self.nodes.iter().filter_map(|node| node.constant).collect();
        for (i, constant) in self.constants.iter().enumerate() {
            let name = constant.name.as_str();
            if !of_nodes.contains(&i) && alive.contains(name) && !replaced.contains_key(name) {
                self.put_constant(&mut graph, constant)?;
            }
        }
        let mut offset = 0;
        for replacement in replacements {
            match replacement.values {
                Given::Input => {}
                Given::Narrowed(values) => {
                    let mut tensor = Rope::default();
                    tensor.own(&replacement.head(&narrowed_name(replacement.name), DType::F16)?.encode_to_vec());
                    let halves = halves(values)?;
                    tensor.head(9, halves.len());
                    tensor.take(halves);
                    graph.field(5, tensor);
                }
                Given::Constant(values) => graph.field(5, replacement.tensor(values)?),
                Given::Elsewhere => {
                    let info = replacement.value_info()?;
                    let tensor = stub::external(&info, &mut offset)
                        .ok_or_else(|| Error::unsupported("too large").tensor(replacement.name))?;
                    let mut message = Rope::default();
                    message.own(&tensor.encode_to_vec());
                    graph.field(5, message);
                }
            }
        }
        // Models of old list their constants as inputs too.
        let is_replaced = |port: &&Port| replaced.contains_key(port.name.as_str());
        for port in self.inputs.iter().filter(|port| alive.contains(port.name.as_str()) && !is_replaced(port)) {
            graph.head(11, port.message.len());
            graph.borrow(&self.mapping[port.message.clone()]);
        }
        for replacement in replacements.iter().filter(|r| matches!(r.values, Given::Input)) {
            let mut info = Rope::default();
            info.own(&replacement.value_info()?.encode_to_vec());
            graph.field(11, info);
        }
        for port in self.outputs.iter().filter(|port| port.name == output) {
            graph.head(12, port.message.len());
            graph.borrow(&self.mapping[port.message.clone()]);
        }
        let made: HashSet<&str> =
            self.nodes.iter().zip(&needed.nodes).filter(|(_, needed)| **needed).flat_map(|(n, _)| outputs(n)).collect();
        for field in &self.rest {
            if self.value_info_of(field)?.is_none_or(|name| made.contains(name) || alive.contains(name)) {
                graph.borrow(&self.mapping[field.clone()]);
            }
        }

        let mut model = Rope::default();
        for field in &self.around {
            model.borrow(&self.mapping[field.clone()]);
        }
        model.field(7, graph);
        Ok(model)
    }

    /// Whether a value of the graph has this name.
    fn has(&self, name: &str) -> bool {
        self.constants.iter().any(|constant| constant.name == name)
            || self.inputs.iter().any(|port| port.name == name)
            || self.nodes.iter().any(|node| outputs(node).any(|given| given == name))
    }

    fn put_node<'a>(
        &'a self,
        graph: &mut Rope<'a>,
        index: usize,
        node: &Node,
        uses: &HashMap<Use, String>,
    ) -> Result<()> {
        if let Some(constant) = node.constant.map(|c| &self.constants[c]).filter(|c| c.external.is_some()) {
            return Err(Error::unsupported("a node whose values are in another file").tensor(&constant.name));
        }
        let message = &self.mapping[node.message.clone()];
        if !(0..node.inputs.len()).any(|k| uses.contains_key(&(index, k))) {
            graph.head(1, message.len());
            graph.borrow(message);
            return Ok(());
        }
        let (mut bytes, mut k) = (Vec::with_capacity(message.len()), 0);
        for field in fields(&self.mapping, node.message.clone()) {
            let field = field?;
            let renamed = (field.number == 1).then(|| uses.get(&(index, k))).flatten();
            k += usize::from(field.number == 1);
            match renamed {
                Some(name) => put_bytes(&mut bytes, 1, name.as_bytes()),
                None => bytes.extend_from_slice(&self.mapping[field.whole]),
            }
        }
        graph.head(1, bytes.len());
        graph.own(&bytes);
        Ok(())
    }

    /// A constant that stays. Values in other files come into the model: what is made here has no folder.
    fn put_constant<'a>(&'a self, graph: &mut Rope<'a>, constant: &'a Constant) -> Result<()> {
        let Some((mapping, range)) = &constant.external else {
            graph.head(5, constant.message.len());
            graph.borrow(&self.mapping[constant.message.clone()]);
            return Ok(());
        };
        let mut tensor = Rope::default();
        for field in fields(&self.mapping, constant.message.clone()) {
            let field = field?;
            if !matches!(field.number, 9 | 13 | 14) {
                tensor.borrow(&self.mapping[field.whole]);
            }
        }
        tensor.head(9, range.len());
        tensor.borrow(&mapping[range.clone()]);
        graph.field(5, tensor);
        Ok(())
    }

    /// The name of the value that this field of the graph gives the type of, if it is such a field.
    fn value_info_of(&self, field: &Range<usize>) -> Result<Option<&str>> {
        for field in fields(&self.mapping, field.clone()) {
            let field = field?;
            if field.number != 13 {
                return Ok(None);
            }
            for field in fields(&self.mapping, field.range()?) {
                let field = field?;
                if field.number == 1 {
                    let name = &self.mapping[field.range()?];
                    return Ok(std::str::from_utf8(name).ok());
                }
            }
        }
        Ok(None)
    }
}

fn outputs(node: &Node) -> impl Iterator<Item = &str> {
    node.outputs.iter().map(String::as_str)
}

impl<'a> Replacement<'a> {
    fn dims(&self) -> Result<Vec<i64>> {
        let extents = self.shape.iter().map(|&extent| i64::try_from(extent));
        extents.collect::<Result<_, _>>().map_err(|_| Error::unsupported("an extent beyond what ONNX can say"))
    }

    fn value_info(&self) -> Result<ValueInfoProto> {
        let dim = self.dims()?.into_iter().map(|n| Dimension { value: Some(dimension::Value::DimValue(n)) }).collect();
        let tensor_type =
            TensorTypeProto { elem_type: Some(onnx_type(self.dtype)? as i32), shape: Some(TensorShapeProto { dim }) };
        Ok(ValueInfoProto {
            name: Some(self.name.to_owned()),
            r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
            doc_string: None,
        })
    }

    /// A constant without its values.
    fn head(&self, name: &str, dtype: DType) -> Result<TensorProto> {
        Ok(TensorProto {
            name: Some(name.to_owned()),
            dims: self.dims()?,
            data_type: Some(onnx_type(dtype)? as i32),
            ..TensorProto::default()
        })
    }

    fn tensor(&self, values: &'a [u8]) -> Result<Rope<'a>> {
        let mut tensor = Rope::default();
        tensor.own(&self.head(self.name, self.dtype)?.encode_to_vec());
        tensor.head(9, values.len());
        tensor.borrow(values);
        Ok(tensor)
    }
}
