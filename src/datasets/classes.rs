//! Image files in a folder per class, in the layouts that people have them in.

use std::path::{Path, PathBuf};

use super::source::{SplitSource, Splits};
use super::split::{ClassNaming, Images, Split};
use crate::error::Result;
use crate::preprocess::image_files::{ImageFiles, name_of, subfolders, visible};
use crate::preprocess::is_image_name;

/// The names of splits' folders: where one holds classes, its neighbours are splits too, not classes.
const SPLITS: [&str; 10] =
    ["train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"];

/// The classes of one split, each with its folders.
#[derive(Debug)]
struct ClassFolders {
    path: PathBuf,
    classes: Vec<(String, PathBuf)>,
    remarks: Vec<String>,
}

/// The splits below `path`, by name: `SPLIT/CLASS/*.png`, or the classes of one split, which is called `test`.
pub(super) fn find(path: &Path) -> Result<Splits> {
    let folders = subfolders(path)?;
    let mut splits = Vec::new();
    let mut flat = Vec::new();
    for (name, folder) in &folders {
        match ClassFolders::of(folder)? {
            Some(classes) => splits.push((name.clone(), classes)),
            None if has_images(folder)? => flat.push(name.as_str()),
            None => {}
        }
    }
    let is_split = |name: &str| SPLITS.iter().any(|known| name.eq_ignore_ascii_case(known));
    let has_splits = flat.is_empty() || splits.iter().any(|(name, _)| is_split(name));
    if has_splits && !is_by_letter(&folders)? && !splits.is_empty() {
        if !flat.is_empty() {
            let remark = format!("{}: not read, as the images in it lie in no class folder", flat.join(", "));
            splits.iter_mut().for_each(|(_, classes)| classes.remarks.push(remark.clone()));
        }
        return Ok(splits.into_iter().map(|(name, classes)| source(name, classes)).collect());
    }
    Ok(ClassFolders::of(path)?.map(|classes| source("test".to_owned(), classes)).into_iter().collect())
}

/// The class folders in `path`; `None` where none of its folders holds images.
pub(super) fn folders(path: &Path) -> Result<Option<Box<dyn SplitSource>>> {
    Ok(ClassFolders::of(path)?.map(|classes| -> Box<dyn SplitSource> { Box::new(classes) }))
}

fn source(name: String, classes: ClassFolders) -> (String, Box<dyn SplitSource>) {
    (name, Box::new(classes))
}

impl ClassFolders {
    /// The class folders in `path`; `None` where none of its folders holds images.
    fn of(path: &Path) -> Result<Option<Self>> {
        let folders = subfolders(path)?;
        let mut classes = Vec::new();
        if is_by_letter(&folders)? {
            for (_, letter) in &folders {
                for (name, class) in subfolders(letter)? {
                    leaves(name, class, &mut classes)?;
                }
            }
        } else if any_has_images(&folders)? {
            classes = folders;
        } else {
            return Ok(None);
        }
        Ok(Some(Self { path: path.to_path_buf(), classes, remarks: Vec::new() }))
    }
}

impl SplitSource for ClassFolders {
    /// Every image of every class, those in subfolders of a class's folder too, as torchvision's `ImageFolder` reads
    /// them. Labels are the places of the classes' names among the sorted names.
    fn read(&self) -> Result<Split> {
        let mut split = Split::new(Images::Files(Vec::new()), Vec::new());
        split.naming = ClassNaming::Folders;
        split.remarks.clone_from(&self.remarks);
        let mut files = Vec::new();
        let mut nested = 0;
        let mut others = Vec::new();
        for (label, (class, folder)) in self.classes.iter().enumerate() {
            let found = ImageFiles::of(folder, true)?;
            others.extend_from_slice(found.others());
            let found = found.into_files();
            nested += found.iter().filter(|file| file.parent() != Some(folder)).count();
            split.labels.resize(split.labels.len() + found.len(), label);
            files.extend(found);
            split.classes.push(class.clone());
        }
        split.images = Images::Files(files);
        let loose = images_in(&self.path)?.count();
        if loose > 0 {
            split.remarks.push(format!("{loose} images beside the class folders were not read: they have no class"));
        }
        if let Some(first) = others.first() {
            let count = others.len();
            let first = name_of(first);
            split
                .remarks
                .push(format!("{count} files in class folders were not read, as their names are no images': {first}"));
        }
        if nested > 0 {
            split.remarks.push(format!("{nested} images in subfolders of class folders count to these classes"));
        }
        split.path.clone_from(&self.path);
        Ok(split)
    }
}

/// SUN397's layout: the folders are the first letters of the classes in them, `a/abbey`, `b/balcony/exterior`.
fn is_by_letter(folders: &[(String, PathBuf)]) -> Result<bool> {
    for (letter, folder) in folders {
        let classes = subfolders(folder)?;
        let begins = |name: &str| letter.len() == 1 && name.get(..1).is_some_and(|l| l.eq_ignore_ascii_case(letter));
        if classes.is_empty() || !classes.iter().all(|(name, _)| begins(name)) {
            return Ok(false);
        }
    }
    Ok(!folders.is_empty())
}

/// The folder as a class, or the folders in it, where only these hold images: `balcony/exterior`.
fn leaves(name: String, folder: PathBuf, classes: &mut Vec<(String, PathBuf)>) -> Result<()> {
    let inner = subfolders(&folder)?;
    if has_images(&folder)? || !any_has_images(&inner)? {
        classes.push((name, folder));
    } else {
        classes.extend(inner.into_iter().map(|(part, folder)| (format!("{name}/{part}"), folder)));
    }
    Ok(())
}

fn any_has_images(folders: &[(String, PathBuf)]) -> Result<bool> {
    for (_, folder) in folders {
        if has_images(folder)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether images lie in `folder` itself.
fn has_images(folder: &Path) -> Result<bool> {
    Ok(images_in(folder)?.next().is_some())
}

fn images_in(folder: &Path) -> Result<impl Iterator<Item = PathBuf>> {
    Ok(visible(folder)?.into_iter().filter(|path| is_image_name(path) && path.is_file()))
}
