//! A linear layer around a product: its bias and its activation.

use super::activation;
use super::finder::Finder;
use crate::error::Result;
use crate::kernel::linear::Activation;

/// A product and what belongs to it.
pub(super) struct Layer {
    /// The name of the bias; empty where there is none.
    pub(super) bias: String,
    pub(super) activation: Activation,
    /// The node that gives the result, and its name.
    pub(super) last: usize,
    pub(super) output: String,
    /// The nodes before it.
    pub(super) dropped: Vec<usize>,
}

impl Layer {
    /// The layer that a product with that many outputs is the heart of; `None` for a `Gemm` that adds something else
    /// than a bias.
    pub(super) fn of(finder: &Finder<'_>, product: usize, outputs: usize) -> Result<Option<Layer>> {
        let mut layer = Layer {
            bias: String::new(),
            activation: Activation::None,
            last: product,
            output: finder.node(product).outputs[0].clone(),
            dropped: Vec::new(),
        };
        if !finder.name((product, 2)).is_empty() {
            if !finder.is_bias((product, 2), outputs) {
                return Ok(None);
            }
            finder.name((product, 2)).clone_into(&mut layer.bias);
        } else if let &[(add, k @ (0 | 1))] = finder.readers(&layer.output)
            && let Some(sum) = finder.result_of(add, "Add")
            && finder.is_bias((add, 1 - k), outputs)
        {
            finder.name((add, 1 - k)).clone_into(&mut layer.bias);
            layer.dropped.push(std::mem::replace(&mut layer.last, add));
            sum.clone_into(&mut layer.output);
        }
        if let Some((activation, mut nodes)) = activation::after(finder, &layer.output)?
            && let Some(last) = nodes.pop()
        {
            layer.activation = activation;
            layer.dropped.push(std::mem::replace(&mut layer.last, last));
            layer.dropped.extend(nodes);
            finder.node(last).outputs[0].clone_into(&mut layer.output);
        }
        Ok(Some(layer))
    }
}
