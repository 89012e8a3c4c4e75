//! One task as a plain .onnx file, for programs that know nothing of bases.

use std::path::Path;

use super::finite;
use super::input::Elements;
use super::signature::Signature;
use super::source::WeightSource;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::write::{Stored, write_with_parameters};
use crate::tower::arch::Arch;

/// Writes the image encoder of `arch` with these weights as constants: the graph that an [`Encoder`](super::Encoder)
/// runs, from `pixel_values` to `embeds`. It needs ONNX Runtime, whose own operators it uses, and is as large as the
/// weights; weights of 2 GiB and more go into a second file beside it.
///
/// The file is replaced whole or not at all, and none of `inputs` is overwritten
/// ([`replace_file`](crate::replace_file)). The weights are not copied on the way.
///
/// # Errors
/// As [`Arch::check`]; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, when a parameter is missing or
/// has another shape; [`ErrorKind::Format`](crate::ErrorKind::Format), naming it, when one is not finite;
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output that is an input;
/// [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn write_onnx<W: WeightSource + ?Sized>(arch: &Arch, weights: &W, path: &Path, inputs: &[&Path]) -> Result<()> {
    write(arch, weights, Stored::F32, path, inputs)
}

/// [`write_onnx`] with the weights rounded to f16, in a file half as large. What is computed stays f32: the graph casts
/// the weights first, which ONNX Runtime does once, when it loads the file.
///
/// # Errors
/// As [`write_onnx`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the tensor, for values beyond
/// the range of f16.
pub fn write_onnx_f16<W: WeightSource + ?Sized>(arch: &Arch, weights: &W, path: &Path, inputs: &[&Path]) -> Result<()> {
    write(arch, weights, Stored::F16, path, inputs)
}

fn write<W: WeightSource + ?Sized>(
    arch: &Arch,
    weights: &W,
    stored: Stored,
    path: &Path,
    inputs: &[&Path],
) -> Result<()> {
    let signature = Signature::built(arch)?;
    let mut converted = None;
    let inputs_of_graph = signature.inputs(weights, &mut converted)?;
    let parameters = inputs_of_graph
        .iter()
        .map(|input| match input.values {
            Elements::F32(values) if values.iter().all(|value| value.is_finite()) => Ok((input.name, values)),
            Elements::F32(_) => Err(finite::of_inputs(std::slice::from_ref(input))),
            _ => Err(Error::new(ErrorKind::Internal, "the built graph takes f32").tensor(input.name)),
        })
        .collect::<Result<Vec<_>>>()?;
    write_with_parameters(&signature.model, &parameters, stored, path, inputs)
}
