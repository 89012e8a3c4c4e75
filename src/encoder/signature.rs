//! What a graph takes and gives: its parameters, and the names of its pixels and embeddings.

use std::sync::Arc;

use super::input::{Elements, Input};
use super::source::WeightSource;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::proto::TensorType;
use crate::onnx::{BoundGraph, stub, type_name};
use crate::tensor::DType;
use crate::tower::arch::Arch;
use crate::tower::graph;
use crate::weights::{Layout, Values, Weights};

/// A graph with its parameters as inputs.
pub(super) struct Signature {
    /// The ONNX model.
    pub(super) model: Vec<u8>,
    /// Names and shapes of the parameters, in the order of the graph's inputs.
    pub(super) parameters: Vec<(String, Vec<usize>)>,
    /// The input that takes the images, and the type that it takes.
    pub(super) pixels: String,
    pub(super) pixels_dtype: DType,
    /// The output that gives the embeddings, and the type that it gives.
    pub(super) embeds: String,
    pub(super) embeds_dtype: DType,
    /// How many images a run takes, where the graph takes no other number.
    pub(super) batch: Option<usize>,
    /// Whether anything in the graph may be half floats.
    pub(super) has_halves: bool,
    /// The user's graph, where it is one.
    graph: Option<BoundGraph>,
}

impl Signature {
    /// The graph that is built for an architecture.
    pub(super) fn built(arch: &Arch) -> Result<Self> {
        Ok(Self {
            model: graph::build(arch)?,
            parameters: arch.parameters(),
            pixels: graph::PIXELS.to_owned(),
            pixels_dtype: DType::F32,
            embeds: graph::EMBEDS.to_owned(),
            embeds_dtype: DType::F32,
            batch: None,
            has_halves: false,
            graph: None,
        })
    }

    /// A user's graph.
    pub(super) fn bound(graph: &BoundGraph) -> Result<Self> {
        let tensors = graph.layout().tensors().iter();
        let parameters = tensors.map(|tensor| (tensor.name.clone(), tensor.shape.clone()));
        let dtype = |data_type: i32| match TensorType::try_from(data_type) {
            Ok(TensorType::Float | TensorType::Undefined) => Ok(DType::F32),
            Ok(TensorType::Float16) => Ok(DType::F16),
            _ => Err(Error::unsupported("a graph that takes or gives another type than floats")
                .at(graph.file().path())
                .expected("f32 or f16")
                .got(type_name(data_type))),
        };
        let (pixels, output) = (graph.pixels(), graph.output());
        Ok(Self {
            model: graph.with_inputs()?,
            parameters: parameters.collect(),
            pixels: pixels.name.clone(),
            pixels_dtype: dtype(pixels.data_type)?,
            embeds: output.name.clone(),
            embeds_dtype: dtype(output.data_type)?,
            batch: graph.batch(),
            has_halves: graph.file().has_halves(),
            graph: Some(graph.clone()),
        })
    }

    /// Whether the graph is one that somebody exported, which ONNX Runtime can improve on.
    pub(super) fn is_users(&self) -> bool {
        self.graph.is_some()
    }

    /// The user's graph, where it is one.
    pub(super) fn graph(&self) -> Option<&BoundGraph> {
        self.graph.as_ref()
    }

    /// How the graph wants its weights; `None` for the canonical ones.
    pub(super) fn layout(&self) -> Option<&Arc<Layout>> {
        self.graph.as_ref().map(BoundGraph::layout)
    }

    /// The graph with its parameters as constants without values.
    pub(super) fn stub(&self) -> Result<Vec<u8>> {
        match &self.graph {
            Some(graph) => graph.with_placeholders(),
            None => {
                let names = self.parameters.iter().map(|(name, _)| name.as_str());
                stub::with_external_parameters(&self.model, names)
            }
        }
    }

    /// Views of all parameters, checked. A thousandth of a run's time, so every run can afford it. Where the graph
    /// wants another layout than `weights` are in, they are put into it and kept in `converted`.
    pub(super) fn inputs<'a, W: WeightSource + ?Sized>(
        &'a self,
        weights: &'a W,
        converted: &'a mut Option<Weights>,
    ) -> Result<Vec<Input<'a>>> {
        let Some(layout) = self.layout() else { return inputs(&self.parameters, weights) };
        let weights = match weights.laid_out(layout) {
            Some(weights) => weights,
            None => converted.insert(Weights::in_layout(layout, |name| weights.parameter(name))?),
        };
        self.parameters
            .iter()
            .map(|(name, _)| {
                let (_, shape, values) = weights.at(weights.index_of(name)?)?;
                let values = match values {
                    Values::F32(values) => Elements::F32(values),
                    Values::Cast(dtype, bytes) => Elements::Other(dtype, bytes),
                    Values::Carried(_) => {
                        return Err(Error::new(ErrorKind::Internal, "a weight is no float").tensor(name));
                    }
                };
                Ok(Input { name, shape, values })
            })
            .collect()
    }

    /// Bytes that all parameters take.
    pub(super) fn nbytes(&self) -> usize {
        match self.layout() {
            Some(layout) => layout.nbytes(),
            None => self.parameters.iter().map(|(_, shape)| shape.iter().product::<usize>() * size_of::<f32>()).sum(),
        }
    }
}

/// Whether a parameter of the encoder is there, and in its shape; `got` is the shape that it has, where it is there.
///
/// # Errors
/// [`ErrorKind::Mismatch`], naming it.
pub(super) fn check_shape(name: &str, shape: &[usize], got: Option<&[usize]>) -> Result<()> {
    match got {
        Some(got) if got == shape => Ok(()),
        Some(got) => Err(Error::mismatch("the weights are not of this encoder's architecture")
            .tensor(name)
            .expected(format_args!("{shape:?}"))
            .got(format_args!("{got:?}"))),
        None => Err(Error::mismatch("the weights lack a parameter of this encoder").tensor(name)),
    }
}

/// Views of these parameters, names and shapes, of some weights.
///
/// # Errors
/// [`ErrorKind::Mismatch`], naming it, when one is missing or has another shape.
pub(super) fn inputs<'a, W: WeightSource + ?Sized>(
    parameters: &'a [(String, Vec<usize>)],
    weights: &'a W,
) -> Result<Vec<Input<'a>>> {
    parameters
        .iter()
        .map(|(name, shape)| {
            let values = weights.parameter(name);
            check_shape(name, shape, values.map(|_| weights.shape(name).unwrap_or(shape)))?;
            let values = values.unwrap_or_default();
            if values.len() != shape.iter().product::<usize>() {
                return Err(Error::mismatch("the weights are not of this encoder's architecture")
                    .tensor(name)
                    .expected(format_args!("{shape:?}"))
                    .got(format_args!("{} values", values.len())));
            }
            Ok(Input { name, shape, values: Elements::F32(values) })
        })
        .collect()
}
