//! The image encoder of an architecture: made, and run with any weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::{Array2, ArrayView4};

use super::engine::blockwise::{self, BlockwiseEngine};
use super::engine::cuda::DeviceEngine;
use super::engine::cuda::device::Device;
use super::engine::feed::Feed;
use super::engine::host::{self, HostEngine};
use super::engine::{Engine, Images, RunWeights};
use super::golden::Golden;
use super::graph::EncoderGraph;
use super::options::{EncoderOptions, Promotion, Residency, SelfTest, WeightsOn};
use super::pool::Turns;
use super::precision_choice::PrecisionChoice;
use super::promote::Promotions;
use super::provider::target::Target;
use super::provider::{self, Execution, precision};
use super::runtime::Runtime;
use super::session::SessionSetup;
use super::weight_source::WeightSource;
use super::{finite, memory, operator, width};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::BoundGraph;
use crate::sync::Mutex;
use crate::tensor::try_zeroed;
use crate::tower::LayerPrecisions;
use crate::tower::arch::Arch;

/// Why an encoder runs in f32 that was asked for the fastest precision that was measured.
const UNMEASURED: &str = "nothing was measured: no bundle says what passed";
const ONLY_BUILT: &str = "precisions are measured with the built graph, and another one runs";

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
    pub(super) feed: Arc<Feed>,
    pub(super) setup: SessionSetup,
    pub(super) execution: Execution,
    pub(super) residency: Residency,
    pub(super) engine: Box<dyn Engine>,
    /// What gives hidden features, once they have been asked for.
    pub(super) hidden: Mutex<Option<Arc<HostEngine>>>,
    /// Half floats have given the CPU's embeddings.
    pub(super) is_precise: AtomicBool,
    pub(super) promotions: Promotions,
    /// Of the runs of all engines.
    pub(super) turns: Arc<Turns>,
    pub(super) self_test: SelfTest,
    pub(super) golden: Option<Golden>,
}

impl Encoder {
    /// Builds the graph of `arch` and opens a session over it. Some 20 ms and 10 MB, whatever the size of the weights.
    ///
    /// # Errors
    /// As [`Runtime::load`], [`Runtime::check_provider`] and [`Arch::check`]; [`ErrorKind::InvalidArgument`] for
    /// more than [`max_threads`](crate::kernel::max_threads); [`ErrorKind::Runtime`] when ONNX Runtime refuses the graph.
    pub fn new(arch: &Arch, options: &EncoderOptions) -> Result<Self> {
        Self::over(arch.clone(), options, |target| match target.is_cpu() && options.residency == Residency::Whole {
            true => EncoderGraph::own(arch, options.precision.known()),
            false => EncoderGraph::built(arch),
        })
    }

    /// An encoder over a user's graph, of a model with this architecture. It runs with the weights of any task
    /// ([`Encoder::encode_task`] reconstructs them straight into the graph's layout). Canonical weights are put into
    /// that layout in every call, which costs a copy of all of them. Where the graph says that it takes any number of
    /// images, the last one of the first run of several is run once more alone, and has to get the same embedding.
    ///
    /// # Errors
    /// As [`Encoder::new`]; [`ErrorKind::Mismatch`] for a graph that takes images of another size;
    /// [`ErrorKind::Unsupported`] for one that takes or gives something else than f32 or f16, and in another precision
    /// than f32 for one without a linear layer that can be packed.
    pub fn with_graph(arch: &Arch, graph: &BoundGraph, options: &EncoderOptions) -> Result<Self> {
        options.check_graph()?;
        let mut arch = arch.clone();
        graph.check_image_size(arch.image_size())?;
        // What the graph gives may be something else than the projected embedding.
        arch.embed_dim = Self::embedding_length(&arch, graph, options)?;
        let is_alone = arch.is_of_graph();
        let encoder = Self::over(arch, options, |target| match target.is_cpu() {
            true => EncoderGraph::packed(graph, options.precision.known(), is_alone),
            false => EncoderGraph::new(graph),
        });
        encoder.map_err(|e| graph.explain(e))
    }

    /// The length of the embeddings that a user's graph gives, for images of this architecture's size: as its file says
    /// it, else as ONNX Runtime does.
    ///
    /// # Errors
    /// As [`Runtime::load`] where that is needed; [`ErrorKind::Mismatch`] where the graph's output is not one embedding
    /// for each image; [`ErrorKind::Runtime`] where ONNX Runtime refuses it.
    pub(crate) fn embedding_length(arch: &Arch, graph: &BoundGraph, options: &EncoderOptions) -> Result<usize> {
        if let Some(length) = width::told(graph) {
            return Ok(length);
        }
        let (threads, _) = options.threads_per_run()?;
        let on_cpu =
            SessionSetup { runtime: Runtime::load(options.runtime.as_deref())?, threads, target: Target::cpu() };
        width::of(&on_cpu, graph, arch).map_err(|e| graph.explain(e))
    }

    fn over(arch: Arch, options: &EncoderOptions, graph: impl Fn(&Target) -> Result<EncoderGraph>) -> Result<Self> {
        Self::over_with(arch, options, graph, |target| Device::choose(target, options))
    }

    /// `graph` makes the graph for what computes; `choose` says where weights are reconstructed, and why where that is
    /// not what one would expect.
    pub(super) fn over_with(
        arch: Arch,
        options: &EncoderOptions,
        graph: impl Fn(&Target) -> Result<EncoderGraph>,
        choose: impl Fn(&Target) -> Result<(Option<Device>, Option<String>)>,
    ) -> Result<Self> {
        options.check()?;
        let (_, concurrency) = options.threads_per_run()?;
        let turns = Turns::new(concurrency);
        let create = |setup: &SessionSetup| {
            let feed = Arc::new(Feed::new(arch.clone(), graph(&setup.target)?));
            if options.residency == Residency::Blockwise {
                let engine = BlockwiseEngine::new(&feed.arch, options.precision.known(), setup, &turns)?;
                return Ok((feed, Box::new(engine) as Box<dyn Engine>, WeightsOn::Host, None));
            }
            let (engine, weights_on, why): (Box<dyn Engine>, _, _) = match choose(&setup.target)? {
                (Some(device), why) => {
                    (Box::new(DeviceEngine::new(&feed, setup, &turns, device)?), WeightsOn::Device, why)
                }
                (None, why) => (Box::new(HostEngine::new(&feed, setup, &turns)?), WeightsOn::Host, why),
            };
            Ok((feed, engine, weights_on, why))
        };
        let ((feed, engine, weights_on, why), setup, mut execution) = provider::begin(options, create)?;
        execution.nodes = engine.nodes()?;
        execution.weights_on = weights_on;
        execution.weights_fallback = why;
        let (is_users, is_cpu) = (feed.graph.is_users(), setup.target.is_cpu());
        let is_packed = is_cpu && (!is_users || feed.graph.takes_packed());
        execution.precisions = if is_packed { options.precision.known() } else { LayerPrecisions::default() };
        let why = if is_users { ONLY_BUILT } else { UNMEASURED };
        execution.precision_reason = (options.precision == PrecisionChoice::Auto).then(|| why.to_owned());
        let policy = match options.promotion {
            _ if options.residency == Residency::Blockwise => Promotion::Off,
            // Packed weights gain nothing from a session of their own.
            _ if feed.graph.takes_packed() => Promotion::Off,
            // On the device a session of its own gains a task nothing.
            Promotion::After(_) if weights_on == WeightsOn::Device => Promotion::Manual,
            policy => policy,
        };
        Ok(Self {
            execution,
            residency: options.residency,
            engine,
            hidden: Mutex::default(),
            is_precise: AtomicBool::new(false),
            promotions: Promotions::new(policy, &feed, &setup, &turns),
            turns,
            feed,
            setup,
            self_test: options.self_test,
            golden: None,
        })
    }

    /// The embeddings, `[n, e]`, of `n` images with these weights; not normalised.
    ///
    /// `pixels` are preprocessed images, f32 `[n, 3, S, S]`. The work is done in one run, whose memory grows with `n`
    /// (some 3 MB per image for ViT-B-32); [`Encoder::encode_in_batches`] bounds it. No images give no embeddings.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `pixels` is not `n` images; [`ErrorKind::Mismatch`], naming it, when a
    /// parameter is missing or has another shape; [`ErrorKind::Format`], naming the first parameter that is not finite,
    /// or [`ErrorKind::InvalidArgument`], when an embedding is not; [`ErrorKind::Runtime`] when the run fails;
    /// [`ErrorKind::OutOfMemory`] when there is no room for the embeddings.
    pub fn encode<W: WeightSource + ?Sized>(&self, weights: &W, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        self.embeds(RunWeights::Given(&weights), pixels, n)
    }

    /// Encodes into memory of the caller's: `out` is `[n, e]`.
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
        self.embeds_into(RunWeights::Given(&weights), pixels, n, out)
    }

    pub(super) fn embeds_into(&self, weights: RunWeights<'_>, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        if n.checked_mul(self.arch().embed_dim) != Some(out.len()) {
            return Err(Error::invalid("the memory for the embeddings has the wrong size")
                .expected(format_args!("{n}·{} values", self.arch().embed_dim))
                .got(out.len()));
        }
        out.copy_from_slice(&self.embeds(weights, pixels, n)?);
        Ok(())
    }

    pub(super) fn embeds(&self, weights: RunWeights<'_>, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        self.check_pixels(pixels, n)?;
        self.test_once()?;
        self.run(weights, Images { pixels, n })
    }

    pub(super) fn check_pixels(&self, pixels: &[f32], n: usize) -> Result<()> {
        if n.checked_mul(self.arch().pixels()) == Some(pixels.len()) {
            return Ok(());
        }
        let size = self.arch().image_size();
        Err(Error::invalid("the pixels are not that many images of this encoder")
            .expected(format_args!("{n}·3·{size}·{size} values"))
            .got(pixels.len()))
    }

    /// One run with these weights, whose embeddings are finite.
    pub(super) fn run(&self, weights: RunWeights<'_>, images: Images<'_>) -> Result<Vec<f32>> {
        let mut embeds = try_zeroed(images.n.saturating_mul(self.arch().embed_dim))?;
        if images.n == 0 {
            // Weights of another architecture are an error all the same.
            match weights {
                RunWeights::Given(weights) => drop(self.feed.graph.inputs(weights, &mut None)?),
                RunWeights::Task(task) => self.check_model(task.model())?,
            }
            return Ok(embeds);
        }
        match weights {
            RunWeights::Task(task) => match self.promotions.find(task) {
                Some(promoted) => self.run_checked(&*promoted, &promoted.is_precise, weights, images, &mut embeds)?,
                None => {
                    self.run_checked(&*self.engine, &self.is_precise, weights, images, &mut embeds)?;
                    self.promotions.count(task);
                }
            },
            RunWeights::Given(_) => {
                self.run_checked(&*self.engine, &self.is_precise, weights, images, &mut embeds)?;
            }
        }
        let arch = self.arch();
        finite::check(&embeds, images.pixels, arch.embed_dim, arch.pixels(), || {
            let why = match weights {
                RunWeights::Task(task) => task.why_not_finite()?,
                RunWeights::Given(weights) => finite::of_inputs(&self.feed.graph.inputs(weights, &mut None)?),
            };
            Ok(if self.feed.graph.has_halves { why.also_hint(finite::HALVES) } else { why })
        })?;
        Ok(embeds)
    }

    /// Runs, and compares what comes of it with the CPU's embeddings of a few of the images, where that has to be done
    /// and `is_precise` tells that it has not been.
    fn run_checked(
        &self,
        engine: &dyn Engine,
        is_precise: &AtomicBool,
        weights: RunWeights<'_>,
        images: Images<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        const MAX_IMAGES: usize = 8;

        engine.run(images, weights, out)?;
        let Some(least) = self.setup.target.min_cosine().filter(|_| !is_precise.load(Ordering::Acquire)) else {
            return Ok(());
        };
        let (embed_dim, n) = (self.arch().embed_dim, images.n.min(MAX_IMAGES));
        let some = Images { pixels: &images.pixels[..n * self.arch().pixels()], n };
        let mut cpu = try_zeroed(n * embed_dim)?;
        // The engine's own turn is over; this is one more run, of a session of its own.
        let _turn = self.turns.take();
        host::run_on_cpu(&self.feed, &self.setup, some, weights, &mut cpu)?;
        // Where the CPU's are not finite either, it is not for want of precision.
        if cpu.iter().all(|value| value.is_finite()) {
            precision::check(out, &cpu, embed_dim, least)?;
            is_precise.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Encodes at most `batch` images per run, so that memory does not grow with `n`. The embeddings
    /// are those of a single run up to rounding: other sizes may be computed in another order.
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
        let image = self.arch().pixels();
        if n <= batch || n.checked_mul(image) != Some(pixels.len()) {
            return self.encode(weights, pixels, n);
        }
        let embed = self.arch().embed_dim;
        let mut embeds = try_zeroed(n.saturating_mul(embed))?;
        for (pixels, out) in pixels.chunks(batch * image).zip(embeds.chunks_mut(batch * embed)) {
            self.encode_into(weights, pixels, pixels.len() / image, out)?;
        }
        Ok(embeds)
    }

    /// Encodes an array: `[n, 3, S, S]` to `[n, e]`. Copies the pixels unless they are in
    /// standard layout.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; every extent of `pixels` is checked.
    pub fn encode_array<W: WeightSource + ?Sized>(
        &self,
        weights: &W,
        pixels: ArrayView4<'_, f32>,
    ) -> Result<Array2<f32>> {
        let (n, size) = (pixels.dim().0, self.arch().image_size());
        if pixels.dim() != (n, 3, size, size) {
            return Err(Error::invalid("these are not the images of this encoder")
                .expected(format_args!("[n, 3, {size}, {size}]"))
                .got(format_args!("{:?}", pixels.shape())));
        }
        let pixels = pixels.as_standard_layout();
        let values = pixels.as_slice().ok_or_else(|| Error::new(ErrorKind::Internal, "pixels are not contiguous"))?;
        let embeds = self.encode(weights, values, n)?;
        Array2::from_shape_vec((n, self.arch().embed_dim), embeds)
            .map_err(|e| Error::new(ErrorKind::Internal, "the embeddings have another size").because(e))
    }

    /// Whether `weights` has every parameter of this encoder in its shape; every call checks it too.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`], naming the parameter.
    pub fn check<W: WeightSource + ?Sized>(&self, weights: &W) -> Result<()> {
        self.feed.graph.inputs(weights, &mut None).map(drop)
    }

    /// The user's graph that it runs; `None` for the built one.
    pub fn graph(&self) -> Option<&BoundGraph> {
        self.feed.graph.users()
    }

    /// The architecture that this encoder was made for.
    pub fn arch(&self) -> &Arch {
        &self.feed.arch
    }

    /// The ONNX Runtime that runs it.
    pub fn runtime(&self) -> &'static Runtime {
        self.setup.runtime
    }

    /// The hardware that the encoder runs on, and the reason where that is not what was asked for.
    pub fn execution(&self) -> &Execution {
        &self.execution
    }

    /// The part of a task's weights that a run has in memory.
    pub fn residency(&self) -> Residency {
        self.residency
    }

    /// The types that the matrices of linear layers are multiplied in; of a user's graph, those that are packed.
    /// [`Encoder::execution`] says why, where [`PrecisionChoice::Auto`] chose.
    pub fn precisions(&self) -> LayerPrecisions {
        self.execution.precisions
    }

    /// Says why these precisions were taken.
    pub(crate) fn with_precision_reason(mut self, reason: String) -> Self {
        self.execution.precision_reason = Some(reason);
        self
    }

    /// Bytes of weights that one run needs in memory at a time.
    pub fn weight_bytes(&self) -> usize {
        match self.residency {
            Residency::Whole if !self.precisions().is_f32() || self.arch().is_of_graph() => self.feed.graph.nbytes(),
            Residency::Whole => self.arch().parameter_count() * size_of::<f32>(),
            Residency::Blockwise => blockwise::weight_bytes(self.arch()),
        }
    }

    /// Threads that one run computes with.
    pub fn threads(&self) -> usize {
        self.setup.threads
    }

    /// The number of runs that there are sessions for, idle ones included. They are opened when calls overlap, and then
    /// kept.
    pub fn sessions(&self) -> usize {
        self.engine.sessions() + self.hidden.lock().as_ref().map_or(0, |hidden| hidden.sessions())
    }

    /// Closes idle sessions, which keep the memory of their largest run. The next call opens one again.
    pub fn trim(&self) {
        self.engine.trim();
        // A run that is in progress keeps its own until it ends.
        drop(self.hidden.lock().take());
        operator::trim();
        memory::release();
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (arch, threads, sessions) = (self.arch(), self.threads(), self.sessions());
        write!(f, "Encoder({arch}; {}, {threads} threads per run, {sessions} sessions)", self.execution)
    }
}
