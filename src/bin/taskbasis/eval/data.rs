//! Labelled images as the encoder takes them: preprocessed once, while it works on the batch before.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread;

use indicatif::ProgressBar;
use serde_json::Value;
use taskbasis::{
    Arch, Bundle, Dataset, Encoder, Error, ErrorKind, Head, OtherNames, Preprocess, Result, Split, TaskWeights,
};

use super::options::{DataArg, Eval};
use crate::accuracy::count_right;
use crate::args::{HeadArgs, Session};
use crate::output;
use crate::unreadable_images::{SkipArgs, Skipped};

/// Batches that are preprocessed before the encoder asks for them.
const AHEAD: usize = 2;

/// The data of these arguments, task by task.
pub fn open_data(arguments: &[DataArg]) -> Result<Dataset> {
    let open = |argument: &DataArg| match (&argument.task, &argument.part) {
        (Some(task), Some(part)) => Dataset::of_part(task, &argument.path, part),
        (Some(task), None) => Dataset::of_task(task, &argument.path),
        (None, _) => Dataset::open(&argument.path),
    };
    let mut all = arguments.iter().map(open);
    let first = all.next().unwrap_or_else(|| Err(Error::invalid("no evaluation data")))?;
    all.try_fold(first, |joined, next| joined.join(next?))
}

/// The data and heads, and what is kept of preprocessed images.
pub(super) struct Images<'a> {
    data: Dataset,
    heads: &'a HeadArgs,
    bundle: Option<&'a Bundle>,
    preprocess: Preprocess,
    /// Values in one.
    arch: Arch,
    batch: usize,
    threads: usize,
    /// Bytes that preprocessed images may yet take.
    room: AtomicUsize,
    other_names: OtherNames,
    /// Image files that could not be read; `None` where one ends the command.
    skipped: Option<Skipped>,
}

/// Images of one batch that were read and preprocessed.
struct Batch {
    /// [n, 3, S, S].
    pixels: Vec<f32>,
    /// The places of these images in the split.
    images: Vec<usize>,
}

/// One task's images in one split, and its head.
pub(super) struct Labelled {
    pub(super) task: String,
    pub(super) head: Head,
    labels: Vec<usize>,
    split: Split,
    /// One per batch, where there was room for it.
    batches: Vec<OnceLock<Arc<Batch>>>,
    /// The number of images that could be read, once all were looked at.
    read: AtomicUsize,
}

impl Labelled {
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The number of images that accuracy was measured on.
    pub(super) fn measured(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }
}

impl<'a> Images<'a> {
    pub(super) fn new(data: Dataset, eval: &'a Eval, session: &'a Session, arch: &Arch) -> Result<Self> {
        eval.encoder.tell_images(session, true)?;
        Ok(Self {
            data,
            heads: &eval.heads,
            bundle: session.bundle(),
            preprocess: eval.encoder.preprocess(session)?,
            arch: arch.clone(),
            batch: eval.encoder.batch as usize,
            threads: eval.encoder.threads,
            other_names: if eval.alphabetical { OtherNames::Alphabetical } else { OtherNames::Refuse },
            skipped: eval.skip.skip_bad.then(Skipped::default),
            room: AtomicUsize::new(if eval.has_lambdas() { eval.image_cache.saturating_mul(1 << 20) } else { 0 }),
        })
    }

    pub(super) fn data(&self) -> &Dataset {
        &self.data
    }

    /// Heads, labels and images of these tasks.
    pub(super) fn labelled(&self, tasks: &[String], split: &str) -> Result<Vec<Labelled>> {
        self.heads.check(tasks)?;
        tasks.iter().map(|task| self.of_task(task, split)).collect()
    }

    /// [`Images::labelled`], `sample` of every task's images: M, T and the seed.
    pub(super) fn sampled(&self, tasks: &[String], split: &str, sample: (usize, usize, u32)) -> Result<Vec<Labelled>> {
        self.heads.check(tasks)?;
        let (vectors, of, seed) = sample;
        let sampled = |task: &String| {
            let split = self.split(task, split)?.reference_sample(vectors, of, seed)?;
            self.of_split(task, split)
        };
        tasks.iter().map(sampled).collect()
    }

    /// The heads of these tasks.
    pub(super) fn heads(&self, tasks: &[String]) -> Result<Vec<Head>> {
        self.heads.check(tasks)?;
        tasks.iter().map(|task| self.heads.head(self.bundle, task, &self.arch)).collect()
    }

    fn of_task(&self, task: &str, name: &str) -> Result<Labelled> {
        self.of_split(task, self.split(task, name)?)
    }

    /// The images of a split, or those that the reference sets aside of it.
    fn split(&self, task: &str, name: &str) -> Result<Split> {
        let (stored, is_reference) = stored_split(name);
        // The reference has a validation split of EuroSAT's own.
        let valid = || self.data.splits(task).is_ok_and(|splits| splits.contains(&"valid"));
        let split = match (is_reference, task) {
            (true, "EuroSAT") if valid() => self.data.split(task, "valid")?,
            (true, _) => self.data.split(task, stored)?.reference_validation()?,
            (false, _) => self.data.split(task, stored)?,
        };
        if split.is_empty() {
            return Err(Error::format(format!("split `{name}` of task `{task}` has no images")));
        }
        Ok(split)
    }

    fn of_split(&self, task: &str, split: Split) -> Result<Labelled> {
        let head = self.heads.head(self.bundle, task, &self.arch)?;
        let labels = labels(&head, &split, self.other_names, task)?;
        let batches = (0..split.len().div_ceil(self.batch)).map(|_| OnceLock::new()).collect();
        let read = AtomicUsize::new(labels.len());
        Ok(Labelled { task: task.to_owned(), head, labels, split, batches, read })
    }

    /// The share of images whose class the head finds first.
    pub(super) fn accuracy(
        &self,
        encoder: &Encoder,
        weights: &TaskWeights,
        labelled: &Labelled,
        bar: &ProgressBar,
    ) -> Result<f64> {
        let mut right = 0;
        let of = self.for_each_batch(labelled, bar, |pixels, labels| {
            right += count_right(encoder, weights, &labelled.head, pixels, labels)?;
            Ok(())
        })?;
        Ok(right as f64 / of as f64)
    }

    /// Hands the images of a task over in order, `take(pixels [n, 3, S, S], labels [n])`, while the next ones are
    /// preprocessed. Returns how many there were, at least one.
    pub(super) fn for_each_batch(
        &self,
        labelled: &Labelled,
        bar: &ProgressBar,
        mut take: impl FnMut(&[f32], &[usize]) -> Result<()>,
    ) -> Result<usize> {
        let (send, receive) = sync_channel(AHEAD);
        let of = thread::scope(|scope| {
            let ahead = move || {
                for batch in 0..labelled.batches.len() {
                    // There is no receiver any more where the encoder has failed.
                    if send.send(self.batch(labelled, batch)).is_err() {
                        break;
                    }
                }
            };
            thread::Builder::new().spawn_scoped(scope, ahead).map_err(Error::no_thread)?;
            receive.into_iter().enumerate().try_fold(0, |of, (i, batch)| {
                let batch = batch?;
                let labels: Vec<usize> = batch.images.iter().map(|&image| labelled.labels[image]).collect();
                if !labels.is_empty() {
                    take(&batch.pixels, &labels)?;
                }
                bar.inc(self.range(labelled, i).len() as u64);
                Ok::<_, Error>(of + labels.len())
            })
        })?;
        labelled.read.store(of, Ordering::Relaxed);
        match (of, &self.skipped) {
            (0, Some(skipped)) => {
                let (count, task) = (labelled.len(), &labelled.task);
                Err(skipped.first_error(format!("none of the {count} images of task `{task}` could be read")))
            }
            _ => Ok(of),
        }
    }

    /// The images that `batch` is of.
    fn range(&self, labelled: &Labelled, batch: usize) -> Range<usize> {
        batch * self.batch..labelled.len().min((batch + 1) * self.batch)
    }

    /// A batch: kept from the last time, or preprocessed now and kept where there is room.
    fn batch(&self, labelled: &Labelled, batch: usize) -> Result<Arc<Batch>> {
        if let Some(kept) = labelled.batches[batch].get() {
            return Ok(Arc::clone(kept));
        }
        let made = Arc::new(self.preprocessed(&labelled.split, self.range(labelled, batch))?);
        let bytes = size_of_val(made.pixels.as_slice());
        let take = |room: usize| room.checked_sub(bytes);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let _ = labelled.batches[batch].set(Arc::clone(&made));
        }
        Ok(made)
    }

    fn preprocessed(&self, split: &Split, images: Range<usize>) -> Result<Batch> {
        let Some(skipped) = &self.skipped else {
            let pixels = split.preprocess(&self.preprocess, images.clone(), self.threads);
            let pixels = pixels.map_err(|e| SkipArgs::explained(e, split.files()))?;
            return Ok(Batch { pixels, images: images.collect() });
        };
        let readable = split.preprocess_readable(&self.preprocess, images, self.threads)?;
        for (image, error) in &readable.skipped {
            if let Some(file) = split.files().get(*image) {
                skipped.add(file, error);
            }
        }
        Ok(Batch { pixels: readable.pixels, images: readable.read })
    }

    /// Says which image files were left out.
    pub(super) fn tell_skipped(&self) {
        if let Some(skipped) = &self.skipped {
            skipped.tell();
        }
    }

    /// The image files that were left out, as JSON; `None` where none may be.
    pub(super) fn skipped(&self) -> Option<Value> {
        self.skipped.as_ref().map(Skipped::json)
    }
}

/// The split that is in the data, and whether what the reference sets aside of it is meant: `train:reference`.
pub(super) fn stored_split(name: &str) -> (&str, bool) {
    name.strip_suffix(":reference").map_or((name, false), |stored| (stored, true))
}

/// The labels as the head counts classes; what a person should know of them is said.
pub fn labels(head: &Head, split: &Split, other_names: OtherNames, task: &str) -> Result<Vec<usize>> {
    let found = split.labels_for(head, other_names).map_err(|error| {
        let error = error.tensor(task);
        match error.kind() {
            ErrorKind::NotFound if split.files().is_empty() => error.also_hint(OTHER_NUMBERS),
            ErrorKind::NotFound => error.also_hint(OTHER_ORDER),
            _ => error,
        }
    })?;
    found.remarks.iter().for_each(|remark| output::note_once(&format!("{task}: {remark}")));
    Ok(found.labels)
}

/// What to do about folders that are not called as the head's classes are.
const OTHER_ORDER: &str = "Rename the folders, or give their names with --classes, in the head's order; --alphabetical \
    takes the folders in the order of the alphabet for the head's classes in theirs";

/// What to do about data whose list of classes is in another order than the head's, and in part of other names.
const OTHER_NUMBERS: &str = "Give the head the data's names with --classes; --alphabetical takes labels as the head's \
    numbers";
