//! The reasons why a parameter was not found: what in the graph speaks for one of the reasons that are known, and what
//! leads on.

use std::collections::HashSet;

use super::super::constant::Constant;
use super::super::file::{Node, OnnxFile};
use super::super::rewrite::Needed;
use super::super::types::type_name;
use super::candidates;
use super::folded::Folds;
use super::map::{GraphMap, Mapped};
use super::modules;
use super::solve::Solution;
use super::uses::Sites;
use crate::checkpoint::Checkpoint;
use crate::tensor::Tensor;
use crate::weights::View;

/// The domain of ONNX Runtime's operators for the layout that one processor likes best.
const NCHWC: &str = "com.microsoft.nchwc";

/// A graph and what was found in it.
pub(super) struct Evidence<'a> {
    pub(super) file: &'a OnnxFile,
    pub(super) needed: &'a Needed,
    pub(super) base: &'a Checkpoint,
    pub(super) map: &'a GraphMap,
    pub(super) sites: &'a Sites,
    pub(super) solution: &'a Solution,
    pub(super) folds: &'a Folds,
}

impl Evidence<'_> {
    /// A sentence that says why, as far as the graph tells, and what to do.
    pub(super) fn why_missing(&self, name: &str) -> String {
        let Some(tensor) = self.base.get(name) else { return OTHER.into() };
        let rewritten = self.nodes().any(|node| node.domain == NCHWC);
        if rewritten {
            return "ONNX Runtime has rewritten the graph for this processor (NCHWc, level ALL): give the graph from \
                    before that, or one saved at level EXTENDED"
                .into();
        }
        if let Some(quantised) = self.quantised() {
            return format!(
                "The graph's weights are quantised ({quantised}), and tasks change them as floats: give the graph in \
                 f32 or f16, from before it was quantised"
            );
        }
        if let Some(folded) = self.folded_batch_norm(name, tensor) {
            return folded;
        }
        if let Some(left_out) = self.left_out(name, tensor) {
            return left_out;
        }
        if let Some(merged) = self.merged(name, tensor) {
            return merged;
        }
        let near = self.nearest(name, tensor);
        if let Some(folded) = self.folded(name) {
            return folded;
        }
        let equal = self.sites.sites.iter().zip(&self.solution.contradicted).find(|(_, contradicted)| **contradicted);
        match (near, equal) {
            (Some((distance, constant)), _) if distance > 0.0 => {
                format!("`{constant}` has its size, but values that differ by up to {distance:e}. {OTHER}")
            }
            (_, Some((site, _))) => format!(
                "`{}` has the values of several parameters, and its uses in the graph do not tell which it is; a map \
                 can",
                self.file.constants[site.constant].name
            ),
            _ if self.file.has_functions => {
                format!("Constants inside functions are not looked at: inline them. {OTHER}")
            }
            _ => OTHER.into(),
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.file.nodes.iter().zip(&self.needed.nodes).filter(|(_, needed)| **needed).map(|(node, _)| node)
    }

    /// The constants that take part and are none of the parameters that were found.
    fn free(&self) -> impl Iterator<Item = &Constant> {
        self.file.constants.iter().filter(|constant| {
            let is_this =
                |(name, mapped): (&String, &Mapped)| mapped.constant.as_ref().unwrap_or(name) == &constant.name;
            self.needed.reads(&constant.name) && !self.map.tensors.iter().any(is_this)
        })
    }

    /// How the graph's weights are quantised: by operators that say so, or as constants of few bits.
    fn quantised(&self) -> Option<String> {
        let says_so = |node: &&Node| {
            let op = node.op.as_str();
            op.starts_with("QLinear")
                || op.starts_with("QOrdered")
                || op.ends_with("Integer")
                || op.contains("uantize")
                || op.ends_with("NBits")
                || op.ends_with("Bnb4")
                || matches!(op, "QAttention" | "QGemm" | "QMoE" | "MatMulIntegerToFloat")
        };
        let few = self.free().find(|constant| constant.is_of_few_bits() && constant.numel() > 1);
        let operator = self.nodes().find(says_so).map(|node| node.op.clone());
        match (operator, few) {
            (Some(operator), Some(constant)) => Some(format!("{operator}, {}", type_name(constant.data_type))),
            (Some(operator), None) => Some(operator),
            (None, Some(constant)) => Some(format!("`{}` of {}", constant.name, type_name(constant.data_type))),
            (None, None) => None,
        }
    }

    /// Whether the base's parameter changes nothing, so that optimisers leave it out: nothing added, or times one.
    fn left_out(&self, name: &str, tensor: &Tensor) -> Option<String> {
        let mut first = [0.0];
        let is_uniform = tensor.numel() > 0 && candidates::is_uniform(tensor).ok()?;
        tensor.read_f32(0, &mut first).ok().filter(|()| is_uniform)?;
        let is_bias = name.ends_with("bias");
        let what = match first[0] {
            0.0 if is_bias => "zero",
            1.0 if !is_bias => "one",
            _ => return None,
        };
        Some(format!(
            "All of its values are {what} in the base, which changes nothing, so exporters and simplifiers leave it out, \
             and tasks need it: export without optimising (optimize=False, no constant folding, no simplifier)"
        ))
    }

    /// Whether the parameter is one number throughout, and others of its size are the same number: a LayerScale before
    /// training. Exporters keep one constant for all of them.
    fn merged(&self, name: &str, tensor: &Tensor) -> Option<String> {
        let first = |tensor: &Tensor| {
            let mut first = [0.0];
            tensor.read_f32(0, &mut first).ok().map(|()| first[0])
        };
        let is_uniform = |tensor: &Tensor| tensor.numel() > 1 && candidates::is_uniform(tensor).unwrap_or(false);
        let value = first(tensor).filter(|_| is_uniform(tensor))?;
        let is_alike = |other: &Tensor| {
            other.dtype().is_float()
                && other.numel() == tensor.numel()
                && first(other) == Some(value)
                && is_uniform(other)
        };
        let (other, _) = self.base.iter().find(|(other, values)| *other != name && is_alike(values))?;
        Some(format!(
            "All of its values are {value:e} in the base, and so are those of `{other}`, as without training: exporters \
             merge such constants, and nothing tells which parameter one of them is. A map can, and a base that was \
             trained has no such parameters"
        ))
    }

    /// Whether a batch normalisation was folded into the layer before it, as exporters do where nothing trains, and not
    /// recognised there.
    fn folded_batch_norm(&self, name: &str, tensor: &Tensor) -> Option<String> {
        const OUT: &str = "export with the batch normalisations in the graph: with the newer exporter by optimize=False, \
                           with the older one (dynamo=False) by training=torch.onnx.TrainingMode.PRESERVE";

        let bound: HashSet<&str> = self.map.tensors.values().flat_map(Mapped::parameters).collect();
        // Of those that are not there the parameter's own, or, of a layer, one of its width.
        let own = modules::stem(name);
        let is_layer = name.ends_with("weight") && tensor.shape().len() >= 2;
        let mut lost = self.base.iter().filter_map(|(name, variance)| {
            let module = modules::stem(name);
            let fits = if is_layer { variance.shape() == &tensor.shape()[..1] } else { module == own };
            (name.ends_with("running_var") && fits && !bound.contains(name)).then_some(module)
        });
        let module = lost.next()?;
        Some(if self.folds.alike.iter().any(|alike| alike == module) {
            format!(
                "The batch normalisation `{module}` was folded into the layer before it, and has the values of others \
                 in the base, so that nothing tells which of them belongs there: {OUT}"
            )
        } else {
            format!(
                "A batch normalisation (`{module}`, or another of its width) was folded into the layer before it in a \
                 form that is not recognised, with other values than the base has, or so that its bias came to zero, as \
                 without training, and was left out: {OUT}"
            )
        })
    }

    /// Whether a normalisation's weights were worked into the layer after it.
    fn folded(&self, name: &str) -> Option<String> {
        const AFTER: [(&str, &str); 3] =
            [("ln_1.", "attn.in_proj_weight"), ("ln_2.", "mlp.c_fc.weight"), ("ln_post.", "proj")];
        let stem = |part: &str| name.find(part).map(|at| &name[..at]);
        let of_layer = AFTER.iter().find_map(|(norm, layer)| Some((stem(norm)?, *layer)));
        let before = AFTER.iter().find_map(|(norm, layer)| {
            let at = name.strip_suffix(layer)?;
            Some((format!("{at}{norm}weight"), name.to_owned()))
        });
        let lacks = |name: &str| {
            let parts = self.map.tensors.values().flat_map(|mapped| &mapped.sum);
            self.base.get(name).is_some() && !parts.clone().any(|part| part.parameter == name)
        };
        let (norm, layer) = match (of_layer, before) {
            (Some((stem, layer)), _) => (name.to_owned(), format!("{stem}{layer}")),
            (None, Some(pair)) => pair,
            (None, None) => return None,
        };
        (lacks(&norm) && lacks(&layer)).then(|| {
            format!(
                "Neither `{norm}` nor `{layer}` is there: a normalisation that was folded into the layer after it cannot \
                 be told apart again. Give the graph from before that"
            )
        })
    }

    /// The constant of the parameter's size that comes nearest to it, and how far its values are apart at most.
    fn nearest(&self, name: &str, tensor: &Tensor) -> Option<(f32, &str)> {
        let mut near: Option<(f32, &str)> = None;
        for constant in self.free() {
            let Some(theirs) = constant.tensor.as_ref().filter(|theirs| theirs.numel() == tensor.numel()) else {
                continue;
            };
            let transposed = View { permute: Some(vec![1, 0]), ..View::whole(name) };
            for ours in [Ok(tensor.clone()), transposed.of(tensor)].into_iter().flatten() {
                if let Ok(distance) = candidates::distance(&ours, theirs)
                    && near.is_none_or(|(least, _)| distance < least)
                {
                    near = Some((distance, &constant.name));
                }
            }
        }
        near
    }
}

/// The hint where nothing tells why. Nothing leads to `--allow-missing` here: a graph that has the parameter in another
/// form would run with the base's values of it.
const OTHER: &str = "Is it a graph of another model, or one with weights in another form than the base's?";
