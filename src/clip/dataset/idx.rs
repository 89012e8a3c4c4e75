//! MNIST's IDX files: big-endian sizes after a magic number, then one byte a pixel or label.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::split::{Images, Split};
use crate::clip::preprocess::PixelFormat;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::{DType, Tensor};

/// Unsigned bytes in as many dimensions as the last byte says.
const BYTES: [u8; 3] = [0, 0, 8];

/// `{prefix}-images-idx3-ubyte` and its labels, or as some spell them, with a dot before `idx`; EMNIST's names have the
/// prefix in their middle (`emnist-digits-test-images-idx3-ubyte`).
pub(super) fn files(folder: &Path, prefix: &str) -> Result<Option<(PathBuf, PathBuf)>> {
    let failed = |e| Error::io("cannot list the folder", folder, e);
    let mut packed = None;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let (Some(images), plain) = (name.find("images"), name.strip_suffix(".gz")) else { continue };
        let before = name[..images].trim_end_matches('-');
        let of_prefix = before == prefix || before.ends_with(&format!("-{prefix}"));
        if !of_prefix || !plain.unwrap_or(name).ends_with("idx3-ubyte") {
            continue;
        }
        if plain.is_some() {
            packed = Some(path);
            continue;
        }
        let labels = folder.join(name.replace("images", "labels").replace("idx3", "idx1"));
        return Ok(Some((path, labels)));
    }
    match packed {
        Some(path) => Err(Error::unsupported("the file is compressed").at(path).hint("Unpack it with gunzip")),
        None => Ok(None),
    }
}

pub(super) fn read(images: &Path, labels: &Path) -> Result<Split> {
    let (mapping, [count, height, width]) = open::<3>(images)?;
    if height == 0 || width == 0 {
        return Err(Error::format("the images are empty").at(images));
    }
    let pixels = Tensor::contiguous(&mapping, header::<3>()..mapping.len(), DType::U8, &[count, height, width])?;
    let (mapping, [of_labels]) = open::<1>(labels)?;
    if of_labels != count {
        return Err(Error::format("images and labels differ in number")
            .at(labels)
            .expected(format_args!("{count} labels"))
            .got(of_labels));
    }
    let labels = mapping[header::<1>()..].iter().map(|&label| usize::from(label)).collect();
    let images = Images::Packed { pixels, height, width, format: PixelFormat::Gray8 };
    Ok(Split { images, labels, classes: Vec::new() })
}

const fn header<const DIMENSIONS: usize>() -> usize {
    4 + 4 * DIMENSIONS
}

/// The file and its sizes, which its length confirms.
fn open<const DIMENSIONS: usize>(path: &Path) -> Result<(Arc<Mapping>, [usize; DIMENSIONS])> {
    let mapping = Arc::new(Mapping::open(path, MapMode::Map)?);
    let magic = [BYTES[0], BYTES[1], BYTES[2], DIMENSIONS as u8];
    if mapping.len() < header::<DIMENSIONS>() || mapping[..4] != magic {
        return Err(Error::format("no IDX file of bytes")
            .at(path)
            .expected(format_args!("it to begin with {magic:02x?}"))
            .got(format_args!("{:02x?}", &mapping[..mapping.len().min(4)])));
    }
    let size = |i: usize| u32::from_be_bytes(std::array::from_fn(|k| mapping[4 + 4 * i + k])) as usize;
    let sizes: [usize; DIMENSIONS] = std::array::from_fn(size);
    let expected = crate::tensor::checked_numel(&sizes).and_then(|bytes| bytes.checked_add(header::<DIMENSIONS>()));
    if expected != Some(mapping.len()) {
        return Err(Error::format("an IDX file's sizes and length disagree")
            .at(path)
            .expected(format_args!("{sizes:?} bytes and a header"))
            .got(format_args!("{} bytes", mapping.len())));
    }
    Ok((mapping, sizes))
}
