//! A graph with some of its constants given from outside, or with other values. Everything else stays as it is in the
//! file, byte for byte.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::byte_chain::ByteChain;
use super::constant::Constant;
use super::emit::{Attribute, ConstantValues, Extent, ModelWriter, Operator};
use super::file::{Node, OnnxFile, Port};
use super::own::DOMAIN;
use super::types::{TensorType, onnx_type};
use super::wire::{fields, last};
use crate::error::{Error, Result};
use crate::weights::TensorSpec;

/// A place where a node reads a value.
pub(super) type Use = (usize, usize);

/// A value that takes the place of a constant, in all or some of its uses.
pub(super) struct Replacement<'a> {
    pub(super) tensor: &'a TensorSpec,
    pub(super) values: ConstantSource<'a>,
}

/// A node of our own operators.
pub(super) struct OwnNode {
    pub(super) op: &'static str,
    /// Names; empty where an optional one is left out.
    pub(super) inputs: Vec<String>,
    pub(super) output: String,
    pub(super) attributes: Vec<Attribute>,
}

/// Nodes of our own operators that compute what some of a graph's do.
#[derive(Default)]
pub(super) struct OwnNodes {
    /// By the place of the node that each stands for.
    pub(super) nodes: HashMap<usize, OwnNode>,
    /// The nodes that are not needed beside them.
    pub(super) dropped: HashSet<usize>,
}

/// The source of the values of a [`Replacement`].
pub(super) enum ConstantSource<'a> {
    /// Every run gives them: it becomes an input.
    Input,
    /// A constant. [`ConstantValues::Halves`] are cast to f32 in front of everything.
    Constant(ConstantValues<'a>),
}

impl Replacement<'_> {
    /// What the constant in f16 is called whose cast takes the name of the parameter.
    fn narrowed_name(&self) -> Option<String> {
        let is_narrowed = matches!(self.values, ConstantSource::Constant(ConstantValues::Halves(_)));
        is_narrowed.then(|| format!("{}.f16", self.tensor.name))
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

impl OwnNode {
    fn put(&self, model: &mut ModelWriter<'_>) {
        let inputs: Vec<&str> = self.inputs.iter().map(String::as_str).collect();
        let given = inputs.iter().rposition(|input| !input.is_empty()).map_or(0, |last| last + 1);
        model.node(&Operator {
            // Nodes are called like what they make, which no two do.
            name: &self.output,
            domain: DOMAIN,
            op: self.op,
            inputs: &inputs[..given],
            outputs: &[&self.output],
            attributes: &self.attributes,
        });
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
    /// same name is read, and in the `uses` that name them. `own` are nodes in the place of others.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for what this cannot be done with.
    pub(super) fn rewritten<'a>(
        &'a self,
        output: &str,
        replacements: &[Replacement<'a>],
        uses: &HashMap<Use, String>,
        own: &OwnNodes,
    ) -> Result<ModelWriter<'a>> {
        let mut needed = self.needed(output);
        own.dropped.iter().for_each(|i| needed.nodes[*i] = false);
        let replaced: HashSet<&str> = replacements.iter().map(|r| r.tensor.name.as_str()).collect();
        let mut model = ModelWriter::default();
        let mut alive: HashSet<&str> = HashSet::from([output]);
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, _)| needed.nodes[*i]) {
            alive.extend(node.captured.iter().map(String::as_str));
            if let Some(own) = own.nodes.get(&i) {
                alive.extend(own.inputs.iter().map(String::as_str));
                continue;
            }
            for (k, name) in node.inputs.iter().enumerate() {
                alive.insert(uses.get(&(i, k)).unwrap_or(name));
            }
        }
        for replacement in replacements {
            let Some(narrowed) = replacement.narrowed_name() else { continue };
            if self.has(&narrowed) || replaced.contains(narrowed.as_str()) {
                return Err(Error::unsupported("the graph has a value of this name, which weights as f16 would need")
                    .tensor(narrowed)
                    .hint("Write the weights as f32 instead"));
            }
            // ONNX Runtime computes it once, when it loads the file.
            let name = &replacement.tensor.name;
            model.node(&Operator {
                name: &format!("widen {name}"),
                domain: "",
                op: "Cast",
                inputs: &[&narrowed],
                outputs: &[name],
                attributes: &[Attribute::Int("to", TensorType::Float as i64)],
            });
        }
        for (i, node) in self.sorted().filter(|(i, _)| needed.nodes[*i]) {
            if node.constant.is_some_and(|c| {
                let name = self.constants[c].name.as_str();
                replaced.contains(name) || !alive.contains(name)
            }) {
                continue;
            }
            match own.nodes.get(&i) {
                Some(own) => own.put(&mut model),
                None => self.put_node(&mut model.graph, i, node, uses)?,
            }
        }
        let of_nodes: HashSet<usize> = self.nodes.iter().filter_map(|node| node.constant).collect();
        for (i, constant) in self.constants.iter().enumerate() {
            let name = constant.name.as_str();
            if !of_nodes.contains(&i) && alive.contains(name) && !replaced.contains(name) {
                self.put_constant(&mut model, constant)?;
            }
        }
        // Models of old list their constants as inputs too.
        let is_replaced = |port: &&Port| replaced.contains(port.name.as_str());
        for port in self.inputs.iter().filter(|port| alive.contains(port.name.as_str()) && !is_replaced(port)) {
            model.graph.borrowed(11, &self.mapping[port.message.clone()]);
        }
        for replacement in replacements {
            let TensorSpec { name, dtype, shape, packed, .. } = replacement.tensor;
            match (&replacement.values, replacement.narrowed_name()) {
                (ConstantSource::Input, _) if packed.is_some() => {
                    model.input(name, TensorType::Uint8, &[Extent::Fixed(replacement.tensor.nbytes())]);
                }
                (ConstantSource::Input, _) => {
                    let extents: Vec<Extent> = shape.iter().copied().map(Extent::Fixed).collect();
                    model.input(name, onnx_type(*dtype)?, &extents);
                }
                (ConstantSource::Constant(values), Some(narrowed)) => {
                    model.constant(&narrowed, TensorType::Float16, shape, *values);
                }
                (ConstantSource::Constant(values), None) => model.constant(name, onnx_type(*dtype)?, shape, *values),
            }
        }
        for port in self.outputs.iter().filter(|port| port.name == output) {
            model.graph.borrowed(12, &self.mapping[port.message.clone()]);
        }
        let made: HashSet<&str> =
            self.nodes.iter().zip(&needed.nodes).filter(|(_, needed)| **needed).flat_map(|(n, _)| outputs(n)).collect();
        for field in &self.rest {
            if self.value_info_of(field)?.is_none_or(|name| made.contains(name) || alive.contains(name)) {
                model.graph.borrow(&self.mapping[field.clone()]);
            }
        }
        // ONNX Runtime's optimiser imports every domain that its process knows, and sessions without our operators
        // refuse a graph with ours.
        let is_ours = !self.has_domain(DOMAIN);
        for field in &self.around {
            if !is_ours || self.operator_set(field)?.is_none_or(|(domain, _)| domain != DOMAIN) {
                model.around.borrow(&self.mapping[field.clone()]);
            }
        }
        if !own.nodes.is_empty() {
            model.operator_set(DOMAIN, 1);
        }
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
        graph: &mut ByteChain<'a>,
        index: usize,
        node: &Node,
        uses: &HashMap<Use, String>,
    ) -> Result<()> {
        if let Some(constant) = node.constant.map(|c| &self.constants[c]).filter(|c| c.external.is_some()) {
            return Err(Error::unsupported("a node whose values are in another file").tensor(&constant.name));
        }
        if !(0..node.inputs.len()).any(|k| uses.contains_key(&(index, k))) {
            graph.borrowed(1, &self.mapping[node.message.clone()]);
            return Ok(());
        }
        let (mut message, mut k) = (ByteChain::default(), 0);
        for field in fields(&self.mapping, node.message.clone()) {
            let field = field?;
            let renamed = (field.number == 1).then(|| uses.get(&(index, k))).flatten();
            k += usize::from(field.number == 1);
            match renamed {
                Some(name) => message.text(1, name),
                None => message.borrow(&self.mapping[field.whole]),
            }
        }
        graph.message(1, message);
        Ok(())
    }

    /// A constant that stays. Values in other files come into the model: what is made here has no folder.
    fn put_constant<'a>(&'a self, model: &mut ModelWriter<'a>, constant: &'a Constant) -> Result<()> {
        let Some((mapping, range)) = &constant.external else {
            model.graph.borrowed(5, &self.mapping[constant.message.clone()]);
            return Ok(());
        };
        let mut head = ByteChain::default();
        for field in fields(&self.mapping, constant.message.clone()) {
            let field = field?;
            if !matches!(field.number, 9 | 13 | 14) {
                head.borrow(&self.mapping[field.whole]);
            }
        }
        model.constant_of(head, &mapping[range.clone()]);
        Ok(())
    }

    /// The name of the value that this field of the graph gives the type of, if it is such a field.
    fn value_info_of(&self, field: &Range<usize>) -> Result<Option<&str>> {
        let name = last(&self.mapping, field.clone(), &[13, 1])?.map(|name| name.range()).transpose()?;
        Ok(name.and_then(|name| std::str::from_utf8(&self.mapping[name]).ok()))
    }
}

fn outputs(node: &Node) -> impl Iterator<Item = &str> {
    node.outputs.iter().map(String::as_str)
}
