//! Linear layers of a user's graph, which our own operator computes with weights that are packed.
//!
//! Exporters write a layer as `MatMul` with the transposed matrix and an `Add` of the bias, or as `Gemm`. Such a
//! product becomes one node of [`LINEAR`], with its bias and the activation behind it where nothing else reads what
//! lies between. What is not certain stays as it is: a matrix that anything else reads too, that is not whole rows of
//! a parameter, or that is of another type than f32.

mod activation;
mod finder;
mod layer;

use std::sync::Arc;

use self::finder::{Finder, Product};
use self::layer::Layer;
use super::bound::BoundGraph;
use super::emit::Attribute;
use super::own::{DOMAIN, LINEAR, UNPACKED_LINEAR, linear_attributes};
use super::rewrite::{ConstantSource, OwnNode, OwnNodes};
use crate::error::Result;
use crate::kernel::linear::{PackedLayout, Precision};
use crate::tensor::DType;
use crate::weights::{Layout, TensorSpec, View};

/// The epsilon of a norm that our nodes do not have.
const NO_NORM: f32 = 0.0;

/// The linear layers of a graph that our own operator can compute.
pub(crate) struct LinearLayers {
    /// All tensors of the graph; those of packed matrices in that form.
    tensors: Vec<TensorSpec>,
    own: OwnNodes,
    /// Elements of the matrices that are packed, and of all that one would expect to be.
    packed: usize,
    expected: usize,
}

impl LinearLayers {
    /// The share of the linear layers' weights that are packed: 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        if self.packed == 0 { 0.0 } else { self.packed as f64 / self.expected as f64 }
    }
}

impl BoundGraph {
    /// The linear layers of the graph. `precision_of` tells how a tensor is to be packed, by the parameter that it is
    /// of and its shape, and gives `None` for one that never is: a matrix of that kind is multiplied by our own
    /// operator as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for a node that is damaged;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a view that does not fit its parameter.
    pub(crate) fn linear_layers(
        &self,
        precision_of: impl Fn(&str, &[usize]) -> Option<Precision>,
    ) -> Result<LinearLayers> {
        let mut layers = LinearLayers { tensors: Vec::new(), own: OwnNodes::default(), packed: 0, expected: 0 };
        // Another's operators may be called like ours.
        let is_taken = self.file.has_domain(DOMAIN);
        let finder = Finder::of(self);
        for tensor in self.layout.tensors() {
            let precision = tensor.parts.iter().find_map(|part| precision_of(&part.parameter, &tensor.shape));
            let is_matrix = tensor.shape.len() == 2;
            if precision.is_some() {
                layers.expected += tensor.numel();
            }
            let layer = match is_matrix && tensor.dtype == DType::F32 && !is_taken {
                true => self.layer(&finder, tensor, precision)?,
                false => None,
            };
            layers.tensors.push(match layer {
                Some((spec, own)) => {
                    layers.packed += if spec.packed.is_some() { spec.numel() } else { 0 };
                    layers.own.nodes.extend(own.nodes);
                    layers.own.dropped.extend(own.dropped);
                    spec
                }
                None => tensor.clone(),
            });
        }
        Ok(layers)
    }

    /// The nodes that multiply with `matrix`, of our own operator, and the form in which they take it; `None` where
    /// they are not, or not all of them, ours to replace.
    fn layer(
        &self,
        finder: &Finder<'_>,
        matrix: &TensorSpec,
        precision: Option<Precision>,
    ) -> Result<Option<(TensorSpec, OwnNodes)>> {
        let Some((products, passed)) = finder.products(&matrix.name)? else { return Ok(None) };
        let is_columns = products[0].is_columns;
        if products.iter().any(|product| product.is_columns != is_columns) {
            return Ok(None);
        }
        let spec = match precision {
            Some(precision) => self.packed_spec(matrix, is_columns, precision)?,
            None => Some(matrix.clone()),
        };
        let Some(spec) = spec else { return Ok(None) };
        let layout = spec.packed.map_or_else(|| as_it_is(matrix, is_columns), Some);
        let Some(layout) = layout else { return Ok(None) };

        let mut own = OwnNodes { dropped: passed.into_iter().collect(), ..OwnNodes::default() };
        for Product { node, .. } in products {
            let Some(layer) = Layer::of(finder, node, layout.outputs())? else { return Ok(None) };
            let inputs = vec![finder.name((node, 0)).to_owned(), matrix.name.clone(), layer.bias];
            let mut attributes = linear_attributes(layout, layer.activation, NO_NORM);
            if spec.packed.is_none() && is_columns {
                attributes.push(Attribute::Int("columns", 1));
            }
            let op = if spec.packed.is_some() { LINEAR } else { UNPACKED_LINEAR };
            own.nodes.insert(layer.last, OwnNode { op, inputs, output: layer.output, attributes });
            own.dropped.extend(layer.dropped);
        }
        Ok(Some((spec, own)))
    }

    /// The tensor of a matrix in packed form; `None` where it is not whole rows of one parameter, as they are, from the
    /// beginning of a panel on.
    fn packed_spec(&self, matrix: &TensorSpec, is_columns: bool, precision: Precision) -> Result<Option<TensorSpec>> {
        let [part] = matrix.parts.as_slice() else { return Ok(None) };
        let Some(shape) = self.layout.shape_of(&part.parameter) else { return Ok(None) };
        let is_turned = match part.permute.as_deref() {
            None | Some([0, 1]) => false,
            Some([1, 0]) => true,
            Some(_) => return Ok(None),
        };
        let &[outputs, inputs] = part.seen(shape)?.as_slice() else { return Ok(None) };
        let are_rows = shape.iter().skip(1).product::<usize>() == inputs;
        if part.scale.is_some() || part.norm.is_some() || part.count() != 1 || is_turned != is_columns || !are_rows {
            return Ok(None);
        }
        let view = View { rows: part.rows, ..View::whole(&part.parameter) };
        let Ok(packed) = PackedLayout::new(outputs, inputs, precision) else { return Ok(None) };
        let is_at_panel = view.elements(shape)?.start.is_multiple_of(packed.panel_elements());
        Ok(is_at_panel.then(|| TensorSpec {
            name: matrix.name.clone(),
            dtype: DType::F32,
            shape: vec![outputs, inputs],
            parts: vec![view],
            packed: Some(packed),
        }))
    }

    /// The model whose linear layers are these, with the weights as inputs, and its layout.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for what is no weight and takes 2 GiB and more.
    pub(crate) fn with_layers(&self, layers: &LinearLayers) -> Result<(Vec<u8>, Arc<Layout>)> {
        let layout = self.packed_layout(&layers.tensors)?;
        let model = self.rewritten_as(layout.tensors(), |_| Ok(ConstantSource::Input), &layers.own)?.to_vec()?;
        Ok((model, layout))
    }

    /// The layout of these tensors: encoders over one graph share weights.
    fn packed_layout(&self, tensors: &[TensorSpec]) -> Result<Arc<Layout>> {
        let mut known = self.packed.lock();
        if let Some(layout) = known.iter().find(|layout| layout.tensors() == tensors) {
            return Ok(Arc::clone(layout));
        }
        let layout = self.layout.packed(tensors.to_vec())?;
        known.push(Arc::clone(&layout));
        Ok(layout)
    }
}

/// The layout that a matrix is packed in by every run; `None` where it cannot be.
fn as_it_is(matrix: &TensorSpec, is_columns: bool) -> Option<PackedLayout> {
    let &[first, second] = matrix.shape.as_slice() else { return None };
    let [outputs, inputs] = if is_columns { [second, first] } else { [first, second] };
    PackedLayout::new(outputs, inputs, Precision::F32).ok()
}
