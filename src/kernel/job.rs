//! Tensor jobs, which the caller asks for, checked and cut into work items.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::dispatch::{Functions, Kernel};
use super::factors::JobFactors;
use super::hints::Hints;
use super::linear::PanelPacker;
use super::output::{Output, ROWS};
use super::product::{Factors, ProductTile};
use super::readahead::ReadAhead;
use super::threads;
use super::tile::{Tile, TileTerm};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{BLOCK, Source, Tensor, VectorFormat, f32_bytes, try_zeroed};

/// One tensor to compute: `base + Σ_m a_m·terms[m]`, and where its elements go.
pub struct TensorJob<'a> {
    /// The name in errors.
    pub name: &'a str,
    /// The tensor that the sum is added to; `None` gives the sum alone.
    pub base: Option<&'a Tensor>,
    /// The coefficients a, one per term.
    pub coefficients: &'a [f32],
    /// The terms in ascending m, all of one shape, of any float types and block formats.
    pub terms: Vec<&'a Source>,
    /// The outputs that the elements go to, in row-major order; what is in none of them is not kept.
    pub outputs: Vec<Output<'a>>,
}

impl fmt::Debug for TensorJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, terms, outputs, .. } = self;
        let mut shown = f.debug_struct("TensorJob");
        shown.field("name", name).field("terms", &terms.len()).field("outputs", outputs).finish_non_exhaustive()
    }
}

/// Results of this many bytes or more are written past the caches. They would push out what the caches hold and not
/// be there when they are read; and an ordinary store first reads the line that it will overwrite. Below, a result
/// that stays in the cache helps its next reader. Counting that reader's time too (M = 4, one thread, 32 MiB of
/// third-level cache, two runs), ordinary stores won by 3 to 7 % up to 2 MiB and by 2 % or less at 4 and 8; from 16 on
/// the runs disagreed, between 7 % lost by streaming and 26 % won. Without the reader streaming mostly won.
const STREAM_FROM: usize = 8 << 20;

/// A thread must have this many bytes to read and write before another one is worth its start: starting and joining one
/// took 39 µs, in which a running one moves 0.8 MB.
const BYTES_PER_THREAD: usize = 1 << 20;

/// Work items that are written where they belong have at most this many elements. Short enough that threads finish
/// together, long enough that the hardware's prefetching is not always starting afresh.
const MAX_ITEM: usize = 256 << 10;

/// Such items begin at multiples of this many elements: where blocks do, and so that two threads never write into one
/// cache line of an output that is aligned.
const ITEM_STEP: usize = BLOCK;

/// Elements of an item that goes elsewhere from the cache, about: with the vectors' own bytes they stay in the
/// second-level cache.
const CACHED_ITEM: usize = 32 << 10;

/// Elements that are converted at a time where a kernel cannot load a source's own bytes: small enough that a dozen
/// converted sources stay in the first-level cache. Whole blocks.
const CONVERTED: usize = 8 * BLOCK;

/// The same where a term is of low rank, which is computed by several rows: some of the longest ones.
const MULTIPLIED: usize = 256 * BLOCK;

/// Computes every job by the bit contract of [this module](super).
///
/// What an output takes as f32, whole and in order is computed where it belongs, everything else in a buffer that stays
/// in the cache, from where it is written in the same pass: the same bits, times the output's scale, rounded to its
/// type.
///
/// Works on up to `threads` threads, the caller's among them; 0 means as many as this process may run at once. What is
/// too small to gain from it stays on the caller's thread. Memory that was never touched is first touched by the thread
/// that writes it. Once `cancel` is true it ends early: it is looked at before every work item, each at most 1 MiB of
/// the result.
///
/// # Errors
/// Nothing is written unless everything is in order:
/// - [`ErrorKind::InvalidArgument`] when a coefficient is not finite, or for more than
///   [`max_threads`](super::max_threads);
/// - [`ErrorKind::Mismatch`] when a job has another number of terms than coefficients, or its base, terms and outputs
///   differ in shape or number of elements;
/// - [`ErrorKind::Unsupported`] when a tensor is not of floats, or this machine cannot run `kernel`.
///
/// [`ErrorKind::OutOfMemory`] may come later, where sources must be converted first, and [`ErrorKind::Cancelled`] when
/// it ended early. The outputs then hold nothing of use.
pub fn combine(kernel: Kernel, threads: usize, jobs: Vec<TensorJob<'_>>, cancel: Option<&AtomicBool>) -> Result<()> {
    let functions = kernel.functions()?;
    for (m, coefficient) in jobs.iter().flat_map(|job| job.coefficients.iter().enumerate()) {
        if !coefficient.is_finite() {
            return Err(Error::invalid(format!("coefficient {m} is not finite")).got(coefficient));
        }
    }
    let (mut inputs, mut targets) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
    for job in jobs {
        let numel = job.check().map_err(|error| error.tensor(job.name))?;
        inputs.push(Inputs::of(&job));
        targets.push(JobTarget::of(job, numel));
    }

    let (mut traffic, mut direct) = (0, 0);
    for (inputs, target) in inputs.iter().zip(&targets) {
        traffic += target.nbytes() + inputs.iter().map(Source::nbytes).sum::<usize>();
        direct += target.direct();
    }
    let threads = threads::count(threads)?.min(traffic / BYTES_PER_THREAD).max(1);
    let mut hints = Hints::active(kernel.hints())?;
    hints.stream &= direct * size_of::<f32>() >= STREAM_FROM;
    // With a few items per thread, the one that comes last is never waited for long.
    let length = (direct / (8 * threads)).next_multiple_of(ITEM_STEP).clamp(ITEM_STEP, MAX_ITEM);
    let ahead = ReadAhead::new(inputs.iter().map(|inputs| inputs.iter().collect()).collect());
    let mut items = Vec::new();
    for (job, (inputs, target)) in inputs.iter().zip(&mut targets).enumerate() {
        match target {
            JobTarget::InOrder(out) => {
                let pieces = (0..).step_by(length).zip(out.chunks_mut(length));
                items.extend(pieces.map(|(start, out)| WorkItem {
                    job,
                    inputs,
                    start,
                    target: ItemTarget::InPlace(out),
                }));
            }
            JobTarget::Buffered { numel, width, outputs } => {
                // Many rows, in whole blocks.
                let rows = (CACHED_ITEM / *width / ROWS).max(1) * ROWS;
                let length = match outputs.iter().find_map(Output::unit) {
                    None => (rows * *width).min(4 * CACHED_ITEM).next_multiple_of(BLOCK),
                    // Whole panels: one, or two where the second begins inside a block.
                    Some(unit) if unit.is_multiple_of(BLOCK) => unit,
                    Some(unit) => 2 * unit,
                };
                let count = |start: usize| length.min(*numel - start);
                let target = |start: usize| ItemTarget::Buffered { count: count(start), outputs };
                items.extend((0..*numel).step_by(length).map(|start| WorkItem {
                    job,
                    inputs,
                    start,
                    target: target(start),
                }));
            }
        }
    }
    threads::share(threads, items, |item, scratch| {
        // Nothing is handed over with the flag, so its order against other memory does not matter.
        if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "the work was called off"));
        }
        ahead.arrived_at(item.job);
        item.run(kernel, functions, hints, scratch)
    })
}

impl TensorJob<'_> {
    /// Everything about it that could be wrong; the number of its elements.
    fn check(&self) -> Result<usize> {
        if self.terms.len() != self.coefficients.len() {
            return Err(Error::mismatch("there must be one term per coefficient")
                .expected(format_args!("{} terms", self.coefficients.len()))
                .got(self.terms.len()));
        }
        let what = |m: usize| match (self.base, m) {
            (Some(_), 0) => "the base".to_owned(),
            (Some(_), m) => format!("term {}", m - 1),
            (None, m) => format!("term {m}"),
        };
        let base = self.base.map(|base| (base.shape(), base.mapping(), Some(base.dtype())));
        let terms = self.terms.iter().map(|term| (term.shape(), term.mapping(), term.dtype()));
        let mut first: Option<&[usize]> = None;
        for (m, (shape, mapping, dtype)) in base.into_iter().chain(terms).enumerate() {
            if let Some(dtype) = dtype.filter(|dtype| !dtype.is_float()) {
                return Err(Error::unsupported(format!("{} cannot be combined", what(m)))
                    .at(mapping.path())
                    .expected("f32, f16, bf16, f64 or blocks")
                    .got(dtype));
            }
            let first = *first.get_or_insert(shape);
            if shape != first {
                return Err(Error::mismatch(format!("{} has another shape than {}", what(m), what(0)))
                    .at(mapping.path())
                    .expected(format_args!("{first:?}"))
                    .got(format_args!("{shape:?}")));
            }
        }
        let Some(numel) = first.map(|shape| shape.iter().product()) else {
            return Ok(self.outputs.iter().map(|output| output.elements().end).max().unwrap_or(0));
        };
        for output in &self.outputs {
            let (elements, is_part) = (output.elements(), output.is_part());
            if elements.end > numel || (!is_part && elements.end != numel) {
                return Err(Error::mismatch("the output has another number of elements than the tensors")
                    .expected(numel)
                    .got(elements.end));
            }
        }
        Ok(numel)
    }
}

/// The tensors that are read for a job that was checked.
struct Inputs<'a> {
    base: Option<Source>,
    /// The terms whose coefficient is not zero.
    terms: Vec<(f32, &'a Source)>,
    /// Whether a kernel can load all of them as they are. Where it cannot, those that must be are converted tile by
    /// tile.
    are_loadable: bool,
    /// Whether a term is of low rank.
    has_factors: bool,
}

impl<'a> Inputs<'a> {
    fn of(job: &TensorJob<'a>) -> Self {
        let base = job.base.cloned().map(Source::Dense);
        let all = job.coefficients.iter().copied().zip(job.terms.iter().copied());
        let terms: Vec<_> = all.filter(|&(a, _)| a != 0.0).collect();
        let has_factors = terms.iter().any(|(_, term)| matches!(term, Source::LowRank(_)));
        let inputs = Self { base, terms, are_loadable: false, has_factors };
        let are_loadable = inputs.iter().all(|input| input.loadable().is_some());
        Self { are_loadable, ..inputs }
    }

    fn iter(&self) -> impl Iterator<Item = &Source> {
        self.base.iter().chain(self.terms.iter().map(|&(_, term)| term))
    }
}

/// The destination of a job's elements.
enum JobTarget<'a> {
    /// All of them, in f32 and in order: they are computed there.
    InOrder(&'a mut [f32]),
    /// Outputs from a buffer in which the elements are computed.
    Buffered {
        numel: usize,
        /// Elements of a row.
        width: usize,
        outputs: Vec<Output<'a>>,
    },
}

impl<'a> JobTarget<'a> {
    fn of(job: TensorJob<'a>, numel: usize) -> Self {
        let shape = job.base.map(Tensor::shape).or_else(|| job.terms.first().map(|term| term.shape()));
        let width = shape.and_then(|shape| shape.last().copied()).unwrap_or(1).max(1);
        let mut outputs = job.outputs;
        match outputs.pop() {
            Some(only) if outputs.is_empty() => match only.in_order(numel) {
                Ok(out) => return Self::InOrder(out),
                Err(output) => outputs.push(output),
            },
            last => outputs.extend(last),
        }
        Self::Buffered { numel, width, outputs }
    }

    /// Elements that are computed where they belong.
    fn direct(&self) -> usize {
        match self {
            Self::InOrder(out) => out.len(),
            Self::Buffered { .. } => 0,
        }
    }

    /// Bytes that are written.
    fn nbytes(&self) -> usize {
        match self {
            Self::InOrder(out) => size_of_val(*out),
            Self::Buffered { outputs, .. } => outputs.iter().map(Output::nbytes).sum(),
        }
    }
}

/// The work that one thread computes at a time: the elements from `start` on. Begins where a block does.
struct WorkItem<'p> {
    /// The number of the job.
    job: usize,
    inputs: &'p Inputs<'p>,
    start: usize,
    target: ItemTarget<'p>,
}

/// The memory that the elements of a work item are computed in.
enum ItemTarget<'p> {
    InPlace(&'p mut [f32]),
    /// A buffer for `count` of them; each output takes its own from there.
    Buffered {
        count: usize,
        outputs: &'p [Output<'p>],
    },
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    converted: Vec<f32>,
    factors: JobFactors,
    result: Vec<f32>,
    scaled: Vec<f32>,
    packer: PanelPacker,
}

impl WorkItem<'_> {
    fn run(self, kernel: Kernel, functions: Functions, hints: Hints, scratch: &mut Scratch) -> Result<()> {
        let Scratch { converted, factors, result, scaled, packer } = scratch;
        if self.inputs.has_factors {
            factors.prepare(self.job, &self.inputs.terms, functions)?;
        }
        match self.target {
            ItemTarget::InPlace(out) => self.inputs.compute(self.start, out, functions, hints, converted, factors),
            ItemTarget::Buffered { count, outputs } => {
                if result.len() < count {
                    *result = try_zeroed(count)?;
                }
                let values = &mut result[..count];
                let hints = Hints { stream: false, ..hints };
                self.inputs.compute(self.start, values, functions, hints, converted, factors)?;
                packer.use_kernel(kernel)?;
                outputs.iter().try_for_each(|output| output.put(self.start, values, scaled, packer))
            }
        }
    }
}

impl Inputs<'_> {
    /// Computes the elements from `start` on, as many as `out` has.
    fn compute(
        &self,
        mut start: usize,
        out: &mut [f32],
        functions: Functions,
        hints: Hints,
        scratch: &mut Vec<f32>,
        factors: &JobFactors,
    ) -> Result<()> {
        let Self { base, terms, are_loadable, has_factors } = self;
        if base.is_none() && terms.is_empty() {
            out.fill(0.0);
            return Ok(());
        }
        let length = match (*are_loadable, *has_factors) {
            (true, _) => usize::MAX,
            (false, true) => MULTIPLIED,
            (false, false) => CONVERTED,
        };
        if !are_loadable && scratch.len() < (terms.len() + 1) * length {
            *scratch = try_zeroed((terms.len() + 1) * length)?;
        }
        for out in out.chunks_mut(length) {
            let mut reader = Reader { start, count: out.len(), scratch };
            let base = base.as_ref().map(|base| reader.read(base)).transpose()?;
            let mut loaded = Vec::with_capacity(terms.len());
            for (m, &(coefficient, term)) in terms.iter().enumerate() {
                let (format, bytes) = match factors.of(m).filter(|_| *has_factors) {
                    Some(factors) => reader.multiply(factors, functions),
                    None => reader.read(term)?,
                };
                loaded.push(TileTerm { coefficient, format, bytes });
            }
            start += out.len();
            (functions.combine)(Tile { out, base, terms: &loaded, hints });
        }
        Ok(())
    }
}

/// Gives the elements `start..start + count` of inputs as bytes that a kernel can load.
struct Reader<'a> {
    start: usize,
    count: usize,
    /// Room for conversions that is not taken yet.
    scratch: &'a mut [f32],
}

impl<'a> Reader<'a> {
    /// The input's own bytes where they can be loaded, else the elements converted to f32 in scratch.
    fn read(&mut self, input: &'a Source) -> Result<(VectorFormat, &'a [u8])> {
        if let Some((format, bytes)) = input.loadable() {
            return Ok((format, &bytes[format.bytes(self.start)..][..format.bytes(self.count)]));
        }
        let tile = self.room();
        input.read_f32(self.start, tile)?;
        Ok((VectorFormat::F32, f32_bytes(tile)))
    }

    /// The elements of a matrix of low rank, in scratch.
    fn multiply(&mut self, factors: &Factors, functions: Functions) -> (VectorFormat, &'a [u8]) {
        let tile = self.room();
        (functions.product)(ProductTile { out: &mut *tile, factors, start: self.start });
        (VectorFormat::F32, f32_bytes(tile))
    }

    /// Takes room for the elements of one input.
    fn room(&mut self) -> &'a mut [f32] {
        let (tile, rest) = std::mem::take(&mut self.scratch).split_at_mut(self.count);
        self.scratch = rest;
        tile
    }
}
