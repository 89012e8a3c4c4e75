//! What the caller asks for, checked and cut into strips.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ahead::ReadAhead;
use super::dispatch::Kernel;
use super::input::Input;
use super::strip::{Format, Strip, Term};
use super::threads;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{BLOCK, Source, Tensor, f32_bytes, try_zeroed};

/// One tensor to compute: `out = base + Σ_m a_m·terms[m]`.
pub struct Segment<'a> {
    /// What errors call it.
    pub name: &'a str,
    /// What the sum is added to; `None` gives the sum alone.
    pub base: Option<&'a Tensor>,
    /// The terms in ascending m, one a coefficient, all of one shape, of any float types and block formats.
    pub terms: Vec<&'a Source>,
    /// Where the result goes, in row-major order.
    pub out: &'a mut [f32],
}

impl fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = self.terms.len();
        f.debug_struct("Segment").field("name", &self.name).field("terms", &terms).finish_non_exhaustive()
    }
}

/// Results of this many bytes or more are written past the caches. They would push out what the caches hold and not
/// be there when they are read; and an ordinary store first reads the line that it will overwrite. Below, a result
/// that stays in the cache helps whoever reads it next. Counting that reader's time too (M = 4, one thread, 32 MiB of
/// third-level cache, two runs), ordinary stores won by 3 to 7 % up to 2 MiB and by 2 % or less at 4 and 8; from 16 on
/// the runs disagreed, between 7 % lost by streaming and 26 % won. Without the reader streaming mostly won.
const STREAM_FROM: usize = 8 << 20;

/// A thread must have this many bytes to read and write before another one is worth its start: starting and joining one
/// took 39 µs, in which a running one moves 0.8 MB.
const BYTES_A_THREAD: usize = 1 << 20;

/// Threads take pieces of at most this many elements. Short enough that they finish together, long enough that the
/// hardware's prefetching is not always starting afresh.
const PIECE: usize = 256 << 10;

/// Pieces begin at multiples of this many elements: where blocks do, and so that two threads never write into one cache
/// line of an output that is aligned.
const PIECE_STEP: usize = BLOCK;

/// Elements that are converted at a time where a kernel cannot load a source's own bytes: small enough that a dozen
/// converted sources stay in the first-level cache. Whole blocks.
const TILE: usize = 8 * BLOCK;

/// Computes every segment with the same coefficients, by the bit contract of [this module](super).
///
/// Works on up to `threads` threads, the caller's among them; 0 means as many as this process may run at once. What is
/// too small to gain from it stays on the caller's thread. Memory that was never touched is first touched by the thread
/// that writes it.
///
/// # Errors
/// Nothing is written unless everything is in order:
/// - [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when a coefficient is not finite;
/// - [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) when a segment has another number of terms than there are
///   coefficients, or its base, terms and output differ in shape or number of elements;
/// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when a tensor is not of floats, or this machine cannot
///   run `kernel`.
///
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) may come later, where sources must be converted first.
pub fn combine(kernel: Kernel, threads: usize, coefficients: &[f32], segments: Vec<Segment<'_>>) -> Result<()> {
    combine_cancellable(kernel, threads, coefficients, segments, None)
}

/// [`combine`], which ends early once `cancel` is true: it is looked at before every piece of work, each at most 1 MiB
/// of the result.
///
/// # Errors
/// As [`combine`]; [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) when it ended early. The outputs then hold
/// nothing of use.
pub fn combine_cancellable(
    kernel: Kernel,
    threads: usize,
    coefficients: &[f32],
    segments: Vec<Segment<'_>>,
    cancel: Option<&AtomicBool>,
) -> Result<()> {
    let function = kernel.function()?;
    for (m, coefficient) in coefficients.iter().enumerate() {
        if !coefficient.is_finite() {
            return Err(Error::invalid(format!("coefficient {m} is not finite")).got(coefficient));
        }
    }
    for segment in &segments {
        check(segment.base, &segment.terms, coefficients.len(), segment.out.len())
            .map_err(|error| error.tensor(segment.name))?;
    }

    let (mut elements, mut traffic) = (0, 0);
    let mut plans = Vec::with_capacity(segments.len());
    for Segment { base, terms, out, .. } in segments {
        let plan = Plan::new(base, coefficients, terms);
        elements += out.len();
        traffic += size_of_val(out) + plan.inputs().map(Input::nbytes).sum::<usize>();
        plans.push((plan, out));
    }
    let threads = threads::count(threads).min(traffic / BYTES_A_THREAD).max(1);
    let stream = elements * size_of::<f32>() >= STREAM_FROM;
    // With a few pieces a thread, the one that comes last is never waited for long.
    let length = (elements / (8 * threads)).next_multiple_of(PIECE_STEP).clamp(PIECE_STEP, PIECE);
    let ahead = ReadAhead::new(plans.iter().map(|(plan, _)| plan.inputs().collect()).collect());
    let mut pieces = Vec::new();
    for (segment, (plan, out)) in plans.iter_mut().enumerate() {
        for (i, out) in out.chunks_mut(length).enumerate() {
            pieces.push((segment, Piece { plan, start: i * length, out }));
        }
    }
    threads::share(threads, pieces, |(segment, piece), scratch| {
        // Nothing is handed over with the flag, so its order against other memory does not matter.
        if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "the work was called off"));
        }
        ahead.arrived_at(segment);
        piece.run(function, stream, scratch)
    })
}

/// Everything about a segment that could be wrong.
pub(super) fn check(base: Option<&Tensor>, terms: &[&Source], coefficients: usize, out: usize) -> Result<()> {
    if terms.len() != coefficients {
        return Err(Error::mismatch("there must be one term a coefficient")
            .expected(format_args!("{coefficients} terms"))
            .got(terms.len()));
    }
    let base = base.map(Input::Dense);
    let inputs = || base.into_iter().chain(terms.iter().map(|term| Input::from(*term)));
    let Some(first) = inputs().next() else {
        return Ok(());
    };
    let what = |m: usize| match (base, m) {
        (Some(_), 0) => "the base".to_owned(),
        (Some(_), m) => format!("term {}", m - 1),
        (None, m) => format!("term {m}"),
    };
    for (m, input) in inputs().enumerate() {
        if let Input::Dense(tensor) = input
            && !tensor.dtype().is_float()
        {
            return Err(Error::unsupported(format!("{} cannot be combined", what(m)))
                .at(tensor.mapping().path())
                .expected("f32, f16, bf16, f64 or blocks")
                .got(tensor.dtype()));
        }
        if input.shape() != first.shape() {
            return Err(Error::mismatch(format!("{} has another shape than {}", what(m), what(0)))
                .at(input.mapping().path())
                .expected(format_args!("{:?}", first.shape()))
                .got(format_args!("{:?}", input.shape())));
        }
    }
    if first.numel() != out {
        return Err(Error::mismatch("the output has another number of elements than the tensors")
            .expected(first.numel())
            .got(out));
    }
    Ok(())
}

/// A segment that was checked: which inputs are read, and how.
pub(super) struct Plan<'a> {
    base: Option<Input<'a>>,
    terms: Vec<(f32, Input<'a>)>,
    /// Whether a kernel can load all of them as they are. Where it cannot, those that must be are converted tile by
    /// tile.
    direct: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(base: Option<&'a Tensor>, coefficients: &[f32], terms: Vec<&'a Source>) -> Self {
        let base = base.map(Input::Dense);
        let terms: Vec<_> =
            coefficients.iter().copied().zip(terms).filter(|&(a, _)| a != 0.0).map(|(a, s)| (a, s.into())).collect();
        let plan = Self { base, terms, direct: false };
        let direct = plan.inputs().all(|input| input.loadable().is_some());
        Self { direct, ..plan }
    }

    /// What is read.
    fn inputs(&self) -> impl Iterator<Item = Input<'a>> {
        self.base.into_iter().chain(self.terms.iter().map(|&(_, term)| term))
    }
}

/// What one thread computes at a time: the elements from `start` on, as many as `out` has. Begins where a block does.
pub(super) struct Piece<'a> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) start: usize,
    pub(super) out: &'a mut [f32],
}

impl Piece<'_> {
    pub(super) fn run(self, kernel: fn(Strip<'_>), stream: bool, scratch: &mut Vec<f32>) -> Result<()> {
        let Self { plan: Plan { base, terms, direct }, mut start, out } = self;
        if base.is_none() && terms.is_empty() {
            out.fill(0.0);
            return Ok(());
        }
        if !direct && scratch.len() < (terms.len() + 1) * TILE {
            *scratch = try_zeroed((terms.len() + 1) * TILE)?;
        }
        for out in out.chunks_mut(if *direct { usize::MAX } else { TILE }) {
            let mut reader = Reader { start, count: out.len(), scratch };
            let base = base.map(|base| reader.read(base)).transpose()?;
            let mut loaded = Vec::with_capacity(terms.len());
            for &(coefficient, term) in terms {
                let (format, bytes) = reader.read(term)?;
                loaded.push(Term { coefficient, format, bytes });
            }
            start += out.len();
            kernel(Strip { out, base, terms: &loaded, stream });
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
    fn read(&mut self, input: Input<'a>) -> Result<(Format, &'a [u8])> {
        if let Some((format, bytes)) = input.loadable() {
            return Ok((format, &bytes[format.bytes(self.start)..][..format.bytes(self.count)]));
        }
        let (tile, rest) = std::mem::take(&mut self.scratch).split_at_mut(self.count);
        self.scratch = rest;
        input.read_f32(self.start, tile)?;
        Ok((Format::F32, f32_bytes(tile)))
    }
}
