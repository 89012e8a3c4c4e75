//! CIFAR-10 and CIFAR-100: binary files, with the labels of every image, one byte each, before its 32×32 pixels in
//! three planes; or Python archives (`pickled`).

use std::path::{Path, PathBuf};

use super::pickled::PickledBatches;
use super::planes::{PLANE, SIDE, from_planes};
use super::source::{ImageSet, SplitSource, Splits, all_or_none, names};
use super::split::Split;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};

/// The batches of a split, and how many bytes of labels each image has. CIFAR-100 has two, of which the last is the
/// finer.
#[derive(Debug)]
struct BinaryBatches {
    files: Vec<PathBuf>,
    label_bytes: usize,
    /// The file that lists the names of the classes, where it is there.
    names: PathBuf,
}

/// CIFAR-10 and CIFAR-100 in `folder`, in either form.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where some of the five training batches are there and not all.
pub(super) fn sets(folder: &Path) -> Result<Vec<ImageSet>> {
    let ten = |end: &str| [(1..=5).map(|n| format!("data_batch_{n}{end}")).collect(), vec![format!("test_batch{end}")]];
    let hundred = |end: &str| [vec![format!("train{end}")], vec![format!("test{end}")]];
    let binary = |label_bytes: usize, names: &str| {
        let names = folder.join(names);
        move |files| -> Box<dyn SplitSource> { Box::new(BinaryBatches { files, label_bytes, names: names.clone() }) }
    };
    let pickled = |labels, meta: &str, names_key| {
        let names = folder.join(meta);
        move |files| -> Box<dyn SplitSource> {
            Box::new(PickledBatches { files, labels, names: names.clone(), names_key })
        }
    };
    let mut sets = vec![
        set(folder, "cifar-10", ten(".bin"), binary(1, "batches.meta.txt"))?,
        set(folder, "cifar-100", hundred(".bin"), binary(2, "fine_label_names.txt"))?,
        set(folder, "cifar-10-python", ten(""), pickled("labels", "batches.meta", "label_names"))?,
    ];
    // `train` and `test` are names of anything; `meta` beside them is CIFAR's.
    if folder.join("meta").is_file() {
        let batches = pickled("fine_labels", "meta", "fine_label_names");
        sets.push(set(folder, "cifar-100-python", hundred(""), batches)?);
    }
    Ok(sets.into_iter().flatten().collect())
}

/// The set of these files for training and testing; `None` where none is there.
fn set(
    folder: &Path,
    name: &str,
    files: [Vec<String>; 2],
    source: impl Fn(Vec<PathBuf>) -> Box<dyn SplitSource>,
) -> Result<Option<ImageSet>> {
    let mut splits: Splits = Vec::new();
    for (split, files) in ["train", "test"].into_iter().zip(files) {
        splits.extend(all_or_none(folder, &files)?.map(|files| (split.to_owned(), source(files))));
    }
    Ok(ImageSet::of(name, splits))
}

impl SplitSource for BinaryBatches {
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
