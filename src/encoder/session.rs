//! One ONNX Runtime session over the graph without weights: made, and run.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use super::failed;
use super::runtime::Runtime;
use crate::clip::graph::{EMBEDS, PIXELS};
use crate::error::{Error, ErrorKind, Result};

/// A tensor of the caller's: name, shape and values. The values are read in place, not copied.
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    pub(super) shape: &'a [usize],
    pub(super) values: &'a [f32],
}

/// A session over `model` that computes with `threads` threads, the calling one among them.
///
/// The graph is built fused, so optimising it would only cost time. Threads stop spinning at the end of each run:
/// several sessions that spin take the cores from each other, and from the host.
pub(super) fn create(runtime: &Runtime, model: &[u8], threads: usize) -> Result<Session> {
    let doing = "cannot create a session for the image encoder";
    Session::builder(runtime.environment())
        .map_err(failed(doing))?
        .with_optimization_level(GraphOptimizationLevel::Disable)
        .map_err(failed(doing))?
        .with_intra_threads(threads)
        .map_err(failed(doing))?
        .with_config_entry("session.force_spinning_stop", "1")
        .map_err(failed(doing))?
        .commit_from_memory(model)
        .map_err(failed(doing))
}

/// Runs the graph and writes the embeddings, f32 `[batch, e]`, to `out`.
pub(super) fn run<'a>(
    session: &mut Session,
    pixels: Input<'a>,
    weights: impl Iterator<Item = Input<'a>>,
    out: &mut [f32],
) -> Result<()> {
    debug_assert_eq!(pixels.name, PIXELS);
    let inputs = std::iter::once(pixels)
        .chain(weights)
        .map(|Input { name, shape, values }| {
            // A view of the caller's memory: for CPU tensors ONNX Runtime takes the pointer as it is.
            let view = TensorRef::from_array_view((shape, values))
                .map_err(failed("cannot make a view"))
                .map_err(|e| e.tensor(name))?;
            Ok((Cow::Borrowed(name), SessionInputValue::from(view)))
        })
        .collect::<Result<Vec<_>>>()?;
    let outputs = session.run(inputs).map_err(failed("the image encoder failed"))?;
    let embeds = outputs
        .get(EMBEDS)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "the image encoder has no output").expected(EMBEDS))?;
    let (shape, values) = embeds.try_extract_tensor::<f32>().map_err(failed("cannot read the embeddings"))?;
    if values.len() != out.len() {
        return Err(Error::new(ErrorKind::Internal, "the image encoder's output has another size")
            .expected(format_args!("{} values", out.len()))
            .got(format_args!("shape {shape:?}")));
    }
    out.copy_from_slice(values);
    Ok(())
}
