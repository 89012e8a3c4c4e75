//! Many images at once, spread over threads.

#[cfg(feature = "images")]
use std::path::Path;

#[cfg(feature = "images")]
use parking_lot::Mutex;

use super::pixels::Pixels;
use super::transform::Preprocess;
#[cfg(feature = "images")]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::kernel::share;
use crate::tensor::try_zeroed;

/// Images that were read and preprocessed, and those that could not be.
#[derive(Debug)]
pub struct Readable {
    /// The pixels of those that were read, [N, 3, S, S].
    pub pixels: Vec<f32>,
    /// The places of these images in what was asked for.
    pub read: Vec<usize>,
    /// The places of the others, and why each could not be read.
    pub skipped: Vec<(usize, Error)>,
}

/// Whether a failure is of one image, so that others may still be read.
#[cfg(feature = "images")]
fn is_of_file(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Io | ErrorKind::Format | ErrorKind::Unsupported | ErrorKind::InvalidArgument)
}

impl Preprocess {
    /// Preprocesses images in memory to [N, 3, S, S], on `threads` threads (0: as many as the machine has).
    ///
    /// # Errors
    /// Those of [`Preprocess::pixels`], of the first image that fails, which is named;
    /// [`ErrorKind::OutOfMemory`].
    pub fn images(&self, images: &[Pixels<'_>], threads: usize) -> Result<Vec<f32>> {
        self.batch(images, threads, |i, &image, out| self.pixels(image, out).map_err(|e| e.in_element("images", i)))
    }

    /// Preprocesses image files to [N, 3, S, S], on `threads` threads (0: as many as the machine has).
    ///
    /// # Errors
    /// Those of [`Preprocess::file`], of the first file that fails;
    /// [`ErrorKind::OutOfMemory`].
    #[cfg(feature = "images")]
    pub fn files<P: AsRef<Path> + Sync>(&self, paths: &[P], threads: usize) -> Result<Vec<f32>> {
        self.batch(paths, threads, |_, path, out| self.file(path, out))
    }

    /// Preprocesses as many of the image files as can be read, on `threads` threads (0: as many as the machine has).
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`], and other failures that are not a file's.
    #[cfg(feature = "images")]
    pub fn readable_files<P: AsRef<Path> + Sync>(&self, paths: &[P], threads: usize) -> Result<Readable> {
        let failures = Mutex::new(Vec::new());
        let mut pixels = self.batch(paths, threads, |index, path, out| match self.file(path, out) {
            Err(error) if is_of_file(error.kind()) => {
                failures.lock().push((index, error));
                Ok(())
            }
            done => done,
        })?;
        let mut skipped = failures.into_inner();
        skipped.sort_by_key(|(index, _)| *index);
        let is_skipped = |index: &usize| skipped.binary_search_by_key(index, |(index, _)| *index).is_ok();
        let read: Vec<usize> = (0..paths.len()).filter(|index| !is_skipped(index)).collect();
        for (to, &from) in read.iter().enumerate().filter(|(to, from)| to != *from) {
            pixels.copy_within(from * self.len()..(from + 1) * self.len(), to * self.len());
        }
        pixels.truncate(read.len() * self.len());
        Ok(Readable { pixels, read, skipped })
    }

    fn batch<T: Sync>(
        &self,
        items: &[T],
        threads: usize,
        one: impl Fn(usize, &T, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Vec<f32>> {
        let mut out: Vec<f32> = try_zeroed(self.len().saturating_mul(items.len()))?;
        // Images differ in size, so each thread takes the next one when it is done with its last.
        let images: Vec<_> = items.iter().zip(out.chunks_exact_mut(self.len())).enumerate().collect();
        share(threads, images, |(index, (item, out)), (): &mut ()| one(index, item, out))?;
        Ok(out)
    }
}
