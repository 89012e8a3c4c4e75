//! The task chosen by the image: which of several tasks an image belongs to, told by the features that the base (or any
//! weights of the model) gives it: embeddings, or hidden features.
//!
//! Per task a [`Router`] holds a small affine subspace of the normalised features, with the variances along it and off
//! it; it is made of a few images per task (`RouterFit`, with the feature `build`). A [`Routing`] puts it over a model:
//! one run with the router's features tells the tasks of a batch, and one run per task that occurs in it gives the
//! embeddings. docs/routing.md has the formulas, their sources and what was measured.
//!
//! ```no_run
//! use taskbasis::{Choice, EncoderOptions, OpenModel, OpenOptions, Router, Routing};
//!
//! let opened = OpenModel::open("model.taskbasis", &OpenOptions::default())?;
//! let encoder = opened.encoder(&EncoderOptions::default())?;
//! let routing = Routing::new(Router::open("router.safetensors")?, &opened)?;
//! # let (pixels, n) = (vec![0.0; 3 * 224 * 224], 1);
//! let routed = routing.encode(&encoder, &pixels, n)?;
//! if routed.choices[0] == Choice::Task {
//!     println!("{}: {:.2}", routing.router().tasks()[routed.routes[0].task], routed.routes[0].confidence);
//! }
//! # Ok::<(), taskbasis::Error>(())
//! ```

mod file;
#[cfg(feature = "build")]
mod fit;
mod routing;
mod subspace;
#[cfg(test)]
#[cfg(feature = "build")]
mod tests;
mod whitening;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[cfg(feature = "build")]
pub use self::fit::{FitReport, RouterFit};
pub use self::routing::{Routed, Routing};
use self::subspace::Subspaces;
use crate::basis::TaskExpr;
use crate::bundle::Fingerprint;
use crate::did_you_mean::unknown;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::tensor::try_zeroed;
use crate::tower::{Arch, Pooling};

/// The confidence below which an image is not sent to its likeliest task, unless another one is asked for.
pub const THRESHOLD: f64 = 0.5;

/// The tasks of images by their features. It is of one base and one pooling, and of no basis: every basis over that
/// base has the same features.
#[derive(Clone, Debug)]
pub struct Router {
    path: Option<PathBuf>,
    base: Fingerprint,
    pooling: Pooling,
    kind: FeatureKind,
    features: TaskExpr,
    tasks: Vec<String>,
    subspaces: Subspaces,
    temperature: f64,
    threshold: f64,
    fallback: Option<TaskExpr>,
}

/// What of an image a router looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureKind {
    /// The embedding, `[e]`.
    #[default]
    Embedding,
    /// The hidden features, `[2·width]` ([`Hidden::features`](crate::Hidden)), which are whitened
    /// for all tasks at once: a router that tells more, and takes (2·width + 1)·width·4 bytes more.
    Hidden,
}

impl FeatureKind {
    /// The stable name: `embedding` or `hidden`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Hidden => "hidden",
        }
    }

    /// The length of a feature of this kind, of an encoder.
    pub fn extent(self, arch: &Arch) -> usize {
        match self {
            Self::Embedding => arch.embed_dim,
            Self::Hidden => 2 * arch.width,
        }
    }

    /// The parts of a feature, each of which is normalised.
    fn parts(self) -> usize {
        match self {
            Self::Embedding => 1,
            Self::Hidden => 2,
        }
    }
}

/// What a router says of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route {
    /// The likeliest task, as its place among [`Router::tasks`].
    pub task: usize,
    /// The probability of that task among the router's tasks, 0 to 1.
    pub probability: f64,
    /// The probability, lowered where the image lies further from the task than all images that the router was made of:
    /// what is compared with the threshold, 0 to 1.
    pub confidence: f64,
}

/// What becomes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// It is sent to its likeliest task.
    Task,
    /// Its confidence is below the threshold, and the fallback's weights answer.
    Fallback,
    /// Its confidence is below the threshold, and there is no fallback: nothing answers.
    None,
}

impl Choice {
    /// The stable name: `task`, `fallback` or `none`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Fallback => "fallback",
            Self::None => "none",
        }
    }
}

impl Router {
    /// The names of the tasks, in the router's order.
    pub fn tasks(&self) -> &[String] {
        &self.tasks
    }

    /// The place of `task` among them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), naming the known ones and the nearest.
    pub fn task_index(&self, task: &str) -> Result<usize> {
        let found = self.tasks.iter().position(|known| known == task);
        found.ok_or_else(|| self.located(unknown("task of the router", task, self.tasks.iter().map(String::as_str))))
    }

    /// The length of a feature: e, or 2·width of hidden ones.
    pub fn embedding_dim(&self) -> usize {
        self.subspaces.embedding()
    }

    /// k, the dimensions of each task's subspace.
    pub fn components(&self) -> usize {
        self.subspaces.components()
    }

    /// The kind of its features.
    pub fn kind(&self) -> FeatureKind {
        self.kind
    }

    /// Bytes of numbers that are there once for all tasks, of a router of hidden features.
    pub fn shared_bytes(&self) -> usize {
        self.subspaces.shared_bytes()
    }

    /// Bytes of numbers per task.
    pub fn bytes_per_task(&self) -> usize {
        self.subspaces.values_per_task() * size_of::<f32>()
    }

    /// The weights that the features are of: `base` unless it was made otherwise.
    pub fn features(&self) -> &TaskExpr {
        &self.features
    }

    /// The base that it was made for.
    pub fn base(&self) -> Fingerprint {
        self.base
    }

    /// The pooling of the features.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// The temperature that calibrates probabilities.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The least confidence with which an image is sent to its likeliest task.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The router with another threshold: 0 sends every image to its likeliest task.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for one that is not 0 to 1.
    pub fn with_threshold(mut self, threshold: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Error::invalid("a threshold is a confidence").expected("0 to 1").got(threshold));
        }
        self.threshold = threshold;
        Ok(self)
    }

    /// The weights that answer for an image below the threshold; `None` where nothing does.
    pub fn fallback(&self) -> Option<&TaskExpr> {
        self.fallback.as_ref()
    }

    /// The router with another fallback.
    #[must_use]
    pub fn with_fallback(self, fallback: Option<TaskExpr>) -> Self {
        Self { fallback, ..self }
    }

    /// The routes of `features`, f32 `[N, e]`: embeddings of the base, or of [`Router::features`], as the encoder gives
    /// them, not normalised; or `[N, 2·width]`, hidden features of those ([`Encoder::encode_hidden`]), where
    /// [`Router::kind`] says so.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when they are no multiple of e, or one cannot
    /// be normalised because its norm is 0 or not finite.
    pub fn route(&self, features: &[f32]) -> Result<Vec<Route>> {
        let embedding = self.embedding_dim();
        if !features.len().is_multiple_of(embedding) {
            return Err(Error::invalid("features of the wrong length")
                .expected(format_args!("N × {embedding} values"))
                .got(features.len()));
        }
        let (mut normalised, mut scores) = (try_zeroed::<f64>(embedding)?, try_zeroed::<f64>(self.tasks.len())?);
        let route = |(index, feature): (usize, &[f32])| {
            normalise(feature, self.kind, &mut normalised).map_err(|norm| not_normalisable(index, norm))?;
            self.subspaces.place(&mut normalised);
            for (task, score) in scores.iter_mut().enumerate() {
                *score = self.subspaces.distance(task, &normalised).log_likelihood();
            }
            Ok(self.judge(&scores, |task| self.subspaces.distance(task, &normalised).squared))
        };
        features.chunks_exact(embedding).enumerate().map(route).collect()
    }

    /// The route of an image with these ln p, and this d² from the task that is asked for.
    fn judge(&self, scores: &[f64], distance: impl FnOnce(usize) -> f64) -> Route {
        let task = largest(scores);
        let total: f64 = scores.iter().map(|score| ((score - scores[task]) / self.temperature).exp()).sum();
        let probability = 1.0 / total;
        let nearness = (self.subspaces.limit(task) / distance(task).max(f64::MIN_POSITIVE)).min(1.0);
        Route { task, probability, confidence: probability * nearness }
    }

    /// What becomes of an image with this route.
    pub fn choice(&self, route: &Route) -> Choice {
        match &self.fallback {
            _ if route.confidence >= self.threshold => Choice::Task,
            Some(_) => Choice::Fallback,
            None => Choice::None,
        }
    }

    /// Checks that it is of this base.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch).
    pub fn check_base(&self, base: Fingerprint) -> Result<()> {
        if self.base == base {
            return Ok(());
        }
        Err(self.located(
            Error::mismatch("a router of another base")
                .expected(format_args!("fingerprint {}", self.base))
                .got(base)
                .hint("`taskbasis route` makes one for this base"),
        ))
    }

    /// Checks that `encoder` gives features as it takes them.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for another length or pooling.
    pub fn check_encoder(&self, encoder: &Encoder) -> Result<()> {
        let (arch, takes) = (encoder.arch(), (self.pooling, self.embedding_dim()));
        let gives = (arch.variant.pooling, self.kind.extent(arch));
        if gives == takes {
            return Ok(());
        }
        Err(self.located(
            Error::mismatch("the router takes other features than this encoder gives")
                .expected(format_args!("{}, {} values", takes.0, takes.1))
                .got(format_args!("{}, {} values", gives.0, gives.1)),
        ))
    }

    /// The error with the file that the router came from.
    fn located(&self, error: Error) -> Error {
        match &self.path {
            Some(path) => error.at(path),
            None => error,
        }
    }
}

/// Writes each part of `feature` divided by its length, or tells the norm that cannot be divided by.
fn normalise(feature: &[f32], kind: FeatureKind, out: &mut [f64]) -> std::result::Result<(), f64> {
    let part = (feature.len() / kind.parts()).max(1);
    feature.chunks(part).zip(out.chunks_mut(part)).try_for_each(|(feature, out)| normalise_part(feature, out))
}

fn normalise_part(feature: &[f32], out: &mut [f64]) -> std::result::Result<(), f64> {
    let norm = feature.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    if !norm.is_finite() || norm <= 0.0 {
        return Err(norm);
    }
    out.iter_mut().zip(feature).for_each(|(out, &value)| *out = f64::from(value) / norm);
    Ok(())
}

fn not_normalisable(index: usize, norm: f64) -> Error {
    Error::invalid(format!("feature {index} cannot be normalised")).got(format_args!("a norm of {norm}"))
}

/// The place of the largest, of equal ones the first.
fn largest(values: &[f64]) -> usize {
    (1..values.len()).fold(0, |best, at| if values[at] > values[best] { at } else { best })
}
