//! Pixels and weights in, embeddings out: the CLIP image encoder on ONNX Runtime.
//!
//! An [`Encoder`] belongs to an architecture, not to weights: its graph has every parameter as an input, and each call
//! names the weights that it runs with. So there is no current task, calls for different tasks may run at once, and a
//! switch costs nothing beyond the other pointers.

mod device;
mod elf;
mod export;
mod fastest;
mod frozen;
mod library;
mod memory;
mod options;
mod pool;
mod promote;
mod provider;
mod runtime;
mod search;
mod session;
mod signature;
mod streamed;
mod task;
#[cfg(feature = "text")]
mod text;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::{Array2, ArrayView4};
use ort::session::Session;

pub use device::DeviceEncoder;
pub use export::{write_onnx, write_onnx_f16};
pub use fastest::{Trial, optimise_graph};
pub use frozen::FrozenEncoder;
pub use library::{MINIMUM_MINOR, Version};
pub use options::EncoderOptions;
pub use promote::{Promotion, PromotionState};
pub use provider::{Execution, Provider, TensorRtOptions};
pub use runtime::{Probe, Runtime};
pub use search::{Origin, PATH_VARIABLE};
pub use streamed::StreamedEncoder;
#[cfg(feature = "text")]
pub use text::TextEncoder;

use self::pool::Pool;
use self::promote::Promotions;
use self::provider::{Target, precision};
use self::session::{Elements, Input};
use self::signature::Signature;
use crate::bundle::Bundle;
use crate::clip::arch::Arch;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::BoundGraph;
use crate::tensor::{DType, try_zeroed, u16_bytes};
use crate::weights::{Layout, Model, Weights};

/// Weights that an [`Encoder`] can run with.
///
/// The slices have to stay as they are during a call, which their borrow ensures; between calls they may change, for
/// nothing of them is kept.
pub trait WeightSource {
    /// The values of the parameter of this canonical name (`visual.…`), contiguous and row-major.
    fn parameter(&self, name: &str) -> Option<&[f32]>;

    /// The parameter's shape, where the source knows it. Without it only the number of values can be checked.
    fn shape(&self, name: &str) -> Option<&[usize]> {
        let _ = name;
        None
    }

    /// These weights as a user's graph wants them, where they are in that layout.
    fn laid_out(&self, layout: &Layout) -> Option<&Weights> {
        let _ = layout;
        None
    }
}

impl<W: WeightSource + ?Sized> WeightSource for &W {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        (**self).parameter(name)
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        (**self).shape(name)
    }

    fn laid_out(&self, layout: &Layout) -> Option<&Weights> {
        (**self).laid_out(layout)
    }
}

impl<W: WeightSource + ?Sized> WeightSource for std::sync::Arc<W> {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        (**self).parameter(name)
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        (**self).shape(name)
    }

    fn laid_out(&self, layout: &Layout) -> Option<&Weights> {
        (**self).laid_out(layout)
    }
}

impl WeightSource for Weights {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        self.get(name)
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shape(name)
    }

    fn laid_out(&self, layout: &Layout) -> Option<&Weights> {
        self.layout().filter(|own| own.id() == layout.id()).map(|_| self)
    }
}

/// Parameters by name, without shapes.
impl<V: AsRef<[f32]>, S: BuildHasher> WeightSource for HashMap<String, V, S> {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        self.get(name).map(AsRef::as_ref)
    }
}

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
    signature: Arc<Signature>,
    runtime: &'static Runtime,
    threads_a_run: usize,
    target: Arc<Target>,
    execution: Execution,
    /// Half floats have given the CPU's embeddings.
    is_precise: AtomicBool,
    sessions: Pool<Session>,
    promotions: Promotions,
}

impl Encoder {
    /// Builds the graph of `arch` and opens a session over it. Some 20 ms and 10 MB, whatever the size of the weights.
    ///
    /// # Errors
    /// As [`Runtime::load`], [`Runtime::check_provider`] and [`Arch::check`]; [`ErrorKind::InvalidArgument`] for thousands
    /// of threads; [`ErrorKind::Runtime`] when ONNX Runtime refuses the graph.
    pub fn new(arch: &Arch, options: &EncoderOptions) -> Result<Self> {
        Self::over(arch.clone(), Signature::built(arch)?, options)
    }

    /// An encoder over a user's graph, of a model with this architecture. It runs with the weights of any task
    /// ([`Encoder::encode_task`] reconstructs them straight into the graph's layout). Canonical weights are put into that
    /// layout in every call, which costs a copy of all of them.
    ///
    /// # Errors
    /// As [`Encoder::new`]; [`ErrorKind::Mismatch`] for a graph that takes images of another size;
    /// [`ErrorKind::Unsupported`] for one that takes or gives something else than f32 or f16.
    pub fn with_graph(arch: &Arch, graph: &BoundGraph, options: &EncoderOptions) -> Result<Self> {
        let mut arch = arch.clone();
        graph.check_image_size(arch.image_size())?;
        // What the graph gives may be something else than the projected embedding.
        if let Some([_, Some(length)]) = graph.output().shape.as_deref() {
            arch.embed_dim = *length;
        }
        Self::over(arch, Signature::bound(graph)?, options)
    }

    /// The encoder of a bundle: over the graph that it carries, or the built one where it carries none. `model` is the
    /// bundle's ([`Bundle::model`]). [`Encoder::new`] with [`Bundle::arch`] is the built one of any bundle.
    ///
    /// # Errors
    /// As [`Encoder::new`], [`Encoder::with_graph`] and [`Bundle::bound_graph`].
    pub fn of_bundle(bundle: &Bundle, model: &Model, options: &EncoderOptions) -> Result<Self> {
        match bundle.bound_graph(model.base(), model.basis())? {
            Some(graph) => Self::with_graph(bundle.arch(), &graph, options),
            None => Self::new(bundle.arch(), options),
        }
    }

    fn over(arch: Arch, signature: Signature, options: &EncoderOptions) -> Result<Self> {
        let (threads_a_run, concurrency) = options.threads_a_run()?;
        let signature = Arc::new(signature);
        let runtime = Runtime::load(options.runtime.as_deref())?;
        let level = session::level(signature.is_users());
        let create = |target: &Target| session::create(runtime, &signature.model, threads_a_run, level, target);
        let (first, target, mut execution) = provider::begin(runtime, options, create)?;
        execution.nodes = target.nodes(&first)?;
        let target = Arc::new(target);
        let promotions =
            Promotions::new(options.promotion, runtime, Arc::clone(&signature), threads_a_run, Arc::clone(&target));
        Ok(Self {
            arch,
            runtime,
            threads_a_run,
            target,
            execution,
            is_precise: AtomicBool::new(false),
            sessions: Pool::new(first, concurrency),
            promotions,
            signature,
        })
    }

    /// The embeddings, `[n, e]`, of `n` images with these weights; not normalised.
    ///
    /// `pixels` are preprocessed images, f32 `[n, 3, S, S]`. The work is done in one run, whose memory grows with `n`
    /// (some 3 MB an image for ViT-B-32); [`Encoder::encode_in_batches`] bounds it. No images give no embeddings.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `pixels` is not `n` images; [`ErrorKind::Mismatch`], naming it, when a
    /// parameter is missing or has another shape; [`ErrorKind::Runtime`] when the run fails;
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
        let mut converted = None;
        let weights = self.signature.inputs(weights, &mut converted)?;
        if n == 0 {
            return Ok(());
        }
        let mut session = self.sessions.lend(|| self.session())?;
        let run = |out: &mut [f32]| {
            self.run_with(&mut session, &weights, pixels, n, out).map_err(|e| self.target.explain(self.runtime, e))
        };
        let on_cpu = |pixels: &[f32], n, out: &mut [f32]| self.run_on_cpu(&weights, pixels, n, out);
        self.with_precision(&self.is_precise, (pixels, n), out, run, on_cpu)
    }

    /// Runs a session over the graph without weights.
    fn run_with(
        &self,
        session: &mut Session,
        weights: &[Input<'_>],
        pixels: &[f32],
        n: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let name = self.signature.pixels.to_string_lossy();
        self.in_runs(pixels, n, out, |pixels, out| {
            let pixels = Input { name: &name, ..pixels };
            session::run(session, &self.signature, pixels, weights.iter().copied(), out)
        })
    }

    /// The same on the CPU, whatever the encoder's provider, in a session that is made for it alone.
    fn run_on_cpu(&self, weights: &[Input<'_>], pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        let level = session::level(self.signature.is_users());
        let mut session =
            session::create(self.runtime, &self.signature.model, self.threads_a_run, level, &Target::cpu())?;
        self.run_with(&mut session, weights, pixels, n, out)
    }

    /// Runs, and compares what comes of it with the CPU's embeddings of a few of the images, where that has to be done and
    /// `is_precise` tells that it has not been. Until it has been, nothing is written to `out` on an error.
    fn with_precision(
        &self,
        is_precise: &AtomicBool,
        (pixels, n): (&[f32], usize),
        out: &mut [f32],
        run: impl FnOnce(&mut [f32]) -> Result<()>,
        on_cpu: impl FnOnce(&[f32], usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        const IMAGES: usize = 8;

        let Some(least) = self.target.min_cosine().filter(|_| !is_precise.load(Ordering::Acquire)) else {
            return run(out);
        };
        let mut embeds = try_zeroed(out.len())?;
        run(&mut embeds)?;
        let some = n.min(IMAGES);
        let mut cpu = try_zeroed(some * self.arch.embed_dim)?;
        on_cpu(&pixels[..some * self.arch.pixels()], some, &mut cpu)?;
        precision::check(&embeds, &cpu, self.arch.embed_dim, least)?;
        is_precise.store(true, Ordering::Release);
        out.copy_from_slice(&embeds);
        Ok(())
    }

    /// Hands the images over as the graph takes them: in its type, and as many at a time as it wants. `run` is given the
    /// pixels and room for their embeddings. What was computed is written to `out` at the end.
    fn in_runs(
        &self,
        pixels: &[f32],
        n: usize,
        out: &mut [f32],
        mut run: impl FnMut(Input<'_>, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let (size, image, embed) = (self.arch.image_size(), self.arch.pixels(), self.arch.embed_dim);
        let dtype = self.signature.pixels_dtype;
        let batch = self.signature.batch.unwrap_or(n);
        if dtype == DType::F32 && batch == n {
            return run(Input { name: "", shape: &[n, 3, size, size], values: Elements::F32(pixels) }, out);
        }
        let mut embeds = try_zeroed(n.div_ceil(batch) * batch * embed)?;
        let mut images = try_zeroed::<f32>(batch * image)?;
        // Room for half floats at an address that they may have.
        let mut cast = try_zeroed::<u16>(if dtype == DType::F32 { 0 } else { batch * image })?;
        for (some, out) in pixels.chunks(batch * image).zip(embeds.chunks_mut(batch * embed)) {
            // The last run is filled up with black images, whose embeddings nobody sees.
            images[..some.len()].copy_from_slice(some);
            images[some.len()..].fill(0.0);
            let shape = [batch, 3, size, size];
            let values = if dtype == DType::F32 {
                Elements::F32(&images)
            } else {
                cast.iter_mut().zip(&images).for_each(|(slot, value)| *slot = half::f16::from_f32(*value).to_bits());
                Elements::Other(dtype, u16_bytes(&cast))
            };
            run(Input { name: "", shape: &shape, values }, out)?;
        }
        out.copy_from_slice(&embeds[..n * embed]);
        Ok(())
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
        self.signature.graph()
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
        self.sessions.made()
    }

    /// Closes idle sessions, which keep the memory of their largest run. The next call opens one again.
    pub fn trim(&self) {
        self.sessions.trim();
        memory::release();
    }

    /// Another session over the graph without weights.
    fn session(&self) -> Result<Session> {
        let level = session::level(self.signature.is_users());
        session::create(self.runtime, &self.signature.model, self.threads_a_run, level, &self.target)
    }

    fn check_out(&self, n: usize, out: &[f32]) -> Result<()> {
        if n.checked_mul(self.arch.embed_dim) == Some(out.len()) {
            return Ok(());
        }
        Err(Error::invalid("the memory for the embeddings has the wrong size")
            .expected(format_args!("{n}·{} values", self.arch.embed_dim))
            .got(out.len()))
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
    move |e| Error::new(ErrorKind::Runtime, doing).because(e.message().to_string())
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
