//! Evaluation data: labelled images of several tasks.
//!
//! In one mapped safetensors file: `{task}/{split}/images`: u8 `[N, H, W, 3]`, or `[N, H, W, 1]` or `[N, H, W]` for
//! grey; `{task}/{split}/labels`: any integer type, `[N]`. Or in a folder per task, as the data sets are distributed:
//! docs/files.md lists them. Opening reads the names of files; a split's labels are read when the split is asked for,
//! its images when they are looked at.

mod cifar;
mod classes;
mod folder;
mod gtsrb;
mod gzip;
mod idx;
mod labels;
mod mat;
mod pickled;
mod planes;
#[cfg(feature = "build")]
mod reference;
mod source;
mod split;
mod stl10;
mod svhn;
mod tensors;

use std::path::{Path, PathBuf};

use self::folder::TaskFolder;
pub use self::labels::{HeadLabels, OtherNames};
use self::source::check_count;
use self::split::Images;
pub use self::split::Split;

use crate::datasets::tensors::tensors;
use crate::did_you_mean::unknown;
use crate::error::{Error, Result};
use crate::preprocess::PixelFormat;
use crate::preprocess::image_files::subfolders;
use crate::tensor::{DType, Tensor};

/// Labelled images, by task and split.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    /// The tensors of a file, in the order of their names.
    tensors: Vec<(String, Tensor)>,
    folders: Vec<TaskFolder>,
}

/// The advice where the folder of one task was given as one of several.
const ONE_TASK: &str = "Every folder in it is one task's; the folder of one task is given as TASK=FOLDER";

impl Dataset {
    /// Maps the file at `path`, or looks into a folder with one folder per task, each as [`Dataset::of_task`] takes it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::Format`](crate::ErrorKind::Format) when it is not a valid
    /// safetensors file or holds no `{task}/{split}/images` at all; those of [`Dataset::of_task`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            let folders = subfolders(path)?
                .into_iter()
                .map(|(task, folder)| TaskFolder::open(&task, &folder, None))
                .collect::<Result<Vec<_>>>()
                .map_err(|e| e.also_hint(ONE_TASK))?;
            if folders.is_empty() {
                let error = Error::format("no evaluation data in it").at(path).expected("a folder per task");
                return Err(error.hint(ONE_TASK));
            }
            return Ok(Self { path: path.to_path_buf(), tensors: Vec::new(), folders });
        }
        let dataset = Self { path: path.to_path_buf(), tensors: tensors(path)?, folders: Vec::new() };
        if dataset.names().next().is_none() {
            return Err(Error::format("no evaluation data in it")
                .at(path)
                .expected("tensors `{task}/{split}/images` and `{task}/{split}/labels`")
                .got(format_args!("{} other tensors", dataset.tensors.len())));
        }
        Ok(dataset)
    }

    /// The data of one task, in a folder: that of the files, or one of up to three above it. Class folders
    /// (`SPLIT/CLASS/*.png`; `CLASS/*.png` is the split `test`), or files as distributed: MNIST's and EMNIST's IDX
    /// files, CIFAR's binary files and pickles, SVHN's matrices, STL-10, GTSRB. See docs/files.md.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::Format`](crate::ErrorKind::Format) when it is none of
    /// these, or [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) one that is known and not read;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when it holds several sets of images and none
    /// is called like the task, naming them: [`Dataset::of_part`] takes one.
    pub fn of_task(task: &str, path: impl AsRef<Path>) -> Result<Self> {
        Self::of_folder(task, path.as_ref(), None)
    }

    /// The data of one task in a folder that holds several sets of images, of which `part` names one: `digits` of
    /// EMNIST's six, or the folder in which it lies.
    ///
    /// # Errors
    /// Those of [`Dataset::of_task`]; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no such set,
    /// naming the known ones.
    pub fn of_part(task: &str, path: impl AsRef<Path>, part: &str) -> Result<Self> {
        Self::of_folder(task, path.as_ref(), Some(part))
    }

    fn of_folder(task: &str, path: &Path, part: Option<&str>) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), tensors: Vec::new(), folders: vec![TaskFolder::open(task, path, part)?] })
    }

    /// The data of both, task by task.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when both have a task of one name, or both
    /// are files of tensors.
    pub fn join(mut self, other: Self) -> Result<Self> {
        if let Some(task) = other.tasks().into_iter().find(|task| self.tasks().contains(task)) {
            return Err(Error::invalid(format!("task `{task}` has data twice")).at(&other.path));
        }
        if !other.tensors.is_empty() && !self.tensors.is_empty() {
            return Err(Error::invalid("only one file of tensors can be joined").at(&other.path));
        }
        if self.tensors.is_empty() {
            (self.path, self.tensors) = (other.path, other.tensors);
        }
        self.folders.extend(other.folders);
        Ok(self)
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
        if let Some(folder) = self.folders.iter().find(|folder| folder.task == task) {
            return folder.split(split);
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
        check_count(labels.len(), count).map_err(|e| e.at(&self.path).tensor(name))?;
        let images = Images::Packed { pixels: images.to_contiguous()?, height, width, format };
        Ok(Split::new(images, labels).at(&self.path))
    }

    /// Every (task, split) that has images. Task names may hold slashes, split names not.
    fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        let of_tensors = self.tensors.iter().filter_map(|(name, _)| name.strip_suffix("/images")?.rsplit_once('/'));
        let of_folders = self.folders.iter().flat_map(|folder| folder.splits().map(|split| (&*folder.task, split)));
        of_tensors.chain(of_folders)
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
