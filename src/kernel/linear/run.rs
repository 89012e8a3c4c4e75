//! Products shared between threads.

use super::activation::Activation;
use super::entry::{self, Functions};
use super::generic::Finish;
use super::layout::{ALIGNMENT, PANEL, PackedLayout};
use super::precision::Precision;
use super::row_scale::RowScale;
use crate::error::{Error, Result};
use crate::kernel::dispatch::Kernel;

/// Threads that share work out.
pub trait Pool {
    /// The number of threads, the caller's among them.
    fn threads(&self) -> usize;

    /// Calls `work` on every number below `count`, each once, on any of the threads, and waits for all.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync));
}

/// A product to compute.
#[derive(Debug)]
pub struct LinearJob<'a> {
    /// The layout of the packed weights.
    pub layout: PackedLayout,
    /// The packed weights, aligned to [`ALIGNMENT`].
    pub weights: &'a [u8],
    /// A: rows of the layout's inputs.
    pub input: &'a [f32],
    /// One per output.
    pub bias: Option<&'a [f32]>,
    /// What is applied to the sums.
    pub activation: Activation,
    /// Rows of the layout's outputs, which are added to the results.
    pub residual: Option<&'a [f32]>,
    /// Rows of the layout's outputs.
    pub out: &'a mut [f32],
}

/// Memory for converted activations, kept from one product to the next.
#[derive(Default, Debug)]
pub struct Scratch {
    lines: Vec<Line>,
    scales: Vec<RowScale>,
}

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

/// Converted activations of a block, at most: they stay in the second-level cache while panels come and go.
const BLOCK_BYTES: usize = 448 << 10;
/// Pieces of work per thread, so that none is waited for long.
const PIECES_PER_THREAD: usize = 4;

/// A pointer that threads share, each with places of its own.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: threads write what is theirs alone, as every use below says.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as before.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// Computes a product by the bit contract of [this module](super), on the threads of `pool`.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where a size does not fit the layout's;
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for weights that are not aligned;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when this machine cannot run `kernel`;
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
pub fn linear(kernel: Kernel, job: LinearJob<'_>, pool: &dyn Pool, scratch: &mut Scratch) -> Result<()> {
    let functions = entry::of(kernel)?;
    let rows = job.check()?;
    if rows == 0 {
        return Ok(());
    }
    let LinearJob { layout, weights, input, bias, activation, residual, out } = job;
    let row_bytes = layout.steps() * 4 * (functions.parts)(layout.precision());
    let tiles = rows.div_ceil(functions.rows);
    let start = |tile: usize| rows * tile / tiles;
    scratch.reserve(rows, row_bytes)?;
    let lines = Shared(scratch.lines.as_mut_ptr().cast::<u8>());
    let scales = Shared(scratch.scales.as_mut_ptr());

    let batches = (pool.threads() * PIECES_PER_THREAD).min(tiles);
    pool.run(batches, &|batch| {
        for tile in tiles * batch / batches..tiles * (batch + 1) / batches {
            let (from, to) = (start(tile), start(tile + 1));
            let input = &input[from * layout.inputs()..to * layout.inputs()];
            // SAFETY: the instruction set is there, as `entry::of` found; `reserve` made room for every row's line and
            // scale, and each belongs to one tile.
            unsafe {
                let scales = std::slice::from_raw_parts_mut(scales.at(from), to - from);
                (functions.convert)(&layout, input, lines.at(from * row_bytes), scales);
            }
        }
    });

    // Blocks of rows that stay in the cache, and as many chunks of panels as keep every thread busy.
    let blocks = (rows * row_bytes).div_ceil(BLOCK_BYTES).min(tiles);
    let chunks = (pool.threads() * PIECES_PER_THREAD).div_ceil(blocks).min(layout.panels());
    let out = Shared(out.as_mut_ptr());
    pool.run(blocks * chunks, &|piece| {
        let (block, chunk) = (piece / chunks, piece % chunks);
        for panel in layout.panels() * chunk / chunks..layout.panels() * (chunk + 1) / chunks {
            let panel = Panel::new(&layout, weights, bias, panel);
            for tile in tiles * block / blocks..tiles * (block + 1) / blocks {
                let (from, to) = (start(tile), start(tile + 1));
                // SAFETY: the lines and scales were written above, for this tile among others, and nothing writes them
                // any more; `check` saw that `out` has all rows, and each (tile, panel) belongs to one piece.
                unsafe {
                    let a = lines.at(from * row_bytes);
                    let scales = std::slice::from_raw_parts(scales.at(from), to - from);
                    panel.compute(&functions, a, scales, from, activation, residual, out);
                }
            }
        }
    });
    Ok(())
}

impl LinearJob<'_> {
    /// Everything about it that could be wrong; the number of rows.
    fn check(&self) -> Result<usize> {
        let (inputs, outputs) = (self.layout.inputs(), self.layout.outputs());
        let rows = self.input.len() / inputs;
        let fits = |what: &str, got: usize, expected: usize| {
            if got == expected {
                return Ok(());
            }
            Err(Error::mismatch(format!("{what} of another size")).expected(expected).got(got))
        };
        fits("an input", self.input.len(), rows * inputs)?;
        fits("an output", self.out.len(), rows * outputs)?;
        fits("packed weights", self.weights.len(), self.layout.nbytes())?;
        fits("a bias", self.bias.map_or(outputs, <[f32]>::len), outputs)?;
        fits("a residual", self.residual.map_or(rows * outputs, <[f32]>::len), rows * outputs)?;
        if !self.weights.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(Error::invalid("packed weights are not aligned").expected(format_args!("{ALIGNMENT} bytes")));
        }
        Ok(rows)
    }
}

impl Scratch {
    /// Makes room for the lines and scales of as many rows.
    fn reserve(&mut self, rows: usize, row_bytes: usize) -> Result<()> {
        let lines = rows * row_bytes / size_of::<Line>();
        let short = |bytes: usize| move |_| Error::out_of_memory(bytes);
        let missing = lines.saturating_sub(self.lines.len());
        self.lines.try_reserve_exact(missing).map_err(short(rows * row_bytes))?;
        self.lines.resize(lines.max(self.lines.len()), Line([0; 64]));
        let missing = rows.saturating_sub(self.scales.len());
        self.scales.try_reserve_exact(missing).map_err(short(rows * size_of::<RowScale>()))?;
        self.scales.resize(rows.max(self.scales.len()), RowScale::default());
        Ok(())
    }
}

/// A panel of weights, and what belongs to its outputs.
struct Panel<'a> {
    layout: &'a PackedLayout,
    steps: &'a [u8],
    scales: Option<(&'a [f32], &'a [i32])>,
    bias: [f32; PANEL],
    /// The first of its outputs, and how many there are.
    first: usize,
    width: usize,
}

impl<'a> Panel<'a> {
    fn new(layout: &'a PackedLayout, weights: &'a [u8], bias: Option<&[f32]>, panel: usize) -> Self {
        let first = panel * PANEL;
        let width = PANEL.min(layout.outputs() - first);
        let mut padded = [0.0; PANEL];
        if let Some(bias) = bias {
            padded[..width].copy_from_slice(&bias[first..first + width]);
        }
        let numbers = |at: usize| weights[at..].as_ptr();
        let scales = (layout.precision() == Precision::Int8).then(|| {
            // SAFETY: a panel's scales, and the sums of its weights, lie inside the packed weights (their length was
            // checked), aligned as those are; any four bytes are an f32 or an i32.
            unsafe {
                let scales = std::slice::from_raw_parts(numbers(layout.scales(panel)).cast(), PANEL);
                (scales, std::slice::from_raw_parts(numbers(layout.totals(panel)).cast(), PANEL))
            }
        });
        let steps = &weights[panel * layout.panel_bytes()..][..layout.panel_bytes()];
        Self { layout, steps, scales, bias: padded, first, width }
    }

    /// Computes the results of a tile of rows from `from` on.
    ///
    /// # Safety
    /// The functions' instruction set is there; `a` is the tile, and `out` has the results' rows, of which no other
    /// thread uses these.
    #[allow(clippy::too_many_arguments)]
    unsafe fn compute(
        &self,
        functions: &Functions,
        a: *const u8,
        scales: &[RowScale],
        from: usize,
        activation: Activation,
        residual: Option<&[f32]>,
        out: Shared<f32>,
    ) {
        let mut tile = [Line([0; 64]); MAX_ROWS * PANEL * 4 / 64];
        let tile = tile.as_mut_ptr().cast::<u8>();
        let (precision, outputs) = (self.layout.precision(), self.layout.outputs());
        // SAFETY: the caller's promise; the panel has the layout's steps, the tile room for the most rows of any
        // instruction set.
        unsafe {
            (functions.multiply)(precision, scales.len(), a, self.steps.as_ptr(), self.layout.steps(), tile);
        }
        for (r, scale) in scales.iter().enumerate() {
            let at = (from + r) * outputs + self.first;
            let mut padded = [0.0; PANEL];
            let residual = residual.map(|residual| {
                if self.width == PANEL {
                    return &residual[at..at + PANEL];
                }
                padded[..self.width].copy_from_slice(&residual[at..at + self.width]);
                &padded[..]
            });
            let scales = self.scales.map(|(scales, totals)| (*scale, scales, totals));
            let finish = Finish { scales, bias: &self.bias, activation, residual };
            // SAFETY: the caller's promise; the row of sums was just written, and the results have room for a panel
            // where it is whole.
            unsafe {
                let sums = tile.add(r * PANEL * 4);
                if self.width == PANEL {
                    (functions.finish)(sums, finish, out.at(at));
                } else {
                    let mut row = [0.0f32; PANEL];
                    (functions.finish)(sums, finish, row.as_mut_ptr());
                    out.at(at).copy_from_nonoverlapping(row.as_ptr(), self.width);
                }
            }
        }
    }
}

/// The most rows of a tile of any instruction set.
const MAX_ROWS: usize = 8;
