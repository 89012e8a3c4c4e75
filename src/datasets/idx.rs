//! MNIST's IDX files: big-endian sizes after a magic number, then one byte per pixel or label; also compressed (`.gz`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gzip;
use super::source::{ImageSet, SplitSource, check_count};
use super::split::{Images, Split};
use crate::error::{Error, Result};
use crate::mmap::Mapping;
use crate::preprocess::PixelFormat;
use crate::preprocess::image_files::{name_of, visible};
use crate::tensor::{DType, Tensor};

/// The third byte for values of one byte, and for integers.
const BYTES: u8 = 8;
const INTEGERS: u8 = 0x0c;

/// A split's images and labels.
#[derive(Debug)]
struct IdxFiles {
    images: PathBuf,
    labels: PathBuf,
}

/// The names of splits in files' names, and their names here.
const PREFIXES: [(&str, &str); 5] =
    [("train", "train"), ("t10k", "test"), ("test", "test"), ("val", "val"), ("valid", "val")];

/// The sets of files in `folder`, by what their names begin with: `{set}-{split}-images-idx3-ubyte` and its labels, or
/// as some spell them, with a dot before `idx`. MNIST's names begin with the split, EMNIST's six sets with their own
/// (`emnist-digits-test-images-idx3-ubyte`).
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) when one split has two files of images.
pub(super) fn sets(folder: &Path) -> Result<Vec<ImageSet>> {
    let mut sets: BTreeMap<String, Vec<(&str, IdxFiles)>> = BTreeMap::new();
    let mut paths: Vec<PathBuf> = visible(folder)?.into_iter().filter(|path| path.is_file()).collect();
    // What is unpacked already comes first.
    paths.sort_by_key(|path| (name_of(path).ends_with(".gz"), path.clone()));
    for images in paths {
        let name = name_of(&images);
        let Some((set, split)) = set_and_split(&name) else { continue };
        let files = sets.entry(set.to_owned()).or_default();
        match files.iter().find(|(known, _)| *known == split) {
            Some(_) if name.ends_with(".gz") => {}
            Some((_, known)) => {
                return Err(Error::format(format!("two files of images for split `{split}`"))
                    .at(folder)
                    .expected("one of them")
                    .got(format_args!("{} and {name}", name_of(&known.images))));
            }
            None => files.push((split, IdxFiles { labels: labels_of(folder, &name), images })),
        }
    }
    let source =
        |(split, pair): (&str, IdxFiles)| -> (String, Box<dyn SplitSource>) { (split.to_owned(), Box::new(pair)) };
    let set = |(name, files): (String, Vec<_>)| ImageSet { name, splits: files.into_iter().map(source).collect() };
    Ok(sets.into_iter().map(set).collect())
}

/// `("emnist-digits", "test")` of `emnist-digits-test-images-idx3-ubyte.gz`, `("", "train")` of MNIST's.
fn set_and_split(name: &str) -> Option<(&str, &'static str)> {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let before = plain.ends_with("idx3-ubyte").then(|| plain.split_once("images"))??.0.trim_end_matches('-');
    let (set, prefix) = before.rsplit_once('-').unwrap_or(("", before));
    let (_, split) = PREFIXES.iter().find(|(known, _)| *known == prefix)?;
    Some((set, split))
}

/// The labels beside these images: one byte each, or QMNIST's eight integers each; unpacked ones before compressed.
fn labels_of(folder: &Path, images: &str) -> PathBuf {
    let plain = images.strip_suffix(".gz").unwrap_or(images).replace("images", "labels");
    let [bytes, integers] = ["idx1-ubyte", "idx2-int"].map(|kind| plain.replace("idx3-ubyte", kind));
    let names = [bytes.clone(), format!("{bytes}.gz"), integers.clone(), format!("{integers}.gz")];
    let there = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    there.unwrap_or_else(|| folder.join(bytes))
}

impl SplitSource for IdxFiles {
    fn read(&self) -> Result<Split> {
        let (mapping, sizes) = open(&self.images)?;
        let &[count, height, width] = &*sizes else { return Err(wrong_dimensions(&self.images, "3", &sizes)) };
        if height == 0 || width == 0 {
            return Err(Error::format("the images are empty").at(&self.images));
        }
        let pixels = Tensor::contiguous(&mapping, header(3)..mapping.len(), DType::U8, &[count, height, width])?;
        let labels = labels(&self.labels)?;
        check_count(labels.len(), count).map_err(|e| e.at(&self.labels))?;
        let images = Images::Packed { pixels, height, width, format: PixelFormat::Gray8 };
        Ok(Split::new(images, labels).at(&self.images))
    }
}

fn labels(path: &Path) -> Result<Vec<usize>> {
    let (mapping, sizes) = open(path)?;
    match *sizes {
        [_] => Ok(mapping[header(1)..].iter().map(|&label| usize::from(label)).collect()),
        // The first of a row is the label; the others say who wrote the digit.
        [_, columns @ 1..=usize::MAX] => {
            let rows = mapping[header(2)..].chunks_exact(4 * columns);
            Ok(rows.map(|row| u32::from_be_bytes([row[0], row[1], row[2], row[3]]) as usize).collect())
        }
        _ => Err(wrong_dimensions(path, "1", &sizes)),
    }
}

fn wrong_dimensions(path: &Path, expected: &str, sizes: &[usize]) -> Error {
    Error::format("an IDX file of other dimensions").at(path).expected(expected).got(format_args!("{sizes:?}"))
}

const fn header(dimensions: usize) -> usize {
    4 + 4 * dimensions
}

/// The file, unpacked, and its sizes, which its length confirms. Values are bytes, or, in two dimensions, integers.
fn open(path: &Path) -> Result<(Arc<Mapping>, Vec<usize>)> {
    let mapping = Arc::new(gzip::open(path)?);
    let start = &mapping[..mapping.len().min(4)];
    let (dimensions, width) = match *start {
        [0, 0, BYTES, dimensions @ (1 | 3)] => (usize::from(dimensions), 1),
        [0, 0, INTEGERS, 2] => (2, 4),
        _ => (0, 0),
    };
    if dimensions == 0 || mapping.len() < header(dimensions) {
        return Err(Error::format("no IDX file of bytes")
            .at(path)
            .expected("it to begin with [00, 00, 08, 03] (images) or [00, 00, 08, 01] (labels), and sizes")
            .got(format_args!("{start:02x?} in {} bytes", mapping.len())));
    }
    let size = |i: usize| u32::from_be_bytes(std::array::from_fn(|k| mapping[4 + 4 * i + k])) as usize;
    let sizes: Vec<usize> = (0..dimensions).map(size).collect();
    let expected = crate::tensor::checked_numel(&sizes)
        .and_then(|values| values.checked_mul(width)?.checked_add(header(dimensions)));
    if expected != Some(mapping.len()) {
        return Err(Error::format("an IDX file's sizes and length disagree")
            .at(path)
            .expected(format_args!("{sizes:?} values and a header"))
            .got(format_args!("{} bytes", mapping.len())));
    }
    Ok((mapping, sizes))
}
