//! An encoder that never holds all weights of a task: it reconstructs a block, runs it, and goes on to the next.
//!
//! Reconstructing the next block while one runs was tried and lost: both want every core. On two of them it took 3 to
//! 18 % longer for one image, and for eight at best as long (`docs/performance.md`).

use ort::session::Session;

use super::graph::parameter_inputs;
use super::pool::Pool;
use super::provider::{self, Execution, Target};
use super::runtime::Runtime;
use super::session::{self, Elements, Input};
use super::{EncoderOptions, WeightSource, check_out, check_pixels, finite, memory};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::try_zeroed;
use crate::tower::arch::Arch;
use crate::tower::graph::{self, Chain, Link, block_prefix};
use crate::weights::{Ring, TaskWeights, Weights};

type Parameters = Vec<(String, Vec<usize>)>;

/// The image encoder for machines without room for the weights of a task: of a ViT-B-32's 351 MB it holds 40.
///
/// Every run reconstructs the weights anew, block by block, past the cache. So a run costs a reconstruction more than
/// [`Encoder::encode`](super::Encoder::encode) with weights that are there, whatever the number of images: large
/// batches hardly notice it. Embeddings agree to 1e-5, and are the same bits in every run.
///
/// ```no_run
/// # fn run(arch: &taskbasis::Arch, task: &taskbasis::TaskWeights, pixels: &[f32]) -> taskbasis::Result<()> {
/// use taskbasis::{EncoderOptions, StreamedEncoder};
///
/// let encoder = StreamedEncoder::new(arch, &EncoderOptions::default())?;
/// let embeds = encoder.encode(task, pixels, 8)?; // eight images
/// # Ok(())
/// # }
/// ```
pub struct StreamedEncoder {
    arch: Arch,
    chain: Chain,
    /// The parameters of every block but the last, as the weights call them.
    blocks: Vec<Parameters>,
    runtime: &'static Runtime,
    threads: usize,
    target: Target,
    execution: Execution,
    sessions: Pool<Sessions>,
    /// Memory of the parameters outside the blocks, and of one block.
    outer_memory: Ring,
    block_memory: Ring,
}

/// A session a link of the chain.
struct Sessions {
    stem: Session,
    block: Option<Session>,
    last: Session,
}

impl StreamedEncoder {
    /// Builds the graphs of `arch` and opens sessions over them; of the options, those of promotion do not apply.
    ///
    /// # Errors
    /// As [`Encoder::new`](super::Encoder::new); [`ErrorKind::Unsupported`] for half floats, which would have to be
    /// compared with the CPU's.
    pub fn new(arch: &Arch, options: &EncoderOptions) -> Result<Self> {
        let (threads, concurrency) = options.threads_a_run()?;
        let chain = graph::build_chain(arch)?;
        let runtime = Runtime::load(options.runtime.as_deref())?;
        let create = |target: &Target| Sessions::create(runtime, &chain, threads, target);
        let (first, target, execution) = provider::begin(runtime, options.without_fp16()?, create)?;
        let of_block = |layer: usize| -> Parameters {
            let prefix = block_prefix(layer);
            arch.parameters().into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect()
        };
        Ok(Self {
            arch: arch.clone(),
            blocks: (0..arch.layers - 1).map(of_block).collect(),
            chain,
            runtime,
            threads,
            target,
            execution,
            sessions: Pool::new(first, concurrency),
            outer_memory: Ring::default(),
            block_memory: Ring::default(),
        })
    }

    /// The embeddings, `[n, e]`, of `n` images, preprocessed, f32 `[n, 3, S, S]`, with the weights of a task; not
    /// normalised. No images give no embeddings.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `pixels` is not `n` images; [`ErrorKind::Mismatch`], naming it, when a
    /// parameter is missing or has another shape, and as [`Weights::reconstruct`]; [`ErrorKind::Format`], naming the
    /// first parameter that is not finite, or [`ErrorKind::InvalidArgument`], when an embedding is not;
    /// [`ErrorKind::Runtime`] when a run fails; [`ErrorKind::OutOfMemory`].
    pub fn encode(&self, task: &TaskWeights, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        check_pixels(&self.arch, pixels, n)?;
        let mut embeds = try_zeroed(n.saturating_mul(self.arch.embed_dim))?;
        self.encode_into(task, pixels, n, &mut embeds)?;
        Ok(embeds)
    }

    /// As [`StreamedEncoder::encode`], into memory of the caller's: `out` is `[n, e]`.
    ///
    /// # Errors
    /// As [`StreamedEncoder::encode`]; [`ErrorKind::InvalidArgument`] when `out` is not `n` embeddings. On an error
    /// `out` is as it was.
    pub fn encode_into(&self, task: &TaskWeights, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        check_pixels(&self.arch, pixels, n)?;
        check_out(&self.arch, n, out)?;
        if n == 0 {
            return Ok(());
        }
        let mut embeds = try_zeroed(out.len())?;
        self.run_task(task, pixels, n, &mut embeds)?;
        let (embed_dim, image) = (self.arch.embed_dim, self.arch.pixels());
        finite::check(&embeds, pixels, embed_dim, image, || task.why_not_finite())?;
        out.copy_from_slice(&embeds);
        Ok(())
    }

    /// One run, block by block, whatever comes of it.
    fn run_task(&self, task: &TaskWeights, pixels: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        let mut sessions =
            self.sessions.lend(|| Sessions::create(self.runtime, &self.chain, self.threads, &self.target))?;
        let outer = task.part(|name| !graph::is_of_block(name), self.threads, &self.outer_memory)?;
        let block = |layer: usize| {
            let prefix = block_prefix(layer);
            task.part(|name| name.starts_with(&prefix), self.threads, &self.block_memory)
        };

        let Chain { stem, block: link, last } = &self.chain;
        let rows = [n.saturating_mul(self.arch.tokens()), self.arch.width];
        let mut stream = try_zeroed(rows[0].saturating_mul(rows[1]))?;
        let size = self.arch.image_size();
        let input = Input { name: &stem.input, shape: &[n, 3, size, size], values: Elements::F32(pixels) };
        run(&mut sessions.stem, stem, input, &stem.parameters, &Parts(&outer, &outer), &mut stream)?;

        if let (Some(session), Some(link)) = (&mut sessions.block, link) {
            let mut next = try_zeroed(stream.len())?;
            for (layer, parameters) in self.blocks.iter().enumerate() {
                // Its memory is the next block's when it is dropped.
                let weights = block(layer)?;
                let input = Input { name: &link.input, shape: &rows, values: Elements::F32(&stream) };
                run(session, link, input, parameters, &Parts(&weights, &outer), &mut next)?;
                std::mem::swap(&mut stream, &mut next);
            }
        }
        let weights = block(self.arch.layers - 1)?;
        let input = Input { name: &last.input, shape: &rows, values: Elements::F32(&stream) };
        run(&mut sessions.last, last, input, &last.parameters, &Parts(&weights, &outer), out)
    }

    /// The architecture that this encoder was made for.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// What it runs on, and why where that is not what was asked for.
    pub fn execution(&self) -> &Execution {
        &self.execution
    }

    /// The ONNX Runtime it runs on.
    pub fn runtime(&self) -> &'static Runtime {
        self.runtime
    }

    /// How many runs there are sessions for.
    pub fn sessions(&self) -> usize {
        self.sessions.made()
    }

    /// Closes idle sessions, which keep the memory of their largest run, and gives back the memory that the next
    /// weights would have taken. The next call opens and takes them again.
    pub fn trim(&self) {
        self.sessions.trim();
        self.outer_memory.trim();
        self.block_memory.trim();
        memory::release();
    }

    /// Threads that reconstruct, and threads that one run computes with.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Bytes of weights that one run holds at most; between runs the memory is kept for the next.
    pub fn weight_bytes(&self) -> usize {
        let (all, prefix) = (self.arch.parameters(), block_prefix(0));
        let held = all.iter().filter(|(name, _)| name.starts_with(&prefix) || !graph::is_of_block(name));
        held.map(|(_, shape)| shape.iter().product::<usize>() * size_of::<f32>()).sum()
    }
}

impl std::fmt::Debug for StreamedEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamedEncoder({}; {} threads a run)", self.arch, self.threads)
    }
}

impl Sessions {
    fn create(runtime: &Runtime, chain: &Chain, threads: usize, target: &Target) -> Result<Self> {
        let create = |link: &Link| session::create(runtime, &link.model, threads, session::level(false), target);
        Ok(Self {
            stem: create(&chain.stem)?,
            block: chain.block.as_ref().map(create).transpose()?,
            last: create(&chain.last)?,
        })
    }
}

/// Two parts of some weights, the first before the second.
struct Parts<'a>(&'a Weights, &'a Weights);

impl WeightSource for Parts<'_> {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).or_else(|| self.1.get(name))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.shape(name).or_else(|| self.1.shape(name))
    }
}

/// Runs one link of the chain with `parameters`, the link's own under the names that `weights` has for them.
fn run(
    session: &mut Session,
    link: &Link,
    input: Input<'_>,
    parameters: &Parameters,
    weights: &Parts<'_>,
    out: &mut [f32],
) -> Result<()> {
    let values = parameter_inputs(parameters.iter().map(|(name, shape)| (&**name, &**shape)), weights)?;
    if values.len() != link.parameters.len() {
        return Err(Error::new(ErrorKind::Internal, "a block has other parameters than the first one"));
    }
    let renamed = link.parameters.iter().zip(values).map(|((name, _), input)| Input { name, ..input });
    session::run_to(session, std::iter::once(input).chain(renamed), &link.output, None, out)
}
