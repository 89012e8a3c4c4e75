//! STL-10's binary files: images of 96×96 pixels in three planes, each listed column by column, and labels from 1.

use std::path::{Path, PathBuf};

use super::planes::from_planes;
use super::source::{ImageSet, SplitSource, Splits, check_count, names};
use super::split::Split;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};

const SIDE: usize = 96;
const IMAGE: usize = 3 * SIDE * SIDE;

/// The images and labels of a split.
#[derive(Debug)]
struct Stl10Files {
    images: PathBuf,
    labels: PathBuf,
    /// The file that lists the names of the classes, where it is there.
    names: PathBuf,
}

/// The labelled splits in `folder`, of `train_X.bin`, `train_y.bin` and so on.
pub(super) fn sets(folder: &Path) -> Result<Vec<ImageSet>> {
    let mut splits: Splits = Vec::new();
    for split in ["train", "test"] {
        let [images, labels] = ["X", "y"].map(|part| folder.join(format!("{split}_{part}.bin")));
        if images.is_file() {
            splits.push((
                split.to_owned(),
                Box::new(Stl10Files { images, labels, names: folder.join("class_names.txt") }),
            ));
        }
    }
    Ok(ImageSet::of("stl10", splits).into_iter().collect())
}

impl SplitSource for Stl10Files {
    fn read(&self) -> Result<Split> {
        let images = Mapping::open(&self.images, MapMode::Map)?;
        if images.is_empty() || !images.len().is_multiple_of(IMAGE) {
            return Err(Error::format("no STL-10 images")
                .at(&self.images)
                .expected(format_args!("a multiple of {IMAGE} bytes"))
                .got(images.len()));
        }
        let labels = Mapping::open(&self.labels, MapMode::Map)?;
        check_count(labels.len(), images.len() / IMAGE).map_err(|e| e.at(&self.labels))?;
        if let Some(at) = labels.iter().position(|label| !(1..=10).contains(label)) {
            return Err(Error::format(format!("the label of image {at} is no class of STL-10"))
                .at(&self.labels)
                .expected("1 to 10")
                .got(labels[at]));
        }
        let labels = labels.iter().map(|&label| usize::from(label) - 1).collect();
        let mut planes = Vec::new();
        planes.try_reserve_exact(images.len()).map_err(|_| Error::out_of_memory(images.len()))?;
        planes.extend_from_slice(&images);
        let images = from_planes(planes, SIDE, SIDE, true, &self.images)?;
        Ok(Split::new(images, labels).at(&self.images).named(names(&self.names)?))
    }
}
