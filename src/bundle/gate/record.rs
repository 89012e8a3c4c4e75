//! What was measured of precisions, as a bundle tells it (`measured.precision` in its metadata).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tower::LayerPrecisions;
use crate::visible::Visible;

/// The bounds that a precision has to keep to. The defaults: no task loses more than 0.5 points, all of them 0.1 in the
/// mean; where there are no labelled images, every embedding has a cosine of 0.999 to that of f32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floors {
    /// The least cosine between an embedding and f32's, for tasks without labelled images.
    pub cosine: f64,
    /// Points of accuracy (hundredths of the images) that a task may lose.
    pub worst_drop: f64,
    /// Points that the tasks with labelled images may lose in the mean.
    pub mean_drop: f64,
}

impl Default for Floors {
    fn default() -> Self {
        Self { cosine: 0.999, worst_drop: 0.5, mean_drop: 0.1 }
    }
}

impl Floors {
    /// Refuses what is no bound.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a cosine that is none, or a drop that is
    /// negative or no number.
    pub fn check(&self) -> Result<()> {
        if !(-1.0..=1.0).contains(&self.cosine) {
            return Err(Error::invalid("the least cosine lies between -1 and 1").got(self.cosine));
        }
        match [self.worst_drop, self.mean_drop].into_iter().find(|drop| !(*drop >= 0.0 && drop.is_finite())) {
            Some(drop) => Err(Error::invalid("a drop in accuracy is a number of points of at least 0").got(drop)),
            None => Ok(()),
        }
    }
}

/// How a task fared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskMeasure {
    /// The task.
    pub task: String,
    /// The least cosine between an embedding and f32's, of some of the labelled images, or of the built-in ones.
    pub cosine: f64,
    /// The accuracies; `None` for a task without labelled images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<AccuracyMeasure>,
}

/// A task's labelled images, and how many of them are classified as they are labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccuracyMeasure {
    /// The images.
    pub images: usize,
    /// Those that are right in f32.
    pub right_in_f32: usize,
    /// Those that are right in the precisions that were measured.
    pub right: usize,
}

impl AccuracyMeasure {
    /// The accuracies in f32 and in the precisions that were measured, in points.
    pub fn points(&self) -> [f64; 2] {
        [self.right_in_f32, self.right].map(|right| 100.0 * right as f64 / self.images.max(1) as f64)
    }

    /// The points that are lost; negative where some are won.
    pub fn drop(&self) -> f64 {
        100.0 * (self.right_in_f32 as f64 - self.right as f64) / self.images.max(1) as f64
    }
}

/// Precisions that were tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The precisions, as [`LayerPrecisions`] writes them.
    pub precisions: String,
    /// Whether they kept to the floors.
    pub passed: bool,
    /// How each task fared.
    pub tasks: Vec<TaskMeasure>,
}

impl Trial {
    /// The task that loses most, and the points; `None` where no task has labelled images.
    pub fn worst_drop(&self) -> Option<(&str, f64)> {
        let drops = self.tasks.iter().filter_map(|task| Some((task.task.as_str(), task.accuracy?.drop())));
        drops.max_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// The points that are lost in the mean; `None` where no task has labelled images.
    pub fn mean_drop(&self) -> Option<f64> {
        let drops: Vec<f64> = self.tasks.iter().filter_map(|task| Some(task.accuracy?.drop())).collect();
        (!drops.is_empty()).then(|| drops.iter().sum::<f64>() / drops.len() as f64)
    }

    /// The task with the least cosine, and that; of those without labelled images alone where `is_judged`.
    pub fn least_cosine(&self, is_judged: bool) -> Option<(&str, f64)> {
        let tasks = self.tasks.iter().filter(|task| !is_judged || task.accuracy.is_none());
        tasks.map(|task| (task.task.as_str(), task.cosine)).min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// Whether they keep to `floors`.
    pub(super) fn keeps_to(&self, floors: &Floors) -> bool {
        // Points are no round numbers.
        let within = |drop: Option<f64>, most: f64| drop.is_none_or(|drop| drop <= most + 1e-9);
        within(self.worst_drop().map(|(_, drop)| drop), floors.worst_drop)
            && within(self.mean_drop(), floors.mean_drop)
            && self.least_cosine(true).is_none_or(|(_, cosine)| cosine >= floors.cosine)
    }
}

/// What was measured of precisions when a bundle was packed, and what passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrecisionMeasure {
    /// The fastest precisions that kept to the floors, as [`LayerPrecisions`] writes them; `f32` where no others did.
    pub precisions: String,
    /// The floors.
    pub floors: Floors,
    /// The labelled images; `None` where there were none, and the built-in ones were taken for all tasks.
    #[serde(default)]
    pub data: Option<String>,
    /// The number of built-in images that tasks without labelled ones were measured on.
    pub built_in_images: usize,
    /// All that was tried, in that order. [`PrecisionMeasure::chosen`] is what the precisions came to.
    pub trials: Vec<Trial>,
    /// One minus the least cosine with a single kind of layer rounded, by kind and type (`qkv=int8`), where that was
    /// asked about.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alone: BTreeMap<String, f64>,
    /// The program that measured.
    pub program: String,
    /// The version of its ONNX Runtime.
    pub onnxruntime: String,
    /// What all of this was measured over: base, vectors and recovery.
    pub(in crate::bundle) content: String,
}

impl PrecisionMeasure {
    /// The precisions that passed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for such as only a newer program knows.
    pub fn precisions(&self) -> Result<LayerPrecisions> {
        self.precisions.parse()
    }

    /// The trial of the precisions that passed; `None` where that is f32.
    pub fn chosen(&self) -> Option<&Trial> {
        self.trials.iter().find(|trial| trial.passed && trial.precisions == self.precisions)
    }
}

/// A sentence for people.
impl fmt::Display for PrecisionMeasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Floors { cosine, worst_drop, mean_drop } = self.floors;
        let Some(trial) = self.chosen().or(self.trials.last()) else { return f.write_str("nothing was tried") };
        if !trial.passed {
            f.write_str("nothing rounder passed: ")?;
        }
        let mut parts = Vec::new();
        if let Some((task, drop)) = trial.worst_drop() {
            let mean = trial.mean_drop().unwrap_or_default();
            let data = self.data.as_deref().unwrap_or_default();
            parts.push(format!(
                "on {} the worst task loses {drop:.2} points ({}), the mean {mean:.3}; {worst_drop} and {mean_drop} may be lost",
                Visible(data),
                Visible(task),
            ));
        }
        if let Some((task, least)) = trial.least_cosine(true) {
            parts.push(format!(
                "on {} built-in images the least cosine to f32 is {least:.5} ({}); {cosine} is the floor",
                self.built_in_images,
                Visible(task),
            ));
        }
        f.write_str(&parts.join("; "))
    }
}
