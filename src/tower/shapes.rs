//! The names and shapes of a tower's parameters, which its architecture is read off.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::form::BlockForm;
use crate::error::{Error, Result};

/// The most layers; the largest published towers have 64.
pub const MAX_LAYERS: usize = 1_000;
/// The largest extent, of which products of a few cannot overflow.
pub(super) const MAX_EXTENT: usize = 1 << 20;

/// Names and shapes of the parameters of one tower.
pub(super) struct Shapes<'a> {
    /// `image encoder` or `text encoder`: what errors call it.
    pub(super) what: &'static str,
    pub(super) shapes: BTreeMap<&'a str, &'a [usize]>,
}

impl<'a> Shapes<'a> {
    pub(super) fn get(&self, name: &str) -> Result<&'a [usize]> {
        self.shapes.get(name).copied().ok_or_else(|| self.missing(name))
    }

    /// The number of residual blocks `{prefix}{i}.…`, whose indices have to be 0, 1, 2, … without a gap.
    pub(super) fn layers(&self, prefix: &str) -> Result<usize> {
        let mut indices = BTreeSet::new();
        for name in self.shapes.keys() {
            let Some((index, _)) = name.strip_prefix(prefix).and_then(|rest| rest.split_once('.')) else { continue };
            // `01` would be another spelling of 1, and its parameters have no canonical name.
            let parsed = index.parse::<usize>().ok().filter(|n| n.to_string() == index && *n < MAX_LAYERS);
            let Some(layer) = parsed else {
                return Err(Error::mismatch("not the number of a block")
                    .tensor(*name)
                    .expected(format_args!("0 to {}", MAX_LAYERS - 1))
                    .got(format_args!("`{index}`")));
            };
            indices.insert(layer);
        }
        match (0..).zip(&indices).find(|(expected, layer)| expected != *layer) {
            Some((absent, _)) => Err(self.missing(&format!("{prefix}{absent}.ln_1.weight"))),
            None if indices.is_empty() => Err(self.missing(&format!("{prefix}0.ln_1.weight"))),
            None => Ok(indices.len()),
        }
    }

    /// The width of the MLPs' hidden layer.
    pub(super) fn mlp_width(&self, prefix: &str, width: usize) -> Result<usize> {
        let name = format!("{prefix}0.mlp.c_fc.weight");
        match *self.get(&name)? {
            [hidden, w] if w == width => Ok(hidden),
            ref other => Err(Error::mismatch("not the first layer of an MLP")
                .tensor(name)
                .expected(format_args!("shape [hidden, {width}]"))
                .got(format_args!("{other:?}"))),
        }
    }

    /// The form of the blocks `{prefix}{i}.…`, with the width of the MLPs' hidden layer. A part that any block has, all
    /// have.
    pub(super) fn block_form(&self, prefix: &str, width: usize) -> Result<(BlockForm, usize)> {
        let first = self.mlp_width(prefix, width)?;
        let second = self.shapes.get(format!("{prefix}0.mlp.c_proj.weight").as_str());
        let gated = second.is_some_and(|shape| matches!(**shape, [_, hidden] if 2 * hidden == first));
        let has = |part: &str| self.shapes.keys().any(|name| name.starts_with(prefix) && name.contains(part));
        let form = BlockForm {
            qkv_bias: has(".attn.in_proj_bias"),
            layer_scale: has(".ls_1.") || has(".ls_2."),
            attn_norm: has(".attn.ln_inner."),
            gated,
            mlp_norm: has(".mlp.ln."),
        };
        Ok((form, if gated { first / 2 } else { first }))
    }

    /// Checks that every parameter is there with its shape, and that every one there has a use.
    pub(super) fn check(&self, parameters: &[(String, Vec<usize>)]) -> Result<()> {
        for (name, expected) in parameters {
            let got = self.get(name)?;
            if got != expected {
                return Err(Error::mismatch(format!("shape contradicts the rest of the {}", self.what))
                    .tensor(name)
                    .expected(format_args!("{expected:?}"))
                    .got(format_args!("{got:?}")));
            }
        }
        let used: HashSet<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        match self.shapes.iter().find(|(name, _)| !used.contains(*name)) {
            None => Ok(()),
            Some((name, shape)) => Err(Error::mismatch(format!("a parameter that this {} would not use", self.what))
                .tensor(*name)
                .got(format_args!("shape {shape:?}"))
                .hint("Running without it would give wrong embeddings; the model is of a kind not known here")),
        }
    }

    fn missing(&self, name: &str) -> Error {
        Error::mismatch(format!("the {} lacks this parameter", self.what)).tensor(name)
    }
}

/// Names and shapes of one residual block's parameters, whose names begin with `prefix`.
pub(super) fn block_parameters(
    prefix: &str,
    width: usize,
    mlp_width: usize,
    form: BlockForm,
) -> impl Iterator<Item = (String, Vec<usize>)> {
    let w = width;
    let prefix = prefix.to_owned();
    let hidden = if form.gated { 2 * mlp_width } else { mlp_width };
    let parameters = [
        (true, "ln_1.weight", vec![w]),
        (true, "ln_1.bias", vec![w]),
        (true, "attn.in_proj_weight", vec![3 * w, w]),
        (form.qkv_bias, "attn.in_proj_bias", vec![3 * w]),
        (form.attn_norm, "attn.ln_inner.weight", vec![w]),
        (form.attn_norm, "attn.ln_inner.bias", vec![w]),
        (true, "attn.out_proj.weight", vec![w, w]),
        (true, "attn.out_proj.bias", vec![w]),
        (form.layer_scale, "ls_1.gamma", vec![w]),
        (true, "ln_2.weight", vec![w]),
        (true, "ln_2.bias", vec![w]),
        (true, "mlp.c_fc.weight", vec![hidden, w]),
        (true, "mlp.c_fc.bias", vec![hidden]),
        (form.mlp_norm, "mlp.ln.weight", vec![mlp_width]),
        (form.mlp_norm, "mlp.ln.bias", vec![mlp_width]),
        (true, "mlp.c_proj.weight", vec![w, mlp_width]),
        (true, "mlp.c_proj.bias", vec![w]),
        (form.layer_scale, "ls_2.gamma", vec![w]),
    ];
    let parameters = parameters.into_iter().filter(|(is_there, ..)| *is_there);
    parameters.map(move |(_, name, shape)| (format!("{prefix}{name}"), shape))
}

/// Checks that every extent is within its limit, and that heads share the width evenly.
pub(super) fn check_extents(extents: &[(&str, usize, usize)], width: usize, heads: usize) -> Result<()> {
    for &(what, value, limit) in extents {
        if value == 0 || value > limit {
            return Err(Error::invalid(format!("out of range: the architecture's {what}"))
                .expected(format_args!("1 to {limit}"))
                .got(value));
        }
    }
    if !width.is_multiple_of(heads) {
        return Err(Error::invalid("attention heads must share the width evenly")
            .expected(format_args!("a divisor of {width}"))
            .got(heads));
    }
    Ok(())
}
