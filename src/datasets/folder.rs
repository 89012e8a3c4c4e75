//! The folder of one task, as its dataset is distributed.

use std::path::Path;

use super::source::{ImageSet, Splits};
use super::split::Split;
use super::{cifar, classes, gtsrb, idx, stl10, svhn};
use crate::did_you_mean::unknown;
use crate::error::{Error, Result};
use crate::preprocess::image_files::{name_of, subfolders, visible};
use crate::preprocess::is_image_name;

/// The folders below the named one in which data sets are looked for: torchvision's `gtsrb/GTSRB/Training`.
const MAX_DEPTH: usize = 3;

/// The most folders that are looked into; archives unpack to a few.
const MAX_FOLDERS: usize = 1000;

/// A task's folder, and what was found in it.
#[derive(Debug)]
pub(super) struct TaskFolder {
    pub(super) task: String,
    splits: Splits,
}

impl TaskFolder {
    /// Looks into `path`; `part` names one of several sets of images, where the folder holds several.
    pub(super) fn open(task: &str, path: &Path, part: Option<&str>) -> Result<Self> {
        if !path.is_dir() {
            let error = Error::new(crate::ErrorKind::Io, "no such folder").at(path);
            let is_file = path.is_file();
            return Err(if is_file { error.expected("the folder of one task").got("a file") } else { error });
        }
        let mut sets = sets_in(path)?;
        if sets.is_empty() {
            check_layout(path)?;
            let classes = classes::find(path)?;
            sets.extend(ImageSet::of("", classes));
        }
        if sets.is_empty() {
            let mut looked = 0;
            look_below(path, "", MAX_DEPTH, &mut looked, &mut sets)?;
        }
        if sets.is_empty() {
            return Err(nothing_known(path)?);
        }
        let splits = chosen(task, path, sets, part)?.splits;
        Ok(Self { task: task.to_owned(), splits })
    }

    pub(super) fn splits(&self) -> impl Iterator<Item = &str> {
        self.splits.iter().map(|(split, _)| split.as_str())
    }

    /// The split of this name, which must be one of them.
    pub(super) fn split(&self, name: &str) -> Result<Split> {
        match self.splits.iter().find(|(split, _)| split == name) {
            Some((_, files)) => files.read(),
            None => Err(Error::not_found(format!("no split `{name}`"))),
        }
    }
}

/// Refuses data sets that look like class folders and are none: their classes are in tables that are not read.
fn check_layout(path: &Path) -> Result<()> {
    let unread = [
        ("Stanford Cars", "devkit/…annos.mat", ["cars_train", "cars_test"]),
        ("Flowers-102", "imagelabels.mat", ["imagelabels.mat", "jpg/image_00001.jpg"]),
        ("Oxford-IIIT Pet", "annotations/list.txt", ["annotations/list.txt", "annotations/trainval.txt"]),
    ];
    match unread.iter().find(|(_, _, marks)| marks.iter().any(|mark| path.join(mark).exists())) {
        None => Ok(()),
        Some((name, table, _)) => Err(Error::unsupported(format!("{name} as distributed is not read"))
            .at(path)
            .expected("a folder per class")
            .got(format_args!("classes in {table}"))
            .hint("Put each image of a split into SPLIT/CLASS/, the folder named after its class")),
    }
}

/// The data sets whose files lie in `path` itself.
fn sets_in(path: &Path) -> Result<Vec<ImageSet>> {
    let sets = [idx::sets(path)?, cifar::sets(path)?, svhn::sets(path)?, stl10::sets(path)?, gtsrb::sets(path)?];
    Ok(sets.into_iter().flatten().collect())
}

/// The data sets in folders below `path`, down to `depth`; `name` is the way from the first one.
fn look_below(path: &Path, name: &str, depth: usize, looked: &mut usize, sets: &mut Vec<ImageSet>) -> Result<()> {
    for (folder, path) in subfolders(path)? {
        *looked += 1;
        if *looked > MAX_FOLDERS {
            return Ok(());
        }
        let name = if name.is_empty() { folder } else { format!("{name}/{folder}") };
        let found = sets_in(&path)?;
        if found.is_empty() && depth > 1 {
            look_below(&path, &name, depth - 1, looked, sets)?;
        }
        sets.extend(found.into_iter().map(|set| match set.name.is_empty() {
            true => ImageSet { name: name.clone(), ..set },
            false => ImageSet { name: format!("{name}/{}", set.name), ..set },
        }));
    }
    Ok(())
}

/// The one set that there is, that `part` names, or that is called like the task.
fn chosen(task: &str, path: &Path, mut sets: Vec<ImageSet>, part: Option<&str>) -> Result<ImageSet> {
    let is_meant = |set: &ImageSet| match part {
        Some(part) => is_called(&set.name, part),
        None => set.name.split('/').any(|folder| folder.eq_ignore_ascii_case(task)),
    };
    let named: Vec<usize> = (0..sets.len()).filter(|&i| is_meant(&sets[i])).collect();
    match (&*named, part, sets.len()) {
        (&[one], _, _) => Ok(sets.swap_remove(one)),
        (_, None, 1) => Ok(sets.swap_remove(0)),
        ([], Some(part), _) => {
            let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).filter(|name| !name.is_empty()).collect();
            Err(unknown("set of images", part, names.into_iter()).at(path))
        }
        _ => {
            let name_or_first =
                |set: &ImageSet| if set.name.is_empty() { "(no name)".to_owned() } else { set.name.clone() };
            let names: Vec<String> = sets.iter().map(name_or_first).collect();
            let last = names[0].rsplit(['/', '-']).next().unwrap_or(&names[0]);
            Err(Error::invalid("the folder holds several sets of images")
                .at(path)
                .expected("one, or the name of one")
                .got(names.join(", "))
                .hint(format!("Name one after a colon, as in {task}={}:{last}", path.display())))
        }
    }
}

/// Whether a set is meant by `wanted`: all of its name, a folder in it, or what stands behind the last `-` of one.
fn is_called(name: &str, wanted: &str) -> bool {
    let is = |part: &str| part.eq_ignore_ascii_case(wanted);
    is(name) || name.split('/').any(|part| is(part) || part.rsplit_once('-').is_some_and(|(_, end)| is(end)))
}

/// The error for a folder of which nothing can be read, with what it holds instead.
fn nothing_known(path: &Path) -> Result<Error> {
    const MAX_SHOWN: usize = 5;
    let there = visible(path)?;
    let names: Vec<String> = there.iter().take(MAX_SHOWN).map(|path| name_of(path)).collect();
    let got = match there.len() {
        0 => "an empty folder".to_owned(),
        more if more > MAX_SHOWN => format!("{} and {} more", names.join(", "), more - MAX_SHOWN),
        _ => names.join(", "),
    };
    let error = Error::format("holds no labelled images that are known here")
        .at(path)
        .expected("a folder per class (SPLIT/CLASS/*.png or CLASS/*.png), or a data set's files as distributed")
        .got(got);
    let images = there.iter().any(|path| is_image_name(path));
    Ok(match there.iter().find_map(|path| hint_for(&name_of(path))) {
        Some(hint) => error.hint(hint),
        None if images => error.hint("The images lie in no class folder, so that nothing says what they show"),
        None => error,
    })
}

/// The advice for a file that is known and not read.
fn hint_for(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if ends(&[".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".rar", ".7z"]) {
        Some("Unpack the archive first")
    } else if ends(&[".parquet", ".arrow"]) {
        Some("Parquet and Arrow files are not read: write each image to a folder named after its class")
    } else if ends(&[".tfrecord"]) || name.contains(".tfrecord-") {
        Some("TFRecord files are not read: write each image to a folder named after its class")
    } else if ends(&[".h5", ".hdf5"]) {
        Some("HDF5 files are not read: docs/files.md has the command that makes PCAM's a safetensors file")
    } else if ends(&[".npz", ".npy"]) {
        Some("NumPy files are not read: write images and labels to a safetensors file, TASK/SPLIT/images and …/labels")
    } else {
        None
    }
}
