//! The images that a command works on: preprocessed ones in a tensor, or files.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use clap::Args;
use taskbasis::{Checkpoint, Error, ImageFiles, Preprocess, Result, present};

use crate::output;
use crate::paths::InPath;
use crate::unreadable_images::{SkipArgs, Skipped};

/// Which files of folders to read.
#[derive(Args)]
pub struct FileArgs {
    /// Read the images in subfolders too.
    #[arg(long)]
    pub recursive: bool,

    /// Leave out image files that cannot be read even where they are named, and name them. Those of folders always are.
    #[arg(long)]
    pub skip_bad: bool,
}

/// The source of the pixels.
pub enum Input {
    /// `pixel_values` f32 [N,3,S,S].
    Pixels { checkpoint: Box<Checkpoint>, size: usize },
    /// Image files, decoded and preprocessed batch by batch. `required`: of each, whether the command ends where it
    /// cannot be read.
    Files { files: Vec<PathBuf>, required: Vec<bool>, preprocess: Box<Preprocess> },
}

impl Input {
    /// `paths` as the command line gave them; `preprocess` is for those that are not preprocessed yet.
    pub fn open(paths: &[InPath], how: &FileArgs, preprocess: Preprocess) -> Result<Self> {
        if let [path] = paths
            && path.extension().is_some_and(|e| e == "safetensors")
        {
            if how.recursive || how.skip_bad {
                return Err(Error::invalid("--recursive and --skip-bad are for image files").at(path));
            }
            return Self::pixels(path, preprocess.size());
        }
        let is_folder = paths.iter().map(|path| present::is_folder(path)).collect::<Result<Vec<_>>>()?;
        if how.recursive && !is_folder.contains(&true) {
            return Err(Error::invalid("--recursive is for folders, and none is given"));
        }
        let (mut files, mut required) = (Vec::new(), Vec::new());
        for (path, is_folder) in paths.iter().zip(is_folder) {
            if is_folder {
                files.extend(images_in(path, how.recursive)?);
            } else {
                files.push(path.to_path_buf());
            }
            required.resize(files.len(), !is_folder && !how.skip_bad);
        }
        Ok(Self::Files { files, required, preprocess: Box::new(preprocess) })
    }

    fn pixels(path: &Path, size: usize) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let tensor = checkpoint.require("pixel_values")?;
        match tensor.shape() {
            &[_, 3, h, w] if h == size && w == size && tensor.dtype().is_float() => {
                Ok(Self::Pixels { checkpoint: Box::new(checkpoint), size })
            }
            shape => Err(Error::mismatch("pixels must be as the encoder takes them")
                .at(path)
                .tensor("pixel_values")
                .expected(format_args!("f32 [N, 3, {size}, {size}]"))
                .got(format_args!("{} {shape:?}", tensor.dtype()))),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Pixels { checkpoint, .. } => checkpoint.get("pixel_values").map_or(0, |tensor| tensor.shape()[0]),
            Self::Files { files, .. } => files.len(),
        }
    }

    /// The files, where the images are files.
    pub fn files(&self) -> Option<&[PathBuf]> {
        match self {
            Self::Pixels { .. } => None,
            Self::Files { files, .. } => Some(files),
        }
    }

    /// Hands the images over in order, at most `batch` at a time: `take(pixels [n,3,S,S], n)`. Returns which were.
    pub fn for_each_batch(
        &self,
        batch: usize,
        threads: usize,
        mut take: impl FnMut(&[f32], usize) -> Result<()>,
    ) -> Result<Taken<'_>> {
        let mut taken = Taken { input: self, read: (0..self.len()).collect(), skipped: Skipped::default() };
        match self {
            Self::Pixels { checkpoint, size } => {
                let tensor = checkpoint.require("pixel_values")?;
                let image = 3 * size * size;
                for start in (0..self.len()).step_by(batch) {
                    let n = batch.min(self.len() - start);
                    let rows = tensor.rows(start..start + n)?;
                    let pixels: Cow<'_, [f32]> = rows.to_f32()?;
                    debug_assert_eq!(pixels.len(), n * image);
                    take(&pixels, n)?;
                }
            }
            Self::Files { files, required, preprocess } => {
                taken.read.clear();
                for (i, files) in files.chunks(batch).enumerate() {
                    let readable = preprocess.readable_files(files, threads)?;
                    for (at, error) in readable.skipped {
                        if required[i * batch + at] {
                            return Err(SkipArgs::explained(error, files));
                        }
                        taken.skipped.add(&files[at], &error);
                    }
                    taken.read.extend(readable.read.iter().map(|at| i * batch + at));
                    if !readable.read.is_empty() {
                        take(&readable.pixels, readable.read.len())?;
                    }
                }
                if taken.read.is_empty() {
                    return Err(taken.skipped.first_error(format!("none of {} images could be read", files.len())));
                }
            }
        }
        Ok(taken)
    }
}

/// The images that were handed over, and those that could not be read.
pub struct Taken<'a> {
    input: &'a Input,
    /// The places of the images that were read among all.
    read: Vec<usize>,
    pub skipped: Skipped,
}

impl Taken<'_> {
    pub fn len(&self) -> usize {
        self.read.len()
    }

    /// The files, where the images are files.
    pub fn files(&self) -> Option<Vec<&Path>> {
        let files = self.input.files()?;
        Some(self.read.iter().map(|&at| files[at].as_path()).collect())
    }

    /// A name for each image.
    pub fn names(&self) -> Vec<String> {
        match self.files() {
            None => self.read.iter().map(|at| format!("pixel_values[{at}]")).collect(),
            Some(files) => files.iter().map(|file| file.display().to_string()).collect(),
        }
    }

    /// `, 2 images left out`, where any was.
    pub fn left_out(&self) -> String {
        match self.skipped.len() {
            0 => String::new(),
            skipped => format!(", {} left out", output::counted(skipped, "image")),
        }
    }
}

/// Says which hidden files were passed over: by name the first few.
fn tell_hidden(folder: &Path, hidden: &[PathBuf]) {
    const MAX_SHOWN: usize = 3;
    let names = hidden.iter().take(MAX_SHOWN).filter_map(|path| path.file_name());
    let mut list: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    if hidden.len() > MAX_SHOWN {
        list.push("…".to_owned());
    }
    if !hidden.is_empty() {
        let (count, list) = (output::counted(hidden.len(), "hidden file"), list.join(", "));
        output::note(&format!("{}: {count} passed over: {list}", folder.display()));
    }
}

/// The image files of a folder, by name.
fn images_in(folder: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    let found = ImageFiles::of(folder, recursive)?;
    let (taken, others, below) = (found.files().len(), found.others().len(), found.below());
    tell_hidden(folder, found.hidden());
    if taken == 0 {
        let error = Error::not_found("the folder holds no image file, by its name").at(folder);
        return Err(match below {
            0 => error.expected("names like a.png or a.jpg").got(output::counted(others, "other file")),
            _ => error.hint(format!("{} in its subfolders: --recursive reads them", output::counted(below, "image"))),
        });
    }
    if others > 0 {
        let all = others + taken;
        output::note(&format!("{}: {others} of {all} files left out, as their names are no images'", folder.display()));
    }
    if below > 0 {
        let images = output::counted(below, "image");
        output::note(&format!("{}: {images} in subfolders not read: --recursive reads them", folder.display()));
    }
    Ok(found.into_files())
}
