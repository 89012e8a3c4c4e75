//! Products shared between threads.

use super::activation::Activation;
use super::entry;
use super::layout::PackedLayout;
use super::matrix::Matrix;
use super::norm::LayerNorm;
use super::panel::{After, Panel};
use super::row_scale::RowScale;
use super::rows::{PatchRows, Patches, RowSource};
use super::share::{Pool, Room, Shared, Tile, pieces};
use crate::error::{Error, Result};
use crate::kernel::dispatch::Kernel;

/// A product to compute.
#[derive(Debug)]
pub struct LinearJob<'a> {
    /// The layout of the packed weights.
    pub layout: PackedLayout,
    /// The weights.
    pub weights: Matrix<'a>,
    /// A: rows of the layout's inputs.
    pub input: &'a [f32],
    /// What is done to each row of A before.
    pub norm: Option<LayerNorm<'a>>,
    /// One per output.
    pub bias: Option<&'a [f32]>,
    /// What is applied to the sums.
    pub activation: Activation,
    /// Factors of the results, one per output: what is called layer scale.
    pub gain: Option<&'a [f32]>,
    /// Rows of the layout's outputs, which are added to the results.
    pub residual: Option<&'a [f32]>,
    /// Rows of the layout's outputs.
    pub out: &'a mut [f32],
}

/// Memory of products, kept from one to the next.
#[derive(Default, Debug)]
pub struct Scratch {
    /// Converted activations, and their scales.
    lines: Room,
    scales: Vec<RowScale>,
    /// Rows of A that lie apart, a tile of them for each piece of work.
    gathered: Room,
    /// A normalised row for each piece of work.
    normed: Room,
    /// The packed form of weights that are not packed.
    packed: Room,
    pub(super) packing: Room,
}

/// Converted activations of a block, at most: they stay in the second-level cache while panels come and go.
const BLOCK_BYTES: usize = 448 << 10;

/// Computes a product by the bit contract of [this module](super), on the threads of `pool`.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where a size does not fit the layout's;
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for weights that are not aligned;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when this machine cannot run `kernel`;
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
pub fn linear(kernel: Kernel, job: LinearJob<'_>, pool: &dyn Pool, scratch: &mut Scratch) -> Result<()> {
    let input = job.input;
    compute(kernel, job, &input, pool, scratch)
}

/// Computes the product whose rows of A are the patches of images, which the input is. A row has one channel after the
/// other, each row by row; patches follow each other along the rows of an image.
///
/// # Errors
/// As [`linear`].
pub fn linear_of_patches(
    kernel: Kernel,
    patches: Patches,
    job: LinearJob<'_>,
    pool: &dyn Pool,
    scratch: &mut Scratch,
) -> Result<()> {
    let of_images = PatchRows::new(patches, job.input, job.layout.inputs())?;
    compute(kernel, job, &of_images, pool, scratch)
}

fn compute(
    kernel: Kernel,
    job: LinearJob<'_>,
    source: &dyn RowSource,
    pool: &dyn Pool,
    scratch: &mut Scratch,
) -> Result<()> {
    let functions = entry::of(kernel)?;
    let rows = job.check()?;
    if rows == 0 {
        return Ok(());
    }
    let LinearJob { layout, weights, norm, bias, activation, gain, residual, out, .. } = job;
    let weights = weights.packed(&functions, &layout, pool, &mut scratch.packing, &mut scratch.packed)?;
    let row_bytes = layout.steps() * 4 * (functions.parts)(layout.precision());
    let tiles = rows.div_ceil(functions.rows);
    let start = |tile: usize| rows * tile / tiles;
    let batches = pieces(pool, tiles);
    let lines = scratch.lines.reserve(rows * row_bytes)?;
    let gathered = if source.is_gathered() { functions.rows * layout.inputs() } else { 0 };
    let gathering = scratch.gathered.reserve(batches * gathered * size_of::<f32>())?;
    let normed_bytes = norm.map_or(0, |_| layout.inputs() * 4);
    let normed = scratch.normed.reserve(batches * normed_bytes)?;
    reserve_scales(&mut scratch.scales, rows)?;
    let scales = Shared(scratch.scales.as_mut_ptr());

    pool.run(batches, &|batch| {
        for tile in tiles * batch / batches..tiles * (batch + 1) / batches {
            let (from, to) = (start(tile), start(tile + 1));
            // SAFETY: there is room for the rows of a tile of each batch.
            let room = unsafe {
                let room = gathering.at(batch * gathered * size_of::<f32>()).cast();
                std::slice::from_raw_parts_mut(room, gathered)
            };
            let input = source.rows(from..to, layout.inputs(), room);
            // SAFETY: the instruction set is there, as `entry::of` found; there is room for every row's line and scale,
            // each of which belongs to one tile, and for a normalised row of each batch.
            unsafe {
                let scales = std::slice::from_raw_parts_mut(scales.at(from), to - from);
                let norm = norm.map(|norm| {
                    let row = normed.at(batch * normed_bytes).cast();
                    (norm, std::slice::from_raw_parts_mut(row, layout.inputs()))
                });
                (functions.convert)(&layout, input, norm, lines.at(from * row_bytes), scales);
            }
        }
    });

    // Blocks of rows that stay in the cache, and as many chunks of panels as keep every thread busy.
    let blocks = (rows * row_bytes).div_ceil(BLOCK_BYTES).min(tiles);
    // Of several blocks more of them: pieces are uneven then, and long enough.
    let wanted = pieces(pool, usize::MAX) * if blocks == 1 { 1 } else { 3 };
    let chunks = wanted.div_ceil(blocks).min(layout.panels());
    let out = Shared(out.as_mut_ptr());
    let after = After { activation, residual, out };
    pool.run(blocks * chunks, &|piece| {
        let (block, chunk) = (piece / chunks, piece % chunks);
        let block = tiles * block / blocks..tiles * (block + 1) / blocks;
        let mut sums = Tile::new();
        for panel in layout.panels() * chunk / chunks..layout.panels() * (chunk + 1) / chunks {
            let panel = Panel::new(&layout, weights, [bias, gain], panel);
            for tile in block.clone() {
                let (from, to) = (start(tile), start(tile + 1));
                let next = panel.next(tile - block.start, block.len());
                // SAFETY: the lines and scales were written above, for this tile among others, and nothing writes them
                // any more; `check` saw that `out` has all rows, and each (tile, panel) belongs to one piece.
                unsafe {
                    let a = lines.at(from * row_bytes);
                    let scales = std::slice::from_raw_parts(scales.at(from), to - from);
                    panel.compute(&functions, a, scales, from, next, &after, &mut sums);
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
        self.weights.check(&self.layout)?;
        let of_norm = self.norm.map_or(inputs, |norm| norm.weight.len());
        fits("the weights of a norm", of_norm, inputs)?;
        fits("the biases of a norm", self.norm.map_or(inputs, |norm| norm.bias.len()), inputs)?;
        fits("a bias", self.bias.map_or(outputs, <[f32]>::len), outputs)?;
        fits("a gain", self.gain.map_or(outputs, <[f32]>::len), outputs)?;
        fits("a residual", self.residual.map_or(rows * outputs, <[f32]>::len), rows * outputs)?;
        Ok(rows)
    }
}

/// Makes room for the scales of as many rows.
fn reserve_scales(scales: &mut Vec<RowScale>, rows: usize) -> Result<()> {
    let missing = rows.saturating_sub(scales.len());
    let short = |_| Error::out_of_memory(rows * size_of::<RowScale>());
    scales.try_reserve_exact(missing).map_err(short)?;
    scales.resize(rows.max(scales.len()), RowScale::default());
    Ok(())
}
