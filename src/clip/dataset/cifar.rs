//! CIFAR's binary files: for every image its labels, a byte each, and 32×32 pixels in three planes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::split::{Images, Split};
use crate::clip::preprocess::PixelFormat;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::{DType, Tensor, try_zeroed};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// The splits in `folder`: their batches, and how many bytes of labels an image has. CIFAR-100 has two, of which the
/// last is the finer.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where some of the five training batches are there and not all.
pub(super) fn files(folder: &Path) -> Result<Vec<(&'static str, Vec<PathBuf>, usize)>> {
    let batches: Vec<String> = (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect();
    let splits = [
        ("train", batches, 1),
        ("test", vec!["test_batch.bin".to_owned()], 1),
        ("train", vec!["train.bin".to_owned()], 2),
        ("test", vec!["test.bin".to_owned()], 2),
    ];
    let mut found = Vec::new();
    for (split, names, labels) in splits {
        let (there, missing): (Vec<_>, Vec<_>) =
            names.iter().map(|name| folder.join(name)).partition(|file| file.is_file());
        match missing.first() {
            _ if there.is_empty() => {}
            Some(missing) => return Err(Error::not_found("a batch is missing beside the others").at(missing)),
            None => found.push((split, there, labels)),
        }
    }
    Ok(found)
}

pub(super) fn read(batches: &[PathBuf], label_bytes: usize) -> Result<Split> {
    let record = label_bytes + 3 * PLANE;
    let files = batches.iter().map(|batch| Mapping::open(batch, MapMode::Map)).collect::<Result<Vec<_>>>()?;
    for file in &files {
        if file.is_empty() || !file.len().is_multiple_of(record) {
            return Err(Error::format("no batch of CIFAR images")
                .at(file.path())
                .expected(format_args!("a multiple of {record} bytes"))
                .got(file.len()));
        }
    }
    let count: usize = files.iter().map(|file| file.len() / record).sum();
    let mut labels = Vec::with_capacity(count);
    let mut pixels: Vec<u8> = try_zeroed(count * 3 * PLANE)?;
    let records = files.iter().flat_map(|file| file.chunks_exact(record));
    for (record, image) in records.zip(pixels.chunks_exact_mut(3 * PLANE)) {
        let (of_labels, planes) = record.split_at(label_bytes);
        labels.push(of_labels.last().map_or(0, |&label| usize::from(label)));
        for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&[planes[i], planes[PLANE + i], planes[2 * PLANE + i]]);
        }
    }
    let name = batches.first().cloned().unwrap_or_default();
    let mapping = Arc::new(Mapping::from_vec(pixels, name));
    let pixels = Tensor::contiguous(&mapping, 0..mapping.len(), DType::U8, &[count, SIDE, SIDE, 3])?;
    let images = Images::Packed { pixels, height: SIDE, width: SIDE, format: PixelFormat::Rgb8 };
    Ok(Split { images, labels, classes: Vec::new() })
}
