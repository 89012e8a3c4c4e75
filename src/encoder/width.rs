//! The length of a user's graph's embeddings, where its file does not say.

use super::graph::EncoderGraph;
use super::input::{Elements, Input};
use super::session::SessionSetup;
use crate::error::{Error, Result};
use crate::onnx::BoundGraph;
use crate::tensor::{DType, f32_bytes, try_zeroed};
use crate::tower::arch::Arch;

/// The length of an embedding: as the file says; else as ONNX Runtime infers it; else as a run on the CPU gives it, of
/// black images with weights of zeros.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where the output is not one embedding for each image; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) where ONNX
/// Runtime refuses the graph or the run; [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
pub(super) fn of(on_cpu: &SessionSetup, graph: &BoundGraph, arch: &Arch) -> Result<usize> {
    if let Some(length) = told(graph) {
        return Ok(length);
    }
    let encoder_graph = EncoderGraph::new(graph)?;
    let session = on_cpu.open(&encoder_graph.model, encoder_graph.kind)?;
    if let Some([_, length]) = session.inferred_shape(&encoder_graph.embeds)
        && let Ok(length @ 1..) = usize::try_from(*length)
    {
        return Ok(length);
    }
    let batch = encoder_graph.batch.unwrap_or(1);
    let size = arch.image_size();
    let shape = [batch, 3, size, size];
    let tensors = graph.layout().tensors();
    // Zeros that are never written to take no memory.
    let largest =
        tensors.iter().map(crate::weights::TensorSpec::nbytes).max().unwrap_or(0).max(batch * arch.pixels() * 4);
    let zeros = try_zeroed::<u64>(largest.div_ceil(size_of::<u64>()))?;
    // SAFETY: plain numbers of which every bit pattern is one, at an address that any float may have.
    let zeros = unsafe { std::slice::from_raw_parts(zeros.as_ptr().cast::<f32>(), zeros.len() * 2) };
    let values = |dtype: DType, numel: usize| match dtype {
        DType::F32 => Elements::F32(&zeros[..numel]),
        other => Elements::Other(other, &f32_bytes(zeros)[..numel * other.size()]),
    };
    let pixels = Input {
        name: &encoder_graph.pixels,
        shape: &shape,
        values: values(encoder_graph.pixels_dtype, batch * arch.pixels()),
    };
    let weights = tensors.iter().map(|tensor| Input {
        name: &tensor.name,
        shape: &tensor.shape,
        values: values(tensor.dtype, tensor.numel()),
    });
    let shape = session.run_for_shape(std::iter::once(pixels).chain(weights), &encoder_graph.embeds)?;
    length(&shape, batch).ok_or_else(|| {
        Error::mismatch("the output is not one embedding for each image")
            .at(graph.file().path())
            .tensor(&*encoder_graph.embeds)
            .expected(format_args!("[{batch}, e]"))
            .got(format_args!("{shape:?}"))
            .hint("Name another output (--graph-output), or export one that gives the pooled features")
    })
}

/// The length of an embedding, where the file says it.
pub(super) fn told(graph: &BoundGraph) -> Option<usize> {
    match graph.output().shape.as_deref() {
        Some([_, Some(length)]) => Some(*length),
        _ => None,
    }
}

/// The length of each of `batch` embeddings of this shape, extents of 1 aside.
fn length(shape: &[i64], batch: usize) -> Option<usize> {
    let (images, rest) = shape.split_first()?;
    let mut longer = rest.iter().filter(|extent| **extent != 1);
    let length = longer.next().or(rest.first())?;
    if longer.next().is_some() || usize::try_from(*images) != Ok(batch) {
        return None;
    }
    usize::try_from(*length).ok().filter(|length| *length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_embedding_for_each_image() {
        for (shape, batch, expected) in [
            (&[2, 64][..], 2, Some(64)),
            (&[2, 64, 1, 1], 2, Some(64)),
            (&[2, 1, 64], 2, Some(64)),
            (&[2, 1], 2, Some(1)),
            (&[2, 17, 64], 2, None),
            (&[1, 64], 2, None),
            (&[64], 64, None),
            (&[2, 0], 2, None),
            (&[], 1, None),
        ] {
            assert_eq!(length(shape, batch), expected, "{shape:?}");
        }
    }
}
