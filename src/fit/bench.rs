//! The images run with weights: logits, and how they change with each λ.

use std::sync::Arc;

use super::linear::Linear;
use super::objective::{Measure, Objective};
use super::set::Set;
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
    /// Images a run.
    pub(super) batch: usize,
    pub(super) threads: usize,
    /// Told how many more images were run.
    pub(super) progress: &'a dyn Fn(usize),
}

impl Bench<'_> {
    /// The logits of all images of a set.
    fn logits(&self, weights: &TaskWeights, set: &Set) -> Result<Vec<f32>> {
        // While these are held, every batch finds them, whatever the cache has room for.
        let _held = match self.encoder.execution().weights_on {
            WeightsOn::Host => Some(weights.in_layout(self.encoder.layout()).get()?),
            _ => None,
        };
        let (image, width) = (self.encoder.arch().pixels(), self.encoder.arch().embed_dim);
        let mut logits = try_zeroed(set.logits)?;
        let batches = set.images.chunks(self.batch).zip(set.pixels.chunks(self.batch * image));
        for (images, pixels) in batches {
            let embeds = self.encoder.encode_task(weights, pixels, images.len())?;
            for (image, embedding) in images.iter().zip(embeds.chunks_exact(width)) {
                self.heads[image.task].logits(embedding, &mut logits[image.logits.clone()])?;
            }
            (self.progress)(images.len());
        }
        Ok(logits)
    }

    /// What a set says of these λ.
    pub(super) fn measure(&self, lambdas: &[f64], set: &Set) -> Result<Measure> {
        let weights = self.space.weights(self.model, lambdas, None)?;
        Ok(set.measure(&self.logits(&weights, set)?, self.objective))
    }

    /// The logits of a set at these λ, and how they change along every axis in these of the active groups.
    pub(super) fn linearise<'s>(&self, lambdas: &[f64], groups: &[usize], set: &'s Set) -> Result<Linear<'s>> {
        let axes = self.space.axes.len();
        let columns = groups.len() * axes;
        let count = columns.checked_mul(set.logits).ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        let logits = self.logits(&self.space.weights(self.model, lambdas, None)?, set)?;
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
        Ok(Linear { set, logits, jacobian, columns, objective: self.objective, threads: self.threads })
    }
}
