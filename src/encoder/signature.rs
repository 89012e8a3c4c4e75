//! What a graph takes and gives: its parameters, and the names of its pixels and embeddings.
#![forbid(unsafe_code)]

use std::ffi::CString;

use super::WeightSource;
use super::session::Input;
use crate::clip::arch::Arch;
use crate::clip::graph;
use crate::error::{Error, ErrorKind, Result};

/// A graph with its parameters as inputs.
pub(super) struct Signature {
    /// The ONNX model.
    pub(super) model: Vec<u8>,
    /// Names and shapes of the parameters, in the order of the graph's inputs.
    pub(super) parameters: Vec<(String, Vec<usize>)>,
    /// The input that takes the images.
    pub(super) pixels: CString,
    /// The output that gives the embeddings.
    pub(super) embeds: CString,
}

impl Signature {
    /// The graph that is built for an architecture.
    pub(super) fn built(arch: &Arch) -> Result<Self> {
        let name = |name: &str| {
            CString::new(name).map_err(|_| Error::new(ErrorKind::Internal, "a NUL in a name").tensor(name))
        };
        Ok(Self {
            model: graph::build(arch)?,
            parameters: arch.parameters(),
            pixels: name(graph::PIXELS)?,
            embeds: name(graph::EMBEDS)?,
        })
    }

    /// Views of all parameters, checked. A thousandth of a run's time, so every run can afford it.
    pub(super) fn inputs<'a, W: WeightSource + ?Sized>(&'a self, weights: &'a W) -> Result<Vec<Input<'a>>> {
        inputs(&self.parameters, weights)
    }

    /// Bytes that all parameters take.
    pub(super) fn nbytes(&self) -> usize {
        self.parameters.iter().map(|(_, shape)| shape.iter().product::<usize>() * size_of::<f32>()).sum()
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
            let values = weights
                .parameter(name)
                .ok_or_else(|| Error::mismatch("the weights lack a parameter of this encoder").tensor(name))?;
            let wrong_shape = weights.shape(name).filter(|got| got != shape);
            if wrong_shape.is_some() || values.len() != shape.iter().product::<usize>() {
                let got = wrong_shape.map_or_else(|| format!("{} values", values.len()), |got| format!("{got:?}"));
                return Err(Error::mismatch("the weights are not of this encoder's architecture")
                    .tensor(name)
                    .expected(format_args!("{shape:?}"))
                    .got(got));
            }
            Ok(Input { name, shape, values })
        })
        .collect()
}
