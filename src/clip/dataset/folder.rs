//! The folder of one task, as its dataset is distributed.

use std::path::{Path, PathBuf};

use super::split::{Images, Split};
use super::{cifar, idx};
use crate::error::{Error, Result};

/// A task's folder, and what was found in it.
#[derive(Debug)]
pub(super) struct TaskFolder {
    pub(super) task: String,
    /// Each split's name, and its files.
    splits: Vec<(String, Files)>,
}

/// Where a split's images and labels are.
#[derive(Debug)]
enum Files {
    /// Images and labels.
    Idx(PathBuf, PathBuf),
    /// Batches, and how many bytes of labels each image has.
    Cifar(Vec<PathBuf>, usize),
    /// A folder a class.
    Classes(PathBuf),
}

impl TaskFolder {
    pub(super) fn open(task: &str, path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::new(crate::ErrorKind::Io, "no such folder").at(path));
        }
        let mut splits = Vec::new();
        for (split, prefix) in [("train", "train"), ("test", "t10k"), ("test", "test"), ("val", "val")] {
            if let Some((images, labels)) = idx::files(path, prefix)?
                && splits.iter().all(|(known, _)| known != split)
            {
                splits.push((split.to_owned(), Files::Idx(images, labels)));
            }
        }
        for (split, batches, labels) in cifar::files(path)? {
            splits.push((split.to_owned(), Files::Cifar(batches, labels)));
        }
        if splits.is_empty() {
            splits = class_folders(path)?;
        }
        if splits.is_empty() {
            return Err(Error::format("holds no labelled images that are known here").at(path).expected(
                "IDX files (train-images-idx3-ubyte, …), CIFAR's .bin files, or folders: SPLIT/CLASS/*.png or CLASS/*.png",
            ));
        }
        Ok(Self { task: task.to_owned(), splits })
    }

    pub(super) fn splits(&self) -> impl Iterator<Item = &str> {
        self.splits.iter().map(|(split, _)| split.as_str())
    }

    /// The split of this name, which must be one of them.
    pub(super) fn split(&self, name: &str) -> Result<Split> {
        match self.splits.iter().find(|(split, _)| split == name) {
            Some((_, Files::Idx(images, labels))) => idx::read(images, labels),
            Some((_, Files::Cifar(batches, labels))) => cifar::read(batches, *labels),
            Some((_, Files::Classes(folder))) => read_classes(folder),
            None => Err(Error::not_found(format!("no split `{name}`"))),
        }
    }
}

/// `SPLIT/CLASS/*.png`, or the classes of one split.
fn class_folders(path: &Path) -> Result<Vec<(String, Files)>> {
    let folders = subfolders(path)?;
    let mut splits = Vec::new();
    for (name, folder) in &folders {
        if has_classes(folder)? {
            splits.push((name.clone(), Files::Classes(folder.clone())));
        }
    }
    if splits.is_empty() && has_classes(path)? {
        splits.push(("test".to_owned(), Files::Classes(path.to_path_buf())));
    }
    Ok(splits)
}

fn has_classes(path: &Path) -> Result<bool> {
    for (_, folder) in subfolders(path)? {
        if !image_files(&folder)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every image of every class; a class is counted by the place of its folder's name among the sorted names.
fn read_classes(path: &Path) -> Result<Split> {
    let (mut files, mut labels, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    for (label, (class, folder)) in subfolders(path)?.into_iter().enumerate() {
        let found = image_files(&folder)?;
        labels.resize(labels.len() + found.len(), label);
        files.extend(found);
        classes.push(class);
    }
    Ok(Split { images: Images::Files(files), labels, classes })
}

/// The folders in `path`, by name; hidden ones are left out.
pub(super) fn subfolders(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let named = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        (!name.starts_with('.') && path.is_dir()).then_some((name, path))
    };
    let mut folders: Vec<_> = entries(path)?.into_iter().filter_map(named).collect();
    folders.sort();
    Ok(folders)
}

fn image_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_image = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    };
    let mut files: Vec<_> = entries(folder)?.into_iter().filter(is_image).collect();
    files.sort();
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("cannot list the folder", folder, e);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}
