//! One split: images in memory or in files, and the class of each.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::preprocess::{PixelFormat, Pixels, Preprocess, Readable};
use crate::tensor::Tensor;

/// The labelled images of one task and split.
#[derive(Debug)]
pub struct Split {
    pub(super) images: Images,
    pub(super) labels: Vec<usize>,
    pub(super) classes: Vec<String>,
    pub(super) naming: ClassNaming,
    /// Remarks on what was not read, and on how what was read is meant.
    pub(super) remarks: Vec<String>,
    /// The file or folder that errors name.
    pub(super) path: PathBuf,
}

/// The source of the classes' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassNaming {
    /// There are none: labels are numbers.
    Numbers,
    /// A list beside labels that are numbers.
    List,
    /// Folders, whose order means nothing.
    Folders,
}

/// The images of a split.
#[derive(Debug)]
pub(super) enum Images {
    /// Pixels of one image after the other: u8, contiguous.
    Packed { pixels: Tensor, height: usize, width: usize, format: PixelFormat },
    /// Some of the packed ones, by their places.
    Chosen { of: Box<Images>, places: Vec<usize> },
    /// A file per image.
    Files(Vec<PathBuf>),
}

impl Images {
    /// The packed pixels, height, width and format.
    fn packed(&self) -> Option<(&Tensor, usize, usize, PixelFormat)> {
        match self {
            Self::Packed { pixels, height, width, format } => Some((pixels, *height, *width, *format)),
            Self::Chosen { of, .. } => of.packed(),
            Self::Files(_) => None,
        }
    }
}

impl Split {
    /// Images whose labels are numbers.
    pub(super) fn new(images: Images, labels: Vec<usize>) -> Self {
        Self {
            images,
            labels,
            classes: Vec::new(),
            naming: ClassNaming::Numbers,
            remarks: Vec::new(),
            path: PathBuf::new(),
        }
    }

    /// The split with the file or folder that it lies in.
    pub(super) fn at(mut self, path: &Path) -> Self {
        self.path = path.to_path_buf();
        self
    }

    /// The split with names for the classes that labels count; no names leave them numbers.
    pub(super) fn named(mut self, classes: Vec<String>) -> Self {
        self.naming = if classes.is_empty() { ClassNaming::Numbers } else { ClassNaming::List };
        self.classes = classes;
        self
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image at all.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The class of each image, counted from 0.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The names of the classes that labels count, where the data names them: those of the folders, in the order of
    /// their names, or a list in one of its files. Empty elsewhere. [`Split::labels_for`] finds a head's classes by
    /// them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The image files, in order, where each image is a file of its own; none elsewhere.
    pub fn files(&self) -> &[PathBuf] {
        match &self.images {
            Images::Packed { .. } | Images::Chosen { .. } => &[],
            Images::Files(files) => files,
        }
    }

    /// Preprocesses the images of `range` to [N, 3, S, S], on `threads` threads (0: as many as the machine has).
    ///
    /// # Errors
    /// Those of [`Preprocess::images`] or [`Preprocess::files`];
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when there are fewer images.
    pub fn preprocess(&self, preprocess: &Preprocess, range: Range<usize>, threads: usize) -> Result<Vec<f32>> {
        match &self.images {
            Images::Packed { .. } | Images::Chosen { .. } => {
                let images = range.map(|i| self.image(i)).collect::<Result<Vec<_>>>()?;
                preprocess.images(&images, threads)
            }
            Images::Files(files) => {
                let files = files.get(range.clone()).ok_or_else(|| self.no_image(range.end))?;
                files_to_pixels(preprocess, files, threads)
            }
        }
    }

    /// Preprocesses these images, by their places, to [N, 3, S, S], on `threads` threads (0: as many as the machine
    /// has).
    ///
    /// # Errors
    /// Those of [`Split::preprocess`].
    pub fn preprocess_chosen(&self, preprocess: &Preprocess, images: &[usize], threads: usize) -> Result<Vec<f32>> {
        match &self.images {
            Images::Packed { .. } | Images::Chosen { .. } => {
                let images = images.iter().map(|&i| self.image(i)).collect::<Result<Vec<_>>>()?;
                preprocess.images(&images, threads)
            }
            Images::Files(files) => {
                let chosen = images.iter().map(|&i| files.get(i).cloned().ok_or_else(|| self.no_image(i)));
                files_to_pixels(preprocess, &chosen.collect::<Result<Vec<_>>>()?, threads)
            }
        }
    }

    /// The readable images of `range`, preprocessed to [N, 3, S, S]; files that cannot be are left out and named.
    ///
    /// # Errors
    /// Those of [`Split::preprocess`] that are not one file's.
    pub fn preprocess_readable(
        &self,
        preprocess: &Preprocess,
        range: Range<usize>,
        threads: usize,
    ) -> Result<Readable> {
        let Images::Files(files) = &self.images else {
            let pixels = self.preprocess(preprocess, range.clone(), threads)?;
            return Ok(Readable { pixels, read: range.collect(), skipped: Vec::new() });
        };
        let start = range.start;
        let files = files.get(range.clone()).ok_or_else(|| self.no_image(range.end))?;
        let mut readable = readable_files(preprocess, files, threads)?;
        readable.read.iter_mut().for_each(|index| *index += start);
        readable.skipped.iter_mut().for_each(|(index, _)| *index += start);
        Ok(readable)
    }

    /// Image `index` where it lies in the mapped file.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when there are fewer, or each is a file of its
    /// own, to be decoded first ([`Split::preprocess`]).
    pub fn image(&self, index: usize) -> Result<Pixels<'_>> {
        let place = match &self.images {
            Images::Chosen { places, .. } => *places.get(index).ok_or_else(|| self.no_image(index))?,
            _ => index,
        };
        let Some((pixels, height, width, format)) = self.images.packed() else {
            return Err(Error::invalid("the images are files that must be decoded first"));
        };
        let length = height * width * format.channels();
        // Of an image beyond the last one the start may overflow.
        let data = place
            .checked_mul(length)
            .and_then(|start| pixels.bytes()?.get(start..)?.get(..length))
            .ok_or_else(|| self.no_image(index))?;
        Ok(Pixels::packed(data, width, height, format))
    }

    /// All images, in order, where they lie in the mapped file; none where each is a file of its own.
    pub fn images(&self) -> impl ExactSizeIterator<Item = Pixels<'_>> {
        let count = if self.images.packed().is_some() { self.len() } else { 0 };
        (0..count).map(|index| self.image(index).expect("packed pixels are contiguous, and as many as the labels"))
    }

    /// These images alone, by their places, in their order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when there are fewer images.
    pub fn chosen(mut self, chosen: &[usize]) -> Result<Self> {
        if let Some(beyond) = chosen.iter().find(|index| **index >= self.len()) {
            return Err(self.no_image(*beyond));
        }
        self.labels = chosen.iter().map(|&index| self.labels[index]).collect();
        self.images = match self.images {
            Images::Files(files) => Images::Files(chosen.iter().map(|&index| files[index].clone()).collect()),
            Images::Chosen { of, places } => {
                Images::Chosen { of, places: chosen.iter().map(|&index| places[index]).collect() }
            }
            packed => Images::Chosen { of: Box::new(packed), places: chosen.to_vec() },
        };
        Ok(self)
    }

    fn no_image(&self, index: usize) -> Error {
        Error::invalid("no such image").expected(format_args!("an index below {}", self.len())).got(index)
    }
}

#[cfg(feature = "images")]
fn files_to_pixels(preprocess: &Preprocess, files: &[PathBuf], threads: usize) -> Result<Vec<f32>> {
    preprocess.files(files, threads)
}

#[cfg(feature = "images")]
fn readable_files(preprocess: &Preprocess, files: &[PathBuf], threads: usize) -> Result<Readable> {
    preprocess.readable_files(files, threads)
}

#[cfg(not(feature = "images"))]
fn readable_files(_: &Preprocess, _: &[PathBuf], _: usize) -> Result<Readable> {
    Err(Error::unsupported("built without the decoding of image files"))
}

#[cfg(not(feature = "images"))]
fn files_to_pixels(_: &Preprocess, _: &[PathBuf], _: usize) -> Result<Vec<f32>> {
    Err(Error::unsupported("built without the decoding of image files"))
}
