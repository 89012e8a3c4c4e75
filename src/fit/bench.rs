//! The images run with weights: logits, and how they change with each λ.

use std::sync::Arc;

use super::linear::Linear;
use super::objective::{Measure, Objective};
use super::set::{Image, Set};
use super::space::Space;
use crate::encoder::{Encoder, WeightsOn};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::tensor::try_zeroed;
use crate::weights::{Model, TaskWeights};

/// How far a λ is moved to see how logits change: far above the rounding of f32 runs, well below the distances at which
/// networks bend.
const STEP: f64 = 0.02;

/// What coefficients are tried out with.
pub(super) struct Bench<'a> {
    pub(super) model: &'a Arc<Model>,
    pub(super) encoder: &'a Encoder,
    pub(super) space: &'a Space,
    pub(super) heads: &'a [Head],
    pub(super) objective: Objective,
    /// τ, what logits are divided by.
    pub(super) temperature: f32,
    /// Images a run.
    pub(super) batch: usize,
    pub(super) threads: usize,
    /// Told how many more images were run.
    pub(super) progress: &'a dyn Fn(usize),
}

impl Bench<'_> {
    /// The logits of all images of a set.
    fn logits(&self, weights: &TaskWeights, set: &Set) -> Result<Vec<f32>> {
        let mut logits = try_zeroed(set.logits)?;
        let all: Vec<usize> = (0..set.images.len()).collect();
        self.run(weights, set, &all, &mut logits)?;
        Ok(logits)
    }

    /// Puts the logits of some images of a set where they belong among those of all.
    fn run(&self, weights: &TaskWeights, set: &Set, chosen: &[usize], logits: &mut [f32]) -> Result<()> {
        // While these are held, every batch finds them, whatever the cache has room for.
        let _held = match self.encoder.execution().weights_on {
            WeightsOn::Host => Some(weights.in_layout(self.encoder.layout()).get()?),
            _ => None,
        };
        let (image, width) = (self.encoder.arch().pixels(), self.encoder.arch().embed_dim);
        let mut pixels = Vec::new();
        for chosen in chosen.chunks(self.batch) {
            pixels.clear();
            chosen.iter().for_each(|i| pixels.extend_from_slice(&set.pixels[i * image..][..image]));
            let embeds = self.encoder.encode_task(weights, &pixels, chosen.len())?;
            for (&i, embedding) in chosen.iter().zip(embeds.chunks_exact(width)) {
                let image = &set.images[i];
                let logits = &mut logits[image.logits.clone()];
                self.heads[image.task].logits(embedding, logits)?;
                logits.iter_mut().for_each(|z| *z /= self.temperature);
            }
            (self.progress)(chosen.len());
        }
        Ok(())
    }

    /// The logits of a set at these λ.
    pub(super) fn logits_at(&self, lambdas: &[f64], set: &Set) -> Result<Vec<f32>> {
        self.logits(&self.space.weights(self.model, lambdas, None)?, set)
    }

    /// What a set says of these λ.
    pub(super) fn measure(&self, lambdas: &[f64], set: &Set) -> Result<Measure> {
        Ok(set.measure(&self.logits_at(lambdas, set)?, self.objective))
    }

    /// What a set says where the images of each part are run with λ of its own.
    pub(super) fn validate(&self, of_folds: &[Vec<f64>], set: &Set) -> Result<Measure> {
        let mut logits = try_zeroed(set.logits)?;
        for (fold, lambdas) in of_folds.iter().enumerate() {
            let weights = self.space.weights(self.model, lambdas, None)?;
            self.run(&weights, set, &set.of_fold(fold), &mut logits)?;
        }
        Ok(set.measure(&logits, self.objective))
    }

    /// The logits of a set at these λ, and how they change along every axis in these of the active groups.
    pub(super) fn linearise(&self, lambdas: &[f64], groups: &[usize], set: &Set) -> Result<Slopes> {
        let axes = self.space.axes.len();
        let columns = groups.len() * axes;
        let count = columns.checked_mul(set.logits).ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        let logits = self.logits_at(lambdas, set)?;
        let mut jacobian: Vec<f32> = try_zeroed(count)?;
        for (g, &group) in groups.iter().enumerate() {
            for axis in 0..axes {
                let reach = self.space.reach(axis);
                if reach == 0.0 {
                    continue;
                }
                let step = STEP / reach;
                let weights = self.space.weights(self.model, lambdas, Some((group, axis, step)))?;
                let moved = self.logits(&weights, set)?;
                let column = jacobian.iter_mut().skip(g * axes + axis).step_by(columns);
                for ((slope, z), moved) in column.zip(&logits).zip(&moved) {
                    *slope = ((f64::from(*moved) - f64::from(*z)) / step) as f32;
                }
            }
        }
        Ok(Slopes { logits, jacobian, columns })
    }

    /// The objective over these images near other λ, where the logits of the set are these.
    pub(super) fn linear<'s>(&self, slopes: &'s Slopes, logits: Vec<f32>, images: Vec<Image>) -> Linear<'s> {
        let Slopes { jacobian, columns, .. } = slopes;
        let (objective, threads) = (self.objective, self.threads);
        Linear { images, logits, jacobian, columns: *columns, objective, threads }
    }
}

/// How the logits of a set change near some λ.
pub(super) struct Slopes {
    /// The logits there.
    pub(super) logits: Vec<f32>,
    /// A row per logit, a column per direction.
    jacobian: Vec<f32>,
    columns: usize,
}
