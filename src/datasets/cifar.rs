//! CIFAR's binary files: for every image its labels, one byte each, and 32×32 pixels in three planes. Its Python
//! archives are `pickled`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::{Set, Source, Splits};
use super::pickled;
use super::split::{Images, Split};
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::preprocess::PixelFormat;
use crate::tensor::{DType, Tensor, try_zeroed};

pub(super) const SIDE: usize = 32;
pub(super) const PLANE: usize = SIDE * SIDE;

/// The batches of a split, and how many bytes of labels each image has. CIFAR-100 has two, of which the last is the
/// finer.
#[derive(Debug)]
struct Batches {
    files: Vec<PathBuf>,
    label_bytes: usize,
    /// The file that lists the names of the classes, where it is there.
    names: PathBuf,
}

/// CIFAR-10 and CIFAR-100 in `folder`.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where some of the five training batches are there and not all.
pub(super) fn sets(folder: &Path) -> Result<Vec<Set>> {
    let batches: Vec<String> = (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect();
    let ten = [("train", batches), ("test", vec!["test_batch.bin".to_owned()])];
    let hundred = [("train", vec!["train.bin".to_owned()]), ("test", vec!["test.bin".to_owned()])];
    let sets = [("cifar-10", 1, "batches.meta.txt", ten), ("cifar-100", 2, "fine_label_names.txt", hundred)];
    let mut found = Vec::new();
    for (name, label_bytes, names, files) in sets {
        let mut splits: Splits = Vec::new();
        for (split, files) in files {
            if let Some(files) = all_or_none(folder, &files)? {
                let batches = Batches { files, label_bytes, names: folder.join(names) };
                splits.push((split.to_owned(), Box::new(batches)));
            }
        }
        found.extend((!splits.is_empty()).then(|| Set { name: name.to_owned(), splits }));
    }
    found.extend(pickled::sets(folder)?);
    Ok(found)
}

/// The files of these names; `None` where none is there.
pub(super) fn all_or_none(folder: &Path, names: &[String]) -> Result<Option<Vec<PathBuf>>> {
    let (there, missing): (Vec<_>, Vec<_>) =
        names.iter().map(|name| folder.join(name)).partition(|file| file.is_file());
    match missing.first() {
        _ if there.is_empty() => Ok(None),
        Some(missing) => Err(Error::not_found("a batch is missing beside the others").at(missing)),
        None => Ok(Some(there)),
    }
}

impl Source for Batches {
    fn read(&self) -> Result<Split> {
        let record = self.label_bytes + 3 * PLANE;
        let files = self.files.iter().map(|file| Mapping::open(file, MapMode::Map)).collect::<Result<Vec<_>>>()?;
        for file in &files {
            if file.is_empty() || !file.len().is_multiple_of(record) {
                return Err(Error::format("no batch of CIFAR images")
                    .at(file.path())
                    .expected(format_args!("a multiple of {record} bytes"))
                    .got(file.len()));
            }
        }
        let records: Vec<&[u8]> = files.iter().flat_map(|file| file.chunks_exact(record)).collect();
        let labels = records.iter().map(|record| usize::from(record[self.label_bytes - 1])).collect();
        let mut planes = Vec::new();
        let length = records.len() * 3 * PLANE;
        planes.try_reserve_exact(length).map_err(|_| Error::out_of_memory(length))?;
        records.iter().for_each(|record| planes.extend_from_slice(&record[self.label_bytes..]));
        let file = &self.files[0];
        Ok(Split::new(from_planes(planes, SIDE, SIDE, false, file)?, labels).at(file).named(names(&self.names)?))
    }
}

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

/// The names in a file of one per line; none where there is no such file.
pub(super) fn names(path: &Path) -> Result<Vec<String>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("cannot read", path, e))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
