//! SVHN's cropped digits: MATLAB files with the images `X`, [32, 32, 3, N], and the labels `y`, of which 10 is digit 0.

use std::path::{Path, PathBuf};

use super::mat::MatFile;
use super::planes::from_planes;
use super::source::{ImageSet, SplitSource, Splits, check_count};
use super::split::Split;
use crate::error::{Error, Result};

/// A split's file.
#[derive(Debug)]
struct Matrices(PathBuf);

/// The splits in `folder`: `train_32x32.mat` and so on.
pub(super) fn sets(folder: &Path) -> Result<Vec<ImageSet>> {
    let file = |split: &str| folder.join(format!("{split}_32x32.mat"));
    let there = ["train", "test", "extra"].into_iter().filter(|split| file(split).is_file());
    let splits: Splits = there
        .map(|split| -> (String, Box<dyn SplitSource>) { (split.to_owned(), Box::new(Matrices(file(split)))) })
        .collect();
    Ok(ImageSet::of("svhn", splits).into_iter().collect())
}

impl SplitSource for Matrices {
    fn read(&self) -> Result<Split> {
        self.split().map_err(|e| e.at(&self.0))
    }
}

impl Matrices {
    fn split(&self) -> Result<Split> {
        let file = MatFile::open(&self.0)?;
        let images = file.array("X")?;
        // MATLAB drops a last dimension of 1.
        let (height, width, count) = match *images.shape {
            [height, width, 3, count] => (height, width, count),
            [height, width, 3] => (height, width, 1),
            _ => (0, 0, 0),
        };
        if images.bytes.is_empty() || height == 0 || !images.is_bytes() {
            return Err(Error::format("not SVHN's images")
                .tensor("X")
                .expected("u8 [32, 32, 3, N]")
                .got(format_args!("{:?} of type {}", images.shape, images.kind)));
        }
        let labels = file.array("y")?.integers().map_err(|e| e.tensor("y"))?;
        check_count(labels.len(), count).map_err(|e| e.tensor("y"))?;
        let labels = digits(&labels).map_err(|e| e.tensor("y"))?;
        // The first dimension changes fastest: rows within columns, columns within planes, planes within images.
        Ok(Split::new(from_planes(images.bytes, height, width, true, &self.0)?, labels).at(&self.0))
    }
}

/// The digits that labels from 1 to 10 mean: 10 is 0. Some copies have put 0 for it already.
fn digits(labels: &[i64]) -> Result<Vec<usize>> {
    let digit = |&label: &i64| match label {
        0..=9 => Some(label as usize),
        10 => Some(0),
        _ => None,
    };
    let wrong = || Error::format("a label is no digit").expected("1 to 10, where 10 is the digit 0");
    labels.iter().map(|label| digit(label).ok_or_else(|| wrong().got(label))).collect()
}
