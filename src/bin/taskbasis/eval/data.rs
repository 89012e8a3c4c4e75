//! Labelled images as the encoder takes them: preprocessed once, while it works on the batch before.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread;

use indicatif::ProgressBar;
use taskbasis::{Arch, Bundle, Dataset, Encoder, Error, Head, Preprocess, Result, Split, TaskWeights};

use super::Eval;
use crate::accuracy::count_right;
use crate::args::{HeadArgs, Session};

/// Batches that are preprocessed before the encoder asks for them.
const AHEAD: usize = 2;

/// A file or folder of several tasks, or the folder of one.
#[derive(Clone, Debug)]
pub struct DataArg {
    task: Option<String>,
    path: PathBuf,
}

impl FromStr for DataArg {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        // A path may hold `=`; one that is there is a path.
        Ok(match text.split_once('=') {
            Some((task, path)) if !task.is_empty() && !Path::new(text).exists() => {
                Self { task: Some(task.into()), path: path.into() }
            }
            _ => Self { task: None, path: text.into() },
        })
    }
}

pub(super) fn open_data(arguments: &[DataArg]) -> Result<Dataset> {
    let open = |argument: &DataArg| match &argument.task {
        Some(task) => Dataset::of_task(task, &argument.path),
        None => Dataset::open(&argument.path),
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
    embedding: usize,
    batch: usize,
    threads: usize,
    /// Bytes that preprocessed images may yet take.
    room: AtomicUsize,
}

/// One task's images in one split, and its head.
pub(super) struct Labelled {
    pub(super) task: String,
    head: Head,
    labels: Vec<usize>,
    split: Split,
    /// A batch each, where there was room for it.
    pixels: Vec<OnceLock<Arc<Vec<f32>>>>,
}

impl Labelled {
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }
}

impl<'a> Images<'a> {
    pub(super) fn new(data: Dataset, eval: &'a Eval, session: &'a Session, arch: &Arch) -> Result<Self> {
        eval.encoder.tell_images(session, true)?;
        Ok(Self {
            data,
            heads: &eval.heads,
            bundle: session.bundle.as_deref(),
            preprocess: eval.encoder.preprocess(session)?,
            embedding: arch.embed_dim,
            batch: eval.encoder.batch as usize,
            threads: eval.encoder.threads,
            room: AtomicUsize::new(if eval.has_lambdas() { eval.image_cache.saturating_mul(1 << 20) } else { 0 }),
        })
    }

    pub(super) fn data(&self) -> &Dataset {
        &self.data
    }

    /// Heads, labels and images of these tasks.
    pub(super) fn labelled(&self, tasks: &[String], split: &str) -> Result<Vec<Labelled>> {
        self.heads.check(self.bundle, tasks)?;
        tasks.iter().map(|task| self.of_task(task, split)).collect()
    }

    fn of_task(&self, task: &str, name: &str) -> Result<Labelled> {
        let head = self.heads.head(self.bundle, task, self.embedding)?;
        let split = self.data.split(task, name)?;
        if split.is_empty() {
            return Err(Error::format(format!("split `{name}` of task `{task}` has no images")));
        }
        let labels = labels(&head, &split).map_err(|e| e.tensor(task))?;
        let pixels = (0..split.len().div_ceil(self.batch)).map(|_| OnceLock::new()).collect();
        Ok(Labelled { task: task.to_owned(), head, labels, split, pixels })
    }

    /// The share of images whose class the head finds first.
    pub(super) fn accuracy(
        &self,
        encoder: &Encoder,
        weights: &TaskWeights,
        labelled: &Labelled,
        bar: &ProgressBar,
    ) -> Result<f64> {
        let (send, receive) = sync_channel(AHEAD);
        let right = thread::scope(|scope| {
            let ahead = move || {
                for batch in 0..labelled.pixels.len() {
                    // Nobody receives any more where the encoder has failed.
                    if send.send(self.pixels(labelled, batch)).is_err() {
                        break;
                    }
                }
            };
            thread::Builder::new().spawn_scoped(scope, ahead).map_err(Error::no_thread)?;
            receive.into_iter().zip(labelled.labels.chunks(self.batch)).try_fold(0, |right, (pixels, labels)| {
                let more = count_right(encoder, weights, &labelled.head, &pixels?, labels)?;
                bar.inc(labels.len() as u64);
                Ok::<_, Error>(right + more)
            })
        })?;
        Ok(right as f64 / labelled.len() as f64)
    }

    /// A batch, [n, 3, S, S]: kept from the last time, or preprocessed now and kept where there is room.
    fn pixels(&self, labelled: &Labelled, batch: usize) -> Result<Arc<Vec<f32>>> {
        if let Some(kept) = labelled.pixels[batch].get() {
            return Ok(Arc::clone(kept));
        }
        let range = batch * self.batch..labelled.len().min((batch + 1) * self.batch);
        let pixels = Arc::new(labelled.split.preprocess(&self.preprocess, range, self.threads)?);
        let bytes = size_of_val(pixels.as_slice());
        let take = |room: usize| room.checked_sub(bytes);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let _ = labelled.pixels[batch].set(Arc::clone(&pixels));
        }
        Ok(pixels)
    }
}

/// The labels as the head counts classes: by the classes' names, where both name them and they are the same names.
fn labels(head: &Head, split: &Split) -> Result<Vec<usize>> {
    let (of_head, of_data) = (head.classes(), split.classes());
    let place = |name: &String| of_head.iter().position(|known| known == name);
    let places: Vec<Option<usize>> = of_data.iter().map(place).collect();
    if places.iter().any(Option::is_some) {
        if let Some(at) = places.iter().position(Option::is_none) {
            return Err(Error::mismatch(format!("the data have a class `{}` that the head has not", of_data[at]))
                .hint("Folders are matched to the head's class names by their names, unless no name is the same"));
        }
        return Ok(split.labels().iter().filter_map(|&label| places[label]).collect());
    }
    if !of_data.is_empty() && of_data.len() != head.num_classes() {
        return Err(Error::mismatch("data and head differ in their number of classes")
            .expected(head.num_classes())
            .got(format_args!("{} folders", of_data.len())));
    }
    Ok(head.check_labels(split.labels())?.to_vec())
}
