//! Images in planes of one channel each.

use std::path::Path;
use std::sync::Arc;

use super::split::Images;
use crate::error::Result;
use crate::mmap::Mapping;
use crate::preprocess::PixelFormat;
use crate::tensor::{DType, Tensor, try_zeroed};

/// The side of CIFAR's images.
pub(super) const SIDE: usize = 32;
/// The bytes of one of their planes.
pub(super) const PLANE: usize = SIDE * SIDE;

/// Images of red, green and blue pixels from such of three planes of `height` × `width` bytes; with `by_column` a plane
/// lists its columns. `planes` are whole images.
pub(super) fn from_planes(
    mut planes: Vec<u8>,
    height: usize,
    width: usize,
    by_column: bool,
    file: &Path,
) -> Result<Images> {
    let plane = height * width;
    let mut image: Vec<u8> = try_zeroed(3 * plane)?;
    // In place, as one image takes as much as it did.
    for planes in planes.chunks_exact_mut(3 * plane) {
        for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
            let at = if by_column { i % width * height + i / width } else { i };
            pixel.copy_from_slice(&[planes[at], planes[plane + at], planes[2 * plane + at]]);
        }
        planes.copy_from_slice(&image);
    }
    let count = planes.len() / (3 * plane);
    let mapping = Arc::new(Mapping::from_vec(planes, file));
    let pixels = Tensor::contiguous(&mapping, 0..mapping.len(), DType::U8, &[count, height, width, 3])?;
    Ok(Images::Packed { pixels, height, width, format: PixelFormat::Rgb8 })
}
