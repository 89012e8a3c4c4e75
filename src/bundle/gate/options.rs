//! How precisions are measured.

use super::record::Floors;
use crate::datasets::Split;
use crate::encoder::{EncoderOptions, Runtime};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::tower::LayerPrecisions;

/// How precisions are measured.
#[derive(Debug)]
pub struct Gate {
    /// What has to be kept to.
    pub floors: Floors,
    /// Labelled images, by task. Tasks without any are measured with built-in ones, by the cosine of embeddings.
    pub labelled: Vec<LabelledTask>,
    /// The name of those, for people; `None` where there are none.
    pub data: Option<String>,
    /// Images a run.
    pub batch: usize,
    /// Threads, and the library of ONNX Runtime; nothing else of it is looked at.
    pub encoder: EncoderOptions,
}

impl Default for Gate {
    fn default() -> Self {
        let (floors, labelled, encoder) = (Floors::default(), Vec::new(), EncoderOptions::default());
        Self { floors, labelled, data: None, batch: 32, encoder }
    }
}

/// A task's labelled images, and the head that classifies them.
#[derive(Debug)]
pub struct LabelledTask {
    /// The task.
    pub task: String,
    /// Its head.
    pub head: Head,
    /// The images.
    pub images: Split,
    /// The class of each image, as the head counts them ([`Split::labels_for`]).
    pub labels: Vec<usize>,
}

/// How far a measurement has come.
#[derive(Clone, Copy, Debug)]
pub struct GateProgress {
    /// The number of the trial, from 0, which is f32's own.
    pub trial: usize,
    /// The precisions that are tried.
    pub precisions: LayerPrecisions,
    /// Whether it is what a single kind of layer does alone, on a few images.
    pub is_alone: bool,
    /// Images that are done, of all tasks.
    pub images: usize,
    /// Images of this trial.
    pub total: usize,
}

impl Gate {
    /// Refuses what cannot be measured, before there is anything to measure it with.
    ///
    /// # Errors
    /// As [`Floors::check`] and [`Runtime::load`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where labels are not as many as
    /// images, or there are none.
    pub fn check(&self) -> Result<()> {
        self.floors.check()?;
        for LabelledTask { task, images, labels, head } in &self.labelled {
            if images.len() != labels.len() || images.is_empty() {
                return Err(Error::invalid(format!("task `{task}` needs a label for each of its images"))
                    .expected(format_args!("{} labels, at least one", images.len()))
                    .got(labels.len()));
            }
            head.check_labels(labels)?;
        }
        Runtime::load(self.encoder.runtime.as_deref()).map(drop)
    }
}
