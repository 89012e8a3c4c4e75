//! Pixels and weights in, embeddings out: the CLIP image encoder on ONNX Runtime.
//!
//! An [`Encoder`] belongs to an architecture, not to weights: its graph has every parameter as an input, and each call
//! names the weights that it runs with. So there is no current task, calls for different tasks may run at once, and a
//! switch costs nothing beyond the other pointers.

mod autotune;
mod device;
mod elf;
mod ending;
mod finite;
mod golden;
mod graph;
mod lane;
mod library;
mod memory;
mod options;
mod peer;
mod pool;
mod promote;
mod provider;
mod run;
mod runtime;
mod search;
mod session;
mod streamed;
mod task;
#[cfg(feature = "text")]
mod text;
mod width;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ndarray::{Array2, ArrayView4};

pub use device::WeightsOn;

pub use autotune::{GraphVariant, optimise_graph};
pub use golden::{Agreement, SelfTest};
pub use graph::{WeightSource, write_onnx, write_onnx_f16};
pub use library::{MINIMUM_MINOR, Version};
pub use options::EncoderOptions;
#[doc(hidden)]
pub use peer::session_on_file;
pub use promote::{Promotion, PromotionState};
pub use provider::{Execution, Provider, TensorRtOptions};
pub use runtime::{Probe, Runtime};
pub use search::{Origin, PATH_VARIABLE};

pub use streamed::StreamedEncoder;
#[cfg(feature = "text")]
pub use text::TextEncoder;

use self::device::Device;
use self::golden::Golden;
use self::graph::EncoderGraph;
use self::lane::Lane;
use self::pool::Pool;
use self::promote::Promotions;
use self::provider::Target;
use self::session::Input;
use crate::bundle::Bundle;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::BoundGraph;
use crate::tensor::try_zeroed;
use crate::tower::arch::Arch;
use crate::weights::Model;

/// The image encoder of one architecture, for any weights of that architecture. Shareable between threads.
///
/// ```no_run
/// # fn run(arch: &taskbasis::Arch, weights: &impl taskbasis::WeightSource, pixels: &[f32]) -> taskbasis::Result<()> {
/// use taskbasis::{Encoder, EncoderOptions};
///
/// let encoder = Encoder::new(arch, &EncoderOptions::default())?;
/// let embeds = encoder.encode(weights, pixels, 8)?; // eight images
/// assert_eq!(embeds.len(), 8 * arch.embed_dim);
/// # Ok(())
/// # }
/// ```
pub struct Encoder {
    arch: Arch,
    signature: Arc<EncoderGraph>,
    runtime: &'static Runtime,
    threads_a_run: usize,
    target: Arc<Target>,
    execution: Execution,
    /// Half floats have given the CPU's embeddings.
    is_precise: AtomicBool,
    /// A run of several images has given each the embedding that it gets alone.
    keeps_images_apart: AtomicBool,
    /// Before the device: dropped first.
    lanes: Pool<Lane>,
    /// Where the weights of tasks are reconstructed, where that is not the host's memory.
    device: Option<Device>,
    promotions: Promotions,
    self_test: SelfTest,
    golden: Option<Golden>,
}

impl Encoder {
    /// Builds the graph of `arch` and opens a session over it. Some 20 ms and 10 MB, whatever the size of the weights.
    ///
    /// # Errors
    /// As [`Runtime::load`], [`Runtime::check_provider`] and [`Arch::check`]; [`ErrorKind::InvalidArgument`] for
    /// thousands of threads; [`ErrorKind::Runtime`] when ONNX Runtime refuses the graph.
    pub fn new(arch: &Arch, options: &EncoderOptions) -> Result<Self> {
        Self::over(arch.clone(), EncoderGraph::built(arch)?, options)
    }

    /// An encoder over a user's graph, of a model with this architecture. It runs with the weights of any task
    /// ([`Encoder::encode_task`] reconstructs them straight into the graph's layout). Canonical weights are put into
    /// that layout in every call, which costs a copy of all of them. Where the graph says that it takes any number of
    /// images, the last one of the first run of several is run once more alone, and has to get the same embedding.
    ///
    /// # Errors
    /// As [`Encoder::new`]; [`ErrorKind::Mismatch`] for a graph that takes images of another size;
    /// [`ErrorKind::Unsupported`] for one that takes or gives something else than f32 or f16.
    pub fn with_graph(arch: &Arch, graph: &BoundGraph, options: &EncoderOptions) -> Result<Self> {
        let mut arch = arch.clone();
        graph.check_image_size(arch.image_size())?;
        let signature = EncoderGraph::new(graph)?;
        let (runtime, (threads, _)) = (Runtime::load(options.runtime.as_deref())?, options.threads_a_run()?);
        // What the graph gives may be something else than the projected embedding.
        arch.embed_dim = width::of(runtime, graph, &signature, &arch, threads).map_err(|e| graph.explain(e))?;
        Self::over(arch, signature, options).map_err(|e| graph.explain(e))
    }

    /// The encoder of a bundle: over the graph that it carries, or the built one where it carries none. `model` is the
    /// bundle's ([`Bundle::model`]). [`Encoder::new`] with [`Bundle::arch`] is the built one of any bundle. Where the
    /// bundle has a golden embedding, the first run is preceded by one that compares it ([`SelfTest`]).
    ///
    /// # Errors
    /// As [`Encoder::new`], [`Encoder::with_graph`] and [`Bundle::bound_graph`].
    pub fn of_bundle(bundle: &Bundle, model: &Arc<Model>, options: &EncoderOptions) -> Result<Self> {
        let encoder = match bundle.bound_graph(model.base(), model.basis())? {
            Some(graph) => Self::with_graph(bundle.arch(), &graph, options)?,
            None => Self::new(bundle.arch(), options)?,
        };
        Ok(encoder.tested_by(bundle, model))
    }

    fn over(arch: Arch, signature: EncoderGraph, options: &EncoderOptions) -> Result<Self> {
        Self::over_with(arch, signature, options, |target| Device::choose(target, options))
    }

    /// `choose` says where weights are reconstructed, and why where that is not what one would expect.
    fn over_with(
        arch: Arch,
        signature: EncoderGraph,
        options: &EncoderOptions,
        choose: impl Fn(&Target) -> Result<(Option<Device>, Option<String>)>,
    ) -> Result<Self> {
        let (threads_a_run, concurrency) = options.threads_a_run()?;
        let signature = Arc::new(signature);
        let runtime = Runtime::load(options.runtime.as_deref())?;
        let create = |target: &Target| {
            let (mut device, why) = choose(target)?;
            if let Some(device) = &mut device {
                device.make_room_for(&signature);
            }
            Ok((Lane::open(runtime, &signature, threads_a_run, target, device.as_ref())?, device, why))
        };
        let ((first, device, why), target, mut execution) = provider::begin(runtime, options, create)?;
        execution.nodes = target.nodes(&first.session)?;
        execution.weights_on = device.as_ref().map_or(WeightsOn::Host, |_| WeightsOn::Device);
        execution.weights_fallback = why;
        let target = Arc::new(target);
        let policy = match options.promotion {
            // On the device a session of its own gains a task nothing.
            Promotion::After(_) if device.is_some() => Promotion::Manual,
            policy => policy,
        };
        let promotions = Promotions::new(policy, runtime, Arc::clone(&signature), threads_a_run, Arc::clone(&target));
        Ok(Self {
            arch,
            runtime,
            threads_a_run,
            target,
            execution,
            is_precise: AtomicBool::new(false),
            keeps_images_apart: AtomicBool::new(false),
            lanes: Pool::new(first, concurrency),
            device,
            promotions,
            signature,
            self_test: options.self_test,
            golden: None,
        })
    }

    /// The embeddings, `[n, e]`, of `n` images with these weights; not normalised.
    ///
    /// `pixels` are preprocessed images, f32 `[n, 3, S, S]`. The work is done in one run, whose memory grows with `n`
    /// (some 3 MB an image for ViT-B-32); [`Encoder::encode_in_batches`] bounds it. No images give no embeddings.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `pixels` is not `n` images; [`ErrorKind::Mismatch`], naming it, when a
    /// parameter is missing or has another shape; [`ErrorKind::Format`], naming the first parameter that is not finite,
    /// or [`ErrorKind::InvalidArgument`], when an embedding is not; [`ErrorKind::Runtime`] when the run fails;
    /// [`ErrorKind::OutOfMemory`] when there is no room for the embeddings.
    pub fn encode<W: WeightSource + ?Sized>(&self, weights: &W, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        self.check_pixels(pixels, n)?;
        let mut embeds = try_zeroed(n.saturating_mul(self.arch.embed_dim))?;
        self.encode_into(weights, pixels, n, &mut embeds)?;
        Ok(embeds)
    }

    /// As [`Encoder::encode`], into memory of the caller's: `out` is `[n, e]`.
    ///
    /// # Errors
    /// As [`Encoder::encode`], and [`ErrorKind::InvalidArgument`] when `out` has another size. On an error `out` is
    /// as it was.
    pub fn encode_into<W: WeightSource + ?Sized>(
        &self,
        weights: &W,
        pixels: &[f32],
        n: usize,
        out: &mut [f32],
    ) -> Result<()> {
        self.check_pixels(pixels, n)?;
        self.check_out(n, out)?;
        self.test_once()?;
        let mut converted = None;
        let weights = self.signature.inputs(weights, &mut converted)?;
        let mut embeds = try_zeroed(out.len())?;
        self.run_inputs(&weights, pixels, n, &mut embeds)?;
        self.check_finite(&embeds, pixels, || Ok(finite::of_inputs(&weights)))?;
        out.copy_from_slice(&embeds);
        Ok(())
    }

    /// One run with these weights, whatever comes of it.
    fn run_inputs(&self, weights: &[Input<'_>], pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let mut lane = self.lanes.lend(|| self.lane())?;
        let run = |out: &mut [f32]| {
            self.run_with(&mut lane, weights, pixels, n, out).map_err(|e| self.target.explain(self.runtime, e))
        };
        let on_cpu = |pixels: &[f32], n, out: &mut [f32]| self.run_on_cpu(weights, pixels, n, out);
        self.with_precision(&self.is_precise, (pixels, n), out, run, on_cpu)
    }

    /// Refuses embeddings that are not finite; `why` looks for the weights that make them so.
    fn check_finite(&self, embeds: &[f32], pixels: &[f32], why: impl FnOnce() -> Result<Error>) -> Result<()> {
        finite::check(embeds, pixels, self.arch.embed_dim, self.arch.pixels(), why)
    }

    /// As [`Encoder::encode`], at most `batch` images a run, so that memory does not grow with `n`. The embeddings are
    /// those of a single run up to rounding: other sizes may be computed in another order.
    ///
    /// # Errors
    /// As [`Encoder::encode`], and [`ErrorKind::InvalidArgument`] when `batch` is 0.
    pub fn encode_in_batches<W: WeightSource + ?Sized>(
        &self,
        weights: &W,
        pixels: &[f32],
        n: usize,
        batch: usize,
    ) -> Result<Vec<f32>> {
        if batch == 0 {
            return Err(Error::invalid("a batch has at least one image"));
        }
        self.check_pixels(pixels, n)?;
        let batch = batch.min(n.max(1));
        let mut embeds = try_zeroed(n.saturating_mul(self.arch.embed_dim))?;
        let (image, embed) = (self.arch.pixels(), self.arch.embed_dim);
        for (pixels, out) in pixels.chunks(batch * image).zip(embeds.chunks_mut(batch * embed)) {
            self.encode_into(weights, pixels, pixels.len() / image, out)?;
        }
        Ok(embeds)
    }

    /// As [`Encoder::encode`], for arrays: `[n, 3, S, S]` to `[n, e]`. Copies the pixels unless they are in
    /// standard layout.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; every extent of `pixels` is checked.
    pub fn encode_array<W: WeightSource + ?Sized>(
        &self,
        weights: &W,
        pixels: ArrayView4<'_, f32>,
    ) -> Result<Array2<f32>> {
        let (n, size) = (pixels.dim().0, self.arch.image_size());
        if pixels.dim() != (n, 3, size, size) {
            return Err(Error::invalid("these are not the images of this encoder")
                .expected(format_args!("[n, 3, {size}, {size}]"))
                .got(format_args!("{:?}", pixels.shape())));
        }
        let pixels = pixels.as_standard_layout();
        let values = pixels.as_slice().ok_or_else(|| Error::new(ErrorKind::Internal, "pixels are not contiguous"))?;
        let embeds = self.encode(weights, values, n)?;
        Array2::from_shape_vec((n, self.arch.embed_dim), embeds)
            .map_err(|e| Error::new(ErrorKind::Internal, "the embeddings have another size").because(e))
    }

    /// Whether `weights` has every parameter of this encoder in its shape; every call checks it too.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`], naming the parameter.
    pub fn check<W: WeightSource + ?Sized>(&self, weights: &W) -> Result<()> {
        self.signature.inputs(weights, &mut None).map(drop)
    }

    /// The user's graph that it runs; `None` for the built one.
    pub fn graph(&self) -> Option<&BoundGraph> {
        self.signature.users()
    }

    /// The architecture that this encoder was made for.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The ONNX Runtime that runs it.
    pub fn runtime(&self) -> &'static Runtime {
        self.runtime
    }

    /// What it runs on, and why where that is not what was asked for.
    pub fn execution(&self) -> &Execution {
        &self.execution
    }

    /// Threads that one run computes with.
    pub fn threads(&self) -> usize {
        self.threads_a_run
    }

    /// Sessions that are open, idle ones included. They are opened when calls overlap, and then kept.
    pub fn sessions(&self) -> usize {
        self.lanes.made()
    }

    /// Closes idle sessions, which keep the memory of their largest run. The next call opens one again.
    pub fn trim(&self) {
        self.lanes.trim();
        memory::release();
    }

    /// Another session over the graph without weights.
    fn lane(&self) -> Result<Lane> {
        Lane::open(self.runtime, &self.signature, self.threads_a_run, &self.target, self.device.as_ref())
    }

    fn check_out(&self, n: usize, out: &[f32]) -> Result<()> {
        check_out(&self.arch, n, out)
    }

    fn check_pixels(&self, pixels: &[f32], n: usize) -> Result<()> {
        check_pixels(&self.arch, pixels, n)
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { arch, execution, threads_a_run, .. } = self;
        write!(f, "Encoder({arch}; {execution}, {threads_a_run} threads a run, {} sessions)", self.sessions())
    }
}

/// Turns an error of ONNX Runtime into ours, with its message.
fn failed<R>(doing: &'static str) -> impl Fn(ort::Error<R>) -> Error {
    move |e| refused(doing, e.message())
}

/// The error for a `message` of ONNX Runtime's. It has no code of its own for memory that it is refused: its arena says
/// so in words, and C++'s exception passes for a failed run.
fn refused(doing: &'static str, message: &str) -> Error {
    const NO_MEMORY: [&str; 3] = ["std::bad_alloc", "bad allocation", "Failed to allocate memory"];
    let message = message.trim_end();
    let is_refused = NO_MEMORY.iter().any(|words| message.contains(words));
    Error::new(if is_refused { ErrorKind::OutOfMemory } else { ErrorKind::Runtime }, doing).because(message.to_owned())
}

/// Whether `out` is memory for `n` embeddings of an encoder of `arch`.
fn check_out(arch: &Arch, n: usize, out: &[f32]) -> Result<()> {
    if n.checked_mul(arch.embed_dim) == Some(out.len()) {
        return Ok(());
    }
    Err(Error::invalid("the memory for the embeddings has the wrong size")
        .expected(format_args!("{n}·{} values", arch.embed_dim))
        .got(out.len()))
}

/// Whether `pixels` is `n` images of an encoder of `arch`.
fn check_pixels(arch: &Arch, pixels: &[f32], n: usize) -> Result<()> {
    if n.checked_mul(arch.pixels()) == Some(pixels.len()) {
        return Ok(());
    }
    let size = arch.image_size();
    Err(Error::invalid("the pixels are not that many images of this encoder")
        .expected(format_args!("{n}·3·{size}·{size} values"))
        .got(pixels.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ONNX Runtime says, word for word, and what it is.
    #[test]
    fn memory_that_onnx_runtime_is_refused() {
        let arena = "Non-zero status code returned while running Gemm node. Name:'fc' Status Message: bfc_arena.cc:359 \
                     void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for \
                     requested buffer of size 805306368\n";
        for (message, kind) in [
            ("std::bad_alloc", ErrorKind::OutOfMemory),
            ("Exception during initialization: std::bad_alloc\n", ErrorKind::OutOfMemory),
            (arena, ErrorKind::OutOfMemory),
            ("Invalid rank for input: pixels Got: 3 Expected: 4\n", ErrorKind::Runtime),
        ] {
            let error = refused("the encoder failed", message);
            assert_eq!(error.kind(), kind, "{message}");
            assert_eq!(error.to_string(), format!("the encoder failed ({})", message.trim_end()));
        }
    }
}
