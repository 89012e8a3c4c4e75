//! The rows of activations: one after another in memory, or gathered from images.

use std::ops::Range;

use crate::error::{Error, Result};

/// Where rows of activations come from.
pub(super) trait RowSource: Sync {
    /// These rows, one after another, of so many values; in `room`, which has as many, if they are gathered.
    fn rows<'r>(&'r self, rows: Range<usize>, inputs: usize, room: &'r mut [f32]) -> &'r [f32];

    /// Whether they lie apart.
    fn is_gathered(&self) -> bool;
}

impl RowSource for &[f32] {
    fn rows<'r>(&'r self, rows: Range<usize>, inputs: usize, _: &'r mut [f32]) -> &'r [f32] {
        &self[rows.start * inputs..rows.end * inputs]
    }

    fn is_gathered(&self) -> bool {
        false
    }
}

/// Square images cut into square patches, `[images, channels, grid·patch, grid·patch]`.
#[derive(Clone, Copy, Debug)]
pub struct Patches {
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Patches along a side of an image.
    pub grid: usize,
}

/// The patches of images, as rows.
pub(super) struct PatchRows<'a> {
    patches: Patches,
    channels: usize,
    pixels: &'a [f32],
}

impl<'a> PatchRows<'a> {
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where a row has other values than a patch's, or pixels are
    /// not whole images.
    pub(super) fn new(patches: Patches, pixels: &'a [f32], inputs: usize) -> Result<Self> {
        let area = patches.patch * patches.patch;
        let image = inputs * patches.grid * patches.grid;
        if image == 0 || !inputs.is_multiple_of(area) || !pixels.len().is_multiple_of(image) {
            return Err(Error::mismatch("pixels that are not whole images, or patches of another size")
                .expected(format_args!("images of {image} values, patches of {inputs}"))
                .got(format_args!("{} values, patches of a multiple of {area}", pixels.len())));
        }
        Ok(Self { patches, channels: inputs / area, pixels })
    }
}

impl RowSource for PatchRows<'_> {
    fn rows<'r>(&'r self, rows: Range<usize>, inputs: usize, room: &'r mut [f32]) -> &'r [f32] {
        let Patches { patch, grid } = self.patches;
        let side = patch * grid;
        let room = &mut room[..rows.len() * inputs];
        for (row, values) in rows.zip(room.chunks_exact_mut(inputs)) {
            let (image, down, right) = (row / (grid * grid), row / grid % grid, row % grid);
            let lines = (0..self.channels).flat_map(|channel| (0..patch).map(move |y| (channel, y)));
            for ((channel, y), to) in lines.zip(values.chunks_exact_mut(patch)) {
                let line = ((image * self.channels + channel) * side + down * patch + y) * side + right * patch;
                to.copy_from_slice(&self.pixels[line..line + patch]);
            }
        }
        room
    }

    fn is_gathered(&self) -> bool {
        true
    }
}
