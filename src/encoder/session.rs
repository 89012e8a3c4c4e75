//! ONNX Runtime sessions: over the graph without weights, and with some weights frozen into it. Made, and run.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_void};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ort::AsPointer;
use ort::environment::ThreadManager;
use ort::memory::MemoryInfo;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, DynValueRef, PrimitiveTensorElementType, Shape, TensorRef, TensorRefMut};

use super::failed;
use super::graph::EncoderGraph;
use super::provider::{Target, recording};
use super::runtime::Runtime;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, f32_bytes, try_zeroed};

/// A tensor of the caller's: name, shape and values. The values are read in place, not copied.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    pub(super) shape: &'a [usize],
    pub(super) values: Elements<'a>,
}

/// Values, of the type that the graph takes.
#[derive(Clone, Copy)]
pub(super) enum Elements<'a> {
    F32(&'a [f32]),
    /// Indices.
    #[cfg(feature = "text")]
    I64(&'a [i64]),
    /// Little-endian bytes at an address that the type may have.
    Other(DType, &'a [u8]),
    /// Floats of this type in the memory of a device.
    Device(DType, OnDevice<'a>),
}

impl<'a> Elements<'a> {
    /// Where it lies in a device's memory, if it does.
    pub(super) fn address(&self) -> Option<u64> {
        match self {
            Self::Device(_, place) => Some(place.address),
            _ => None,
        }
    }

    /// The bytes of floats in the host's memory; none of others.
    pub(super) fn bytes(&self) -> &'a [u8] {
        match *self {
            Self::F32(values) => f32_bytes(values),
            Self::Other(_, bytes) => bytes,
            #[cfg(feature = "text")]
            Self::I64(_) => &[],
            Self::Device(..) => &[],
        }
    }
}

/// Where values lie in a device's memory.
#[derive(Clone, Copy)]
pub(super) struct OnDevice<'a> {
    address: u64,
    memory: &'a MemoryInfo<'static>,
}

impl<'a> OnDevice<'a> {
    /// # Safety
    /// At `address`, of memory that is `memory`, there have to be as many values of the type that is said with it as
    /// the [`Input`] or output has elements, during every run of it and until its session's stream has come past that.
    /// What an output is written to must not be read or written by others meanwhile.
    pub(super) unsafe fn new(address: u64, memory: &'a MemoryInfo<'static>) -> Self {
        Self { address, memory }
    }
}

/// A session over `model` that computes with `threads` threads, the calling one among them.
///
/// The graph is built fused, so optimising it would only cost time. Memory patterns would plan, and keep, one block for
/// every batch size; without them ViT-B-32 takes a quarter less memory and the same time. Threads stop spinning at the
/// end of each run: several sessions that spin take the cores from each other, and from the host.
pub(super) fn create(
    runtime: &Runtime,
    model: &[u8],
    threads: usize,
    level: GraphOptimizationLevel,
    target: &Target,
) -> Result<Session> {
    let _turn = recording::with_others();
    target
        .register(runtime, builder(runtime, threads, level)?, Some(model))?
        .commit_from_memory(model)
        .map_err(failed(CREATING))
        .map_err(|e| target.explain(runtime, e))
}

const CREATING: &str = "cannot create a session for the encoder";

/// What ONNX Runtime does to a graph before it runs it. The built one is fused already. A user's gets every improvement
/// that leaves the layout of its weights alone.
pub(super) fn level(is_users: bool) -> GraphOptimizationLevel {
    if is_users { GraphOptimizationLevel::Level2 } else { GraphOptimizationLevel::Disable }
}

/// The same for a graph with its weights in it. Then the patch embedding can take the layout that convolutions like
/// best: a quarter of its time, one hundredth of a run's.
const FROZEN: GraphOptimizationLevel = GraphOptimizationLevel::All;

/// What a session is told besides, whose graph has its weights in it. What makes that layout ends the process where it
/// meets some graphs with half floats (a cast from f16 between a transposition and a product; ONNX Runtime 1.31 and
/// 1.32, <https://github.com/microsoft/onnxruntime/issues/28392>), so such graphs do without.
pub(super) fn entries_of_frozen(has_halves: bool) -> &'static [(&'static str, &'static str)] {
    if has_halves { &[("optimization.disable_specified_optimizers", "NchwcTransformer")] } else { &[] }
}

/// Sets what [`entries_of_frozen`] says.
pub(super) fn for_frozen(mut builder: SessionBuilder, has_halves: bool) -> Result<SessionBuilder> {
    for (key, value) in entries_of_frozen(has_halves) {
        builder = builder.with_config_entry(key, value).map_err(failed(CREATING))?;
    }
    Ok(builder)
}

fn builder(runtime: &Runtime, threads: usize, level: GraphOptimizationLevel) -> Result<SessionBuilder> {
    Session::builder(runtime.environment())
        .map_err(failed(CREATING))?
        .with_optimization_level(level)
        .map_err(failed(CREATING))?
        .with_memory_pattern(false)
        .map_err(failed(CREATING))?
        .with_intra_threads(threads)
        .map_err(failed(CREATING))?
        .with_config_entry("session.force_spinning_stop", "1")
        .map_err(failed(CREATING))
}

/// A session with the weights frozen into it: ONNX Runtime copies them, packs the matrices as its kernels like them
/// best, and keeps no pointer to the caller's memory.
///
/// `stub` is the graph with the weights as constants that have no values yet; `has_halves`: anything in it may be half
/// floats. `threads` are made by `spawner`.
pub(super) fn create_frozen<'a>(
    runtime: &Runtime,
    (stub, has_halves): (&[u8], bool),
    weights: impl Iterator<Item = Input<'a>>,
    threads: usize,
    spawner: impl ThreadManager + 'static,
    target: &Target,
) -> Result<Session> {
    let _turn = recording::with_others();
    let builder = for_frozen(builder(runtime, threads, FROZEN)?, has_halves)?;
    let builder = builder.with_thread_manager(spawner).map_err(failed(CREATING))?;
    // Engines have the weights in them.
    let mut builder = target.register(runtime, builder, None)?;
    let mut names = Vec::new();
    let mut values = Vec::new();
    for input in weights {
        let name = CString::new(input.name).map_err(|_| Error::invalid("a NUL in a name").tensor(input.name))?;
        names.push(name);
        values.push(view(&input)?);
    }
    let name_pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let value_pointers: Vec<_> = values.iter().map(|value| value.ptr()).collect();
    let (builder_pointer, api) = (builder.ptr_mut(), ort::api());
    // SAFETY: both arrays hold as many valid pointers as is said, to names and tensors that outlive the session's
    // making; it copies what it needs of them.
    let status = unsafe {
        let status = (api.AddExternalInitializers)(
            builder_pointer,
            name_pointers.as_ptr(),
            value_pointers.as_ptr(),
            value_pointers.len(),
        );
        ort::Error::result_from_status(status)
    };
    status.map_err(failed("cannot freeze weights"))?;
    builder.commit_from_memory(stub).map_err(failed(CREATING)).map_err(|e| target.explain(runtime, e))
}

/// A view of the caller's memory: for CPU tensors ONNX Runtime takes the pointer as it is.
pub(super) fn view<'a>(input: &Input<'a>) -> Result<DynValueRef<'a>> {
    fn typed<'a, T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        shape: &'a [usize],
        bytes: &'a [u8],
    ) -> Result<DynValueRef<'a>> {
        // SAFETY: the types that this is called with are plain numbers of which every bit pattern is one.
        let (before, values, after) = unsafe { bytes.align_to::<T>() };
        if !before.is_empty() || !after.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "weights are not aligned"));
        }
        Ok(TensorRef::from_array_view((shape, values)).map_err(failed("cannot make a view"))?.into_dyn())
    }
    /// In a device's memory.
    fn there<'a, T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        shape: &[usize],
        OnDevice { address, memory }: OnDevice<'a>,
    ) -> Result<DynValueRef<'a>> {
        let shape: Shape = shape.iter().map(|&extent| extent as i64).collect();
        let start = std::ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        // SAFETY: who made the `OnDevice` answers for the values. What is written to is a run's output, which
        // `run_in_place` passes on as one.
        let tensor = unsafe { TensorRefMut::<T>::from_raw(memory.clone(), start, shape) };
        tensor.map_err(failed("cannot make a view")).map(|tensor| tensor.into_dyn().into())
    }
    let made = match input.values {
        Elements::F32(values) => TensorRef::from_array_view((input.shape, values))
            .map_err(failed("cannot make a view"))
            .map(TensorRef::into_dyn),
        #[cfg(feature = "text")]
        Elements::I64(values) => TensorRef::from_array_view((input.shape, values))
            .map_err(failed("cannot make a view"))
            .map(TensorRef::into_dyn),
        Elements::Other(DType::F16, bytes) => typed::<f16>(input.shape, bytes),
        Elements::Other(DType::BF16, bytes) => typed::<bf16>(input.shape, bytes),
        Elements::Other(DType::F64, bytes) => typed::<f64>(input.shape, bytes),
        Elements::Other(DType::F32, bytes) => typed::<f32>(input.shape, bytes),
        Elements::Device(DType::F32, place) => there::<f32>(input.shape, place),
        Elements::Device(DType::F16, place) => there::<f16>(input.shape, place),
        Elements::Device(DType::BF16, place) => there::<bf16>(input.shape, place),
        Elements::Device(DType::F64, place) => there::<f64>(input.shape, place),
        Elements::Other(dtype, _) | Elements::Device(dtype, _) => {
            Err(Error::unsupported("weights are floats").got(dtype))
        }
    };
    made.map_err(|e| e.tensor(input.name))
}

/// Runs a session that has its weights, and writes the embeddings to `out`, f32 `[batch, e]`. One that was made for the
/// CPU may be run by several threads at the same time, no other. On an error `out` may have been written to in part.
pub(super) fn run_frozen(
    session: &Session,
    signature: &EncoderGraph,
    pixels: &Input<'_>,
    embed_dim: usize,
    out: &mut [f32],
) -> Result<()> {
    let _turn = recording::with_others();
    let batch = out.len() / embed_dim;
    let pixels = view(pixels)?;
    let shape = [batch, embed_dim];
    if signature.embeds_dtype == DType::F16 {
        let mut halves = try_zeroed::<f16>(out.len())?;
        let embeds = TensorRefMut::from_array_view_mut((&shape[..], halves.as_mut_slice()));
        let embeds = embeds.map_err(failed("cannot make a view"))?;
        run_raw(session, signature, None, (&[&signature.pixels], &[&pixels]), embeds.ptr().cast_mut())?;
        halves.convert_to_f32_slice(out);
        return Ok(());
    }
    let embeds = TensorRefMut::from_array_view_mut((&shape[..], out)).map_err(failed("cannot make a view"))?;
    run_raw(session, signature, None, (&[&signature.pixels], &[&pixels]), embeds.ptr().cast_mut())
}

/// Runs the graph with pixels and weights where they are, and has the embeddings written where `embeds` is, all in a
/// device's memory: nothing is copied. The caller sees to `recording`.
pub(super) fn run_in_place(
    session: &mut Session,
    signature: &EncoderGraph,
    pixels: &Input<'_>,
    weights: &[Input<'_>],
    embeds: &Input<'_>,
    options: Option<&RunOptions<NoSelectedOutputs>>,
) -> Result<()> {
    let (pixels, embeds) = (view(pixels)?, view(embeds)?);
    let values = weights.iter().map(view).collect::<Result<Vec<_>>>()?;
    let names = weights.iter().map(|weight| CString::new(weight.name)).collect::<std::result::Result<Vec<_>, _>>();
    let names = names.map_err(|_| Error::invalid("a NUL in a name"))?;
    let names: Vec<_> = std::iter::once(&*signature.pixels).chain(names.iter().map(|name| &**name)).collect();
    let values: Vec<_> = std::iter::once(&pixels).chain(&values).collect();
    run_raw(session, signature, options, (&names, &values), embeds.ptr().cast_mut())
}

/// Runs a session as [`run_frozen`] says; `output` is a tensor of the right type and shape.
fn run_raw(
    session: &Session,
    signature: &EncoderGraph,
    options: Option<&RunOptions<NoSelectedOutputs>>,
    (names, values): (&[&CStr], &[&DynValueRef<'_>]),
    mut output: *mut ort::sys::OrtValue,
) -> Result<()> {
    let api = ort::api();
    let names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let values: Vec<_> = values.iter().map(|value| value.ptr()).collect();
    // ONNX Runtime reads as many names as there are values.
    assert_eq!(names.len(), values.len(), "a run with another number of names than of values");
    // SAFETY: options, names, inputs and output are valid until the call ends, the first two arrays are of one length,
    // the others have one element, and only ONNX Runtime writes to the output meanwhile. It declares `Run` safe for any
    // number of threads on one session; the `ort` crate asks for `&mut` because providers for other devices did not
    // keep to that, and for those `promote` has one thread at a time run a session.
    let status = unsafe {
        let status = (api.Run)(
            session.ptr().cast_mut(),
            options.map_or(std::ptr::null(), |options| options.ptr()),
            names.as_ptr(),
            values.as_ptr(),
            values.len(),
            &signature.embeds.as_ptr(),
            1,
            &mut output,
        );
        ort::Error::result_from_status(status)
    };
    status.map_err(failed("the encoder failed"))
}

/// Runs the graph and writes the embeddings, f32 `[batch, e]`, to `out`.
pub(super) fn run<'a>(
    session: &mut Session,
    signature: &EncoderGraph,
    pixels: Input<'a>,
    weights: impl Iterator<Item = Input<'a>>,
    options: Option<&RunOptions<NoSelectedOutputs>>,
    out: &mut [f32],
) -> Result<()> {
    run_to(session, std::iter::once(pixels).chain(weights), &signature.embeds.to_string_lossy(), options, out)
}

/// Runs any graph of the encoder and writes its output to `out`.
pub(super) fn run_to<'a>(
    session: &mut Session,
    inputs: impl Iterator<Item = Input<'a>>,
    output: &str,
    options: Option<&RunOptions<NoSelectedOutputs>>,
    out: &mut [f32],
) -> Result<()> {
    let inputs = inputs
        .map(|input| Ok((Cow::Borrowed(input.name), SessionInputValue::from(view(&input)?))))
        .collect::<Result<Vec<_>>>()?;
    let _turn = recording::with_others();
    let outputs = match options {
        Some(options) => session.run_with_options(inputs, options),
        None => session.run(inputs),
    };
    let outputs = outputs.map_err(failed("the encoder failed"))?;
    let embeds = outputs
        .get(output)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "the image encoder has no output").expected(output))?;
    take(embeds, out)
}

/// Copies the embeddings, of whatever type of floats they are.
fn take(embeds: &DynValue, out: &mut [f32]) -> Result<()> {
    let doing = "cannot read the embeddings";
    let wrong = |shape: &Shape, count: usize| {
        Error::mismatch("the image encoder's output has another size")
            .expected(format_args!("{count} values"))
            .got(format_args!("shape {shape:?}"))
    };
    if let Ok((shape, values)) = embeds.try_extract_tensor::<f16>() {
        if values.len() != out.len() {
            return Err(wrong(shape, out.len()));
        }
        values.convert_to_f32_slice(out);
        return Ok(());
    }
    let (shape, values) = embeds.try_extract_tensor::<f32>().map_err(failed(doing))?;
    if values.len() != out.len() {
        return Err(wrong(shape, out.len()));
    }
    out.copy_from_slice(values);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tower::arch::{Activation, Arch};
    use crate::tower::graph::{self, PIXELS};

    /// ONNX Runtime must never see a graph with half floats without this: some of them would end the process.
    #[test]
    fn graphs_with_half_floats_keep_their_layout() {
        assert_eq!(entries_of_frozen(false), []);
        assert_eq!(entries_of_frozen(true), [("optimization.disable_specified_optimizers", "NchwcTransformer")]);
    }

    #[test]
    #[allow(clippy::print_stdout)]
    fn what_onnx_runtime_says_is_passed_on() {
        let Ok(runtime) = Runtime::load(None) else { return println!("skipped: no ONNX Runtime") };
        let error = create(runtime, b"no model", 1, level(false), &Target::cpu()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime);
        assert!(error.to_string().to_lowercase().contains("protobuf"), "{error}");

        let arch = Arch {
            width: 8,
            layers: 1,
            heads: 1,
            mlp_width: 8,
            patch: 2,
            grid: 1,
            embed_dim: 4,
            activation: Activation::QuickGelu,
            variant: crate::tower::Variant::default(),
        };
        let signature = EncoderGraph::built(&arch).unwrap();
        let mut session = create(runtime, &graph::build(&arch).unwrap(), 1, level(false), &Target::cpu()).unwrap();
        let parameters: Vec<_> =
            arch.parameters().into_iter().map(|(n, s)| (n, vec![0.5; s.iter().product()], s)).collect();
        let weights =
            || parameters.iter().map(|(name, values, shape)| Input { name, shape, values: Elements::F32(values) });
        let pixels = |side| Input {
            name: PIXELS,
            shape: &[1, 3, 2, 2][..side],
            values: Elements::F32(&[0.0; 12][..3 << (side - 2)]),
        };
        let mut out = [0.0; 4];
        run(&mut session, &signature, pixels(4), weights(), None, &mut out).unwrap();

        // The wrong rank, an input that is not there, and none of the weights.
        let error = run(&mut session, &signature, pixels(3), weights(), None, &mut out).unwrap_err();
        assert!(error.kind() == ErrorKind::Runtime && error.to_string().contains(PIXELS), "{error}");
        let stranger = Input { name: "stranger", ..pixels(4) };
        let error = run(&mut session, &signature, pixels(4), weights().chain([stranger]), None, &mut out).unwrap_err();
        assert!(error.to_string().contains("stranger"), "{error}");
        assert!(run(&mut session, &signature, pixels(4), std::iter::empty(), None, &mut out).is_err());

        run(&mut session, &signature, pixels(4), weights(), None, &mut out).unwrap();
    }
}
