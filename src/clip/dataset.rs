//! Evaluation data: labelled images of several tasks in one mapped safetensors file.
//!
//! `{task}/{split}/images`: u8 `[N, H, W, 3]`, or `[N, H, W, 1]` or `[N, H, W]` for grey; `{task}/{split}/labels`: any
//! integer type, `[N]`. Opening reads the header; a split's labels are read when the split is asked for, its images
//! when they are looked at.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::clip::preprocess::{PixelFormat, Pixels};
use crate::clip::tensors::tensors;
use crate::error::{Error, Result};
use crate::suggest::unknown;
use crate::tensor::{DType, Tensor};

/// A file of labelled images, by task and split.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    /// In the order of their names.
    tensors: Vec<(String, Tensor)>,
}

/// The labelled images of one task and split.
#[derive(Debug)]
pub struct Split {
    images: Tensor,
    labels: Vec<usize>,
    height: usize,
    width: usize,
    format: PixelFormat,
}

impl Dataset {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::Format`](crate::ErrorKind::Format) when it is not a valid
    /// safetensors file or holds no `{task}/{split}/images` at all.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let dataset = Self { path: path.to_path_buf(), tensors: tensors(path)? };
        if dataset.names().next().is_none() {
            return Err(Error::format("no evaluation data in it")
                .at(path)
                .expected("tensors `{task}/{split}/images` and `{task}/{split}/labels`")
                .got(format_args!("{} other tensors", dataset.tensors.len())));
        }
        Ok(dataset)
    }

    /// The tasks, in the order of their names.
    pub fn tasks(&self) -> Vec<&str> {
        // Sorted by tensor name, a task's splits stand together unless another task's name continues its own
        // (`a`, `a-b`: '-' comes before '/'), hence not `dedup` alone.
        let mut tasks: Vec<&str> = self.names().map(|(task, _)| task).collect();
        tasks.sort_unstable();
        tasks.dedup();
        tasks
    }

    /// The splits of `task`, in the order of their names.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no such task; names the known ones.
    pub fn splits(&self, task: &str) -> Result<Vec<&str>> {
        let splits: Vec<&str> = self.names().filter(|(of, _)| *of == task).map(|(_, split)| split).collect();
        if splits.is_empty() {
            return Err(unknown("task", task, self.tasks().into_iter()).at(&self.path));
        }
        Ok(splits)
    }

    /// The tasks that have this split, in the order of their names.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is none; names the splits that there are.
    pub fn tasks_with(&self, split: &str) -> Result<Vec<&str>> {
        let mut tasks: Vec<&str> = self.names().filter(|(_, of)| *of == split).map(|(task, _)| task).collect();
        if tasks.is_empty() {
            let mut known: Vec<&str> = self.names().map(|(_, split)| split).collect();
            known.sort_unstable();
            known.dedup();
            return Err(unknown("split", split, known.into_iter()).at(&self.path));
        }
        tasks.sort_unstable();
        tasks.dedup();
        Ok(tasks)
    }

    /// The images and labels of `task` in `split` (`test`, `val`, …). Reads the labels.
    ///
    /// That labels are below the number of classes is the caller's to check: only a head knows it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no such task or split, naming the known
    /// ones, or no labels; [`ErrorKind::Format`](crate::ErrorKind::Format) when images or labels have the wrong type
    /// or shape, their numbers differ, or a label is negative.
    pub fn split(&self, task: &str, split: &str) -> Result<Split> {
        let splits = self.splits(task)?;
        if !splits.contains(&split) {
            return Err(unknown(&format!("split of {task}"), split, splits.into_iter()).at(&self.path));
        }
        let named = |what: &str| -> Result<(String, &Tensor)> {
            let name = format!("{task}/{split}/{what}");
            let place = self.tensors.binary_search_by(|(known, _)| known.as_str().cmp(&name));
            match place.ok().and_then(|place| self.tensors.get(place)) {
                Some((_, tensor)) => Ok((name, tensor)),
                None => Err(Error::not_found("no such tensor").at(&self.path).tensor(name)),
            }
        };

        let (name, images) = named("images")?;
        let (count, height, width, format) = match (images.dtype(), images.shape()) {
            (DType::U8, &[count, height, width, 3]) => (count, height, width, PixelFormat::Rgb8),
            (DType::U8, &[count, height, width] | &[count, height, width, 1]) => {
                (count, height, width, PixelFormat::Gray8)
            }
            (dtype, shape) => {
                return Err(Error::format("not images")
                    .at(&self.path)
                    .tensor(name)
                    .expected("u8 of shape [N, H, W, 3], [N, H, W, 1] or [N, H, W]")
                    .got(format_args!("{dtype} {shape:?}")));
            }
        };
        if height == 0 || width == 0 {
            let error = Error::format("the images are empty").at(&self.path).tensor(name);
            return Err(error.got(format_args!("{height} rows of {width} pixels")));
        }

        let (name, tensor) = named("labels")?;
        let labels = labels(tensor).map_err(|e| e.at(&self.path).tensor(&name))?;
        if labels.len() != count {
            return Err(Error::format("images and labels differ in number")
                .at(&self.path)
                .tensor(name)
                .expected(format_args!("{count} labels"))
                .got(labels.len()));
        }
        Ok(Split { images: images.to_contiguous()?, labels, height, width, format })
    }

    /// Every (task, split) that has images. Task names may hold slashes, split names not.
    fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tensors.iter().filter_map(|(name, _)| name.strip_suffix("/images")?.rsplit_once('/'))
    }
}

fn labels(tensor: &Tensor) -> Result<Vec<usize>> {
    let integers = !tensor.dtype().is_float() && tensor.dtype() != DType::Bool;
    if !integers || tensor.shape().len() != 1 {
        return Err(Error::format("not labels").expected("integers of shape [N]").got(format_args!(
            "{} {:?}",
            tensor.dtype(),
            tensor.shape()
        )));
    }
    // f64 holds every integer below 2⁵³; a label beyond is out of any range whatever it is rounded to.
    let values = tensor.to_f64()?;
    let negative = values.iter().position(|&label| label < 0.0);
    if let Some(image) = negative {
        return Err(Error::format("a label is negative").got(format_args!("{} for image {image}", values[image])));
    }
    Ok(values.into_iter().map(|label| label as usize).collect())
}

impl Split {
    /// How many images.
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

    /// Image `index` where it lies in the mapped file.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when there are not so many.
    pub fn image(&self, index: usize) -> Result<Pixels<'_>> {
        let length = self.height * self.width * self.format.channels();
        // Of an image beyond the last one the start may overflow.
        let data =
            index.checked_mul(length).and_then(|start| self.images.bytes()?.get(start..)?.get(..length)).ok_or_else(
                || Error::invalid("no such image").expected(format_args!("an index below {}", self.len())).got(index),
            )?;
        Ok(Pixels::packed(data, self.width, self.height, self.format))
    }

    /// All images, in order, where they lie in the mapped file.
    pub fn images(&self) -> impl ExactSizeIterator<Item = Pixels<'_>> {
        let length = self.height * self.width * self.format.channels();
        let bytes = self.images.bytes().unwrap_or_default();
        bytes.chunks_exact(length).map(|data| Pixels::packed(data, self.width, self.height, self.format))
    }
}
