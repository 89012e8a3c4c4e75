//! Names recovered from what is used beside a constant.

use std::collections::HashMap;

use super::super::attributes::AttributeValue;
use super::super::constant::Constant;
use super::super::file::{Node, OnnxFile, is_onnx};
use super::super::rewrite::Use;
use super::NameSource;
use super::names::{is_given, module_of, sibling};
use crate::error::Result;
use crate::tensor::Tensor;

/// A name that one use of a constant speaks for.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) name: String,
    /// Whether the graph has it transposed.
    pub(super) is_transposed: bool,
    pub(super) source: NameSource,
}

/// A graph by its values: who makes and who reads each.
pub(super) struct Neighbours<'a> {
    file: &'a OnnxFile,
    readers: HashMap<&'a str, Vec<Use>>,
    producers: HashMap<&'a str, usize>,
    constants: HashMap<&'a str, &'a Tensor>,
    /// All names that a state dict could have, sorted.
    given: Vec<&'a str>,
}

/// The inputs of operators that have a module's parameters, by place: [`BATCH_NORM`]'s first, of the others
/// weight and bias.
const BATCH_NORM: [(usize, &str); 4] = [(1, "weight"), (2, "bias"), (3, "running_mean"), (4, "running_var")];
const WITH_BIAS: [&str; 7] = [
    "Conv",
    "ConvTranspose",
    "Gemm",
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "BatchNormalization",
];

/// The nodes that a matrix may go through before it is multiplied with, at most.
const MAX_STEPS: usize = 8;

impl<'a> Neighbours<'a> {
    pub(super) fn of(file: &'a OnnxFile) -> Self {
        let (mut readers, mut producers) = (HashMap::<_, Vec<Use>>::new(), HashMap::new());
        for (i, node) in file.nodes.iter().enumerate() {
            for (k, name) in node.inputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                readers.entry(name.as_str()).or_default().push((i, k));
            }
            producers.extend(node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), i)));
        }
        let constants: HashMap<&str, &Tensor> = file.floats().collect();
        let mut given: Vec<&str> = constants.keys().copied().filter(|name| is_given(name)).collect();
        given.sort_unstable();
        Self { file, readers, producers, constants, given }
    }

    /// The uses of a value.
    pub(super) fn readers(&self, value: &str) -> &[Use] {
        self.readers.get(value).map_or(&[], Vec::as_slice)
    }

    /// The node that makes a value.
    pub(super) fn producer(&self, value: &str) -> Option<(usize, &'a Node)> {
        self.producers.get(value).map(|&i| (i, &self.file.nodes[i]))
    }

    /// A constant of floats.
    pub(super) fn constant(&self, value: &str) -> Option<&'a Tensor> {
        self.constants.get(value).copied()
    }

    /// The names that a state dict could have, sorted.
    pub(super) fn given(&self) -> &[&'a str] {
        &self.given
    }

    /// The names that the uses of a constant speak for.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for a node that is damaged.
    pub(super) fn claims(&self, constant: &Constant, tensor: &Tensor) -> Result<Vec<Claim>> {
        let mut claims: Vec<Claim> = Vec::new();
        for (at, is_turned) in self.uses(&constant.name)? {
            if let Some(claim) = self.claim(at, is_turned, tensor)?
                && !claims.iter().any(|known| known.name == claim.name)
            {
                claims.push(claim);
            }
        }
        Ok(claims)
    }

    /// The uses of a constant, through what only hands it on; whether each has it transposed.
    fn uses(&self, constant: &str) -> Result<Vec<(Use, bool)>> {
        let (mut found, mut open, mut steps) = (Vec::new(), vec![(constant, false)], 0);
        while let Some((value, is_turned)) = open.pop() {
            for &(i, k) in self.readers(value) {
                let node = &self.file.nodes[i];
                let hands_on = is_onnx(&node.domain) && matches!(node.op.as_str(), "Identity" | "Cast" | "Transpose");
                match node.outputs.as_slice() {
                    [one] if hands_on && steps < MAX_STEPS => {
                        steps += 1;
                        let turns = node.op == "Transpose" && self.turns(i)?;
                        open.push((one, is_turned != turns));
                    }
                    _ => found.push(((i, k), is_turned)),
                }
            }
        }
        Ok(found)
    }

    fn claim(&self, (i, k): Use, is_turned: bool, tensor: &Tensor) -> Result<Option<Claim>> {
        let node = &self.file.nodes[i];
        if !is_onnx(&node.domain) {
            return Ok(None);
        }
        let is_matrix = tensor.shape().len() == 2;
        let claim = |name: String, is_transposed, beside: &str| {
            Some(Claim { name, is_transposed, source: NameSource::Beside(beside.to_owned()) })
        };
        let op = node.op.as_str();
        Ok(match (op, k) {
            ("MatMul", 1) if is_matrix => {
                // The matrix is [in, out] where it is multiplied with.
                let outputs = tensor.shape()[usize::from(!is_turned)];
                let bias = self.added_to(node, outputs);
                match bias.and_then(|bias| Some((sibling(bias, "bias", "weight")?, bias))) {
                    Some((name, bias)) => claim(name, !is_turned, bias),
                    None if bias.is_none() => self.of_module(node, !is_turned),
                    None => None,
                }
            }
            ("Gemm", 1) if is_matrix => {
                let is_transposed = self.flag(i, "transB")? == is_turned;
                match node.inputs.get(2).and_then(|bias| Some((sibling(bias, "bias", "weight")?, bias))) {
                    Some((name, bias)) => claim(name, is_transposed, bias),
                    None if node.inputs.get(2).is_none_or(String::is_empty) => self.of_module(node, is_transposed),
                    None => None,
                }
            }
            ("BatchNormalization", _) => self.of_batch_norm(node, k),
            (op, 1) if WITH_BIAS.contains(&op) => {
                let bias = node.inputs.get(2);
                match bias.and_then(|bias| Some((sibling(bias, "bias", "weight")?, bias))) {
                    Some((name, bias)) => claim(name, false, bias),
                    None if bias.is_none_or(String::is_empty) => self.of_module(node, false),
                    None => None,
                }
            }
            (op, 2) if WITH_BIAS.contains(&op) => {
                let weight = node.inputs.get(1);
                let named = weight.and_then(|weight| Some((sibling(weight, "weight", "bias")?, weight)));
                named.and_then(|(name, weight)| claim(name, false, weight))
            }
            // A normalisation that is written out ends in a product and a sum.
            ("Mul", _) if tensor.shape().len() == 1 => {
                let bias = self.added_to(node, tensor.numel());
                let named = bias.and_then(|bias| Some((sibling(bias, "bias", "weight")?, bias)));
                named.and_then(|(name, bias)| claim(name, false, bias))
            }
            _ => None,
        })
    }

    /// What a batch normalisation reads there, called after what it reads elsewhere.
    fn of_batch_norm(&self, node: &Node, place: usize) -> Option<Claim> {
        let (_, own) = BATCH_NORM.iter().find(|(k, _)| *k == place)?;
        BATCH_NORM.iter().filter(|(k, _)| *k != place).find_map(|(k, other)| {
            let beside = node.inputs.get(*k)?;
            let name = sibling(beside, other, own)?;
            Some(Claim { name, is_transposed: false, source: NameSource::Beside(beside.clone()) })
        })
    }

    /// The weight of a module without a bias, where the exporter wrote down in which module the node is, and that
    /// module has no parameters or modules of its own besides.
    fn of_module(&self, node: &Node, is_transposed: bool) -> Option<Claim> {
        let value = node.outputs.first()?;
        let module = module_of(value)?;
        let within = format!("{module}.");
        let next = self.given.partition_point(|name| *name < within.as_str());
        let has_others = self.given.get(next).is_some_and(|name| name.starts_with(&within));
        let name = format!("{module}.weight");
        (!has_others).then(|| Claim { name, is_transposed, source: NameSource::Module(value.clone()) })
    }

    /// The vector of that length that is added to a node's result.
    fn added_to(&self, node: &Node, length: usize) -> Option<&'a str> {
        let value = node.outputs.first()?;
        self.readers(value).iter().find_map(|&(i, k)| {
            let add = &self.file.nodes[i];
            let other = match (add.op.as_str(), is_onnx(&add.domain), add.inputs.as_slice()) {
                ("Add", true, [a, b]) => if k == 0 { b } else { a }.as_str(),
                _ => return None,
            };
            let (name, tensor) = self.constants.get_key_value(other)?;
            (tensor.shape() == [length]).then_some(*name)
        })
    }

    fn turns(&self, node: usize) -> Result<bool> {
        Ok(match self.file.attributes(node)?.remove("perm") {
            None => true,
            Some(AttributeValue::Ints(order)) => order == [1, 0],
            Some(_) => false,
        })
    }

    fn flag(&self, node: usize, name: &str) -> Result<bool> {
        Ok(matches!(self.file.attributes(node)?.get(name), Some(AttributeValue::Int(value)) if *value != 0))
    }
}
