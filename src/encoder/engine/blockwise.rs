//! The engine that never holds all weights of a task: a block is reconstructed and run, then the next.
//!
//! Reconstructing the next block while one runs was tried and lost: both want every core. On two of them it took 3 to
//! 18 % longer for one image, and for eight at best as long (`docs/performance.md`).

use std::sync::Arc;

use super::{Engine, Images, RunWeights};
use crate::encoder::graph::parameter_inputs;
use crate::encoder::input::{Elements, Input};
use crate::encoder::pool::{Pool, Turns};
use crate::encoder::session::{GraphKind, Session, SessionSetup};
use crate::encoder::weight_source::WeightSource;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel;
use crate::tensor::try_zeroed;
use crate::tower::LayerPrecisions;
use crate::tower::arch::Arch;
use crate::tower::graph::{self, Chain, Link, block_prefix};
use crate::weights::{BufferPool, TaskWeights};

type Parameters = Vec<(String, Vec<usize>)>;

/// Runs the tower as a chain of graphs, with the weights of one block and what is outside the blocks in memory.
pub(in crate::encoder) struct BlockwiseEngine {
    arch: Arch,
    chain: Chain,
    kind: GraphKind,
    /// The parameters of every block but the last, as the weights call them.
    blocks: Vec<Parameters>,
    setup: SessionSetup,
    sessions: Pool<ChainSessions>,
    /// Memory of the parameters outside the blocks, and of one block.
    outer_memory: Arc<BufferPool>,
    block_memory: Arc<BufferPool>,
}

/// A session per link of the chain.
struct ChainSessions {
    stem: Session,
    block: Option<Session>,
    last: Session,
}

impl BlockwiseEngine {
    /// An engine with the sessions of its first run.
    ///
    /// # Errors
    /// As [`Arch::check`] and [`SessionSetup::open`].
    pub(in crate::encoder) fn new(
        arch: &Arch,
        precisions: LayerPrecisions,
        setup: &SessionSetup,
        turns: &Arc<Turns>,
    ) -> Result<Self> {
        let own = setup.target.is_cpu().then_some(precisions);
        let kind = if own.is_some() { GraphKind::Own(kernel::active()?) } else { GraphKind::Standard };
        let chain = graph::build_chain(arch, own)?;
        let of_block = |layer: usize| -> Parameters {
            let prefix = block_prefix(layer);
            arch.parameters().into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect()
        };
        Ok(Self {
            arch: arch.clone(),
            blocks: (0..arch.layers - 1).map(of_block).collect(),
            sessions: Pool::new(ChainSessions::open(&chain, kind, setup)?, Arc::clone(turns)),
            chain,
            kind,
            setup: setup.clone(),
            outer_memory: BufferPool::unlimited(),
            block_memory: BufferPool::unlimited(),
        })
    }

    /// The tensors of some weights whose names are `wanted`, reconstructed into `memory` where they are a task's.
    fn part<'a>(
        &self,
        weights: RunWeights<'a>,
        wanted: impl Fn(&str) -> bool,
        memory: &Arc<BufferPool>,
    ) -> Result<Box<dyn WeightSource + 'a>> {
        Ok(match weights {
            RunWeights::Given(weights) => Box::new(weights),
            RunWeights::Task(task) => Box::new(task.part(wanted, self.setup.threads, memory)?),
        })
    }
}

/// Bytes of weights that one run of a tower holds at most; between runs the memory is kept for the next.
pub(in crate::encoder) fn weight_bytes(arch: &Arch) -> usize {
    let (all, prefix) = (arch.parameters(), block_prefix(0));
    let held = all.iter().filter(|(name, _)| name.starts_with(&prefix) || !graph::is_of_block(name));
    held.map(|(_, shape)| shape.iter().product::<usize>() * size_of::<f32>()).sum()
}

/// The error for what needs all weights of a task in memory.
pub(in crate::encoder) fn never_whole() -> Error {
    Error::unsupported("this encoder has the weights of one block at a time, and never all of a task")
        .hint("Its residency is blockwise (`streamed`)")
}

impl Engine for BlockwiseEngine {
    fn run(&self, images: Images<'_>, weights: RunWeights<'_>, out: &mut [f32]) -> Result<()> {
        let sessions = self.sessions.lend(|| ChainSessions::open(&self.chain, self.kind, &self.setup))?;
        let outer = &*self.part(weights, |name| !graph::is_of_block(name), &self.outer_memory)?;
        let block = |layer: usize| {
            let prefix = block_prefix(layer);
            self.part(weights, |name| name.starts_with(&prefix), &self.block_memory)
        };

        let Images { pixels, n } = images;
        let Chain { stem, block: link, last } = &self.chain;
        let rows = [n.saturating_mul(self.arch.tokens()), self.arch.width];
        let mut stream = try_zeroed(rows[0].saturating_mul(rows[1]))?;
        let size = self.arch.image_size();
        let input = Input { name: &stem.input, shape: &[n, 3, size, size], values: Elements::F32(pixels) };
        run_link(&sessions.stem, stem, input, &stem.parameters, &Parts(outer, outer), &mut stream)?;

        if let (Some(session), Some(link)) = (&sessions.block, link) {
            let mut next = try_zeroed(stream.len())?;
            for (layer, parameters) in self.blocks.iter().enumerate() {
                // Its memory is the next block's when it is dropped.
                let weights = block(layer)?;
                let input = Input { name: &link.input, shape: &rows, values: Elements::F32(&stream) };
                run_link(session, link, input, parameters, &Parts(&*weights, outer), &mut next)?;
                std::mem::swap(&mut stream, &mut next);
            }
        }
        let weights = block(self.arch.layers - 1)?;
        let input = Input { name: &last.input, shape: &rows, values: Elements::F32(&stream) };
        run_link(&sessions.last, last, input, &last.parameters, &Parts(&*weights, outer), out)
    }

    fn prepare(&self, _: &TaskWeights) -> Result<()> {
        Err(never_whole())
    }

    fn is_prepared(&self, _: &TaskWeights) -> bool {
        false
    }

    fn sessions(&self) -> usize {
        self.sessions.made()
    }

    /// Closes idle sessions, and gives back the memory that the next weights would have taken.
    fn trim(&self) {
        self.sessions.trim();
        self.outer_memory.drain();
        self.block_memory.drain();
    }
}

impl ChainSessions {
    fn open(chain: &Chain, kind: GraphKind, setup: &SessionSetup) -> Result<Self> {
        let open = |link: &Link| setup.open(&link.model, kind);
        let block = chain.block.as_ref().map(open).transpose()?;
        Ok(Self { stem: open(&chain.stem)?, block, last: open(&chain.last)? })
    }
}

/// Two parts of some weights, the first before the second.
struct Parts<'a>(&'a dyn WeightSource, &'a dyn WeightSource);

impl WeightSource for Parts<'_> {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        self.0.parameter(name).or_else(|| self.1.parameter(name))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.shape(name).or_else(|| self.1.shape(name))
    }
}

/// Runs one link of the chain with `parameters`, the link's own under the names that `weights` has for them.
fn run_link(
    session: &Session,
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
    session.run_into(std::iter::once(input).chain(renamed), &link.output, None, out)
}
