//! The images that a command works on: preprocessed ones in a tensor, or files.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use taskbasis::{Checkpoint, Error, Preprocess, Result};

use crate::output;

/// Where the pixels come from.
pub enum Input {
    /// `pixel_values` f32 [N,3,S,S].
    Pixels { checkpoint: Box<Checkpoint>, size: usize },
    /// Image files, decoded and preprocessed batch by batch.
    Files { files: Vec<PathBuf>, preprocess: Box<Preprocess> },
}

impl Input {
    /// `paths` as the command line gave them; `preprocess` is for those that are not preprocessed yet.
    pub fn open(paths: &[PathBuf], preprocess: Preprocess) -> Result<Self> {
        if let [path] = paths
            && path.extension().is_some_and(|e| e == "safetensors")
        {
            return Self::pixels(path, preprocess.size());
        }
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                files.extend(images_in(path)?);
            } else {
                files.push(path.clone());
            }
        }
        Ok(Self::Files { files, preprocess: Box::new(preprocess) })
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

    /// What to call each image.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Pixels { .. } => (0..self.len()).map(|i| format!("pixel_values[{i}]")).collect(),
            Self::Files { files, .. } => files.iter().map(|file| file.display().to_string()).collect(),
        }
    }

    /// Hands the images over in order, at most `batch` at a time: `take(pixels [n,3,S,S], n)`.
    pub fn for_each_batch(
        &self,
        batch: usize,
        threads: usize,
        mut take: impl FnMut(&[f32], usize) -> Result<()>,
    ) -> Result<()> {
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
                Ok(())
            }
            Self::Files { files, preprocess } => {
                for files in files.chunks(batch) {
                    take(&preprocess.files(files, threads)?, files.len())?;
                }
                Ok(())
            }
        }
    }
}

/// The PNG and JPEG files of a folder, by name.
fn images_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("cannot list the folder", folder, e);
    let (mut files, mut others) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        if matches!(extension.as_str(), "png" | "jpg" | "jpeg") && path.is_file() {
            files.push(path);
        } else if path.is_file() {
            others += 1;
        }
    }
    if others > 0 && !files.is_empty() {
        output::note(&format!(
            "{}: {others} of {} files left out, as they are not .png, .jpg or .jpeg",
            folder.display(),
            others + files.len()
        ));
    }
    if files.is_empty() {
        return Err(Error::not_found("the folder holds no .png, .jpg or .jpeg file").at(folder));
    }
    files.sort();
    Ok(files)
}
