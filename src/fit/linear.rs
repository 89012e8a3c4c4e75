//! The objective over linearised logits: its value and gradient for a step along the axes.

use super::objective::Objective;
use super::set::Image;
use crate::error::Result;
use crate::heads::head::dot;
use crate::kernel::share;

/// Images that a thread takes at a time. Each such piece has sums of its own, which are added in order, so that the
/// result has the same bits on any number of threads.
const PIECE: usize = 64;

/// Logits near some coefficients: `z + J·step`.
pub(super) struct Linear<'a> {
    /// Those of the images that the objective is of.
    pub(super) images: Vec<Image>,
    /// z
    pub(super) logits: Vec<f32>,
    /// J, a row per logit.
    pub(super) jacobian: &'a [f32],
    /// The length of a step.
    pub(super) columns: usize,
    pub(super) objective: Objective,
    pub(super) threads: usize,
}

/// The sums of a piece.
struct Piece<'a> {
    images: &'a [Image],
    value: &'a mut f64,
    gradient: &'a mut Vec<f64>,
}

impl Linear<'_> {
    /// The objective after a step, and its gradient.
    pub(super) fn at(&self, step: &[f64]) -> Result<(f64, Vec<f64>)> {
        let step: Vec<f32> = step.iter().map(|&s| s as f32).collect();
        let mut sums = vec![(0.0, Vec::new()); self.images.len().div_ceil(PIECE)];
        let pieces = self.images.chunks(PIECE).zip(&mut sums);
        let pieces = pieces.map(|(images, (value, gradient))| Piece { images, value, gradient }).collect();
        share(self.threads, pieces, |piece: Piece<'_>, slopes: &mut Vec<f32>| {
            self.add_up(piece, &step, slopes);
            Ok(())
        })?;
        let mut gradient = vec![0.0; self.columns];
        let value = sums.iter().map(|(value, _)| value).sum();
        for (_, part) in &sums {
            gradient.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        Ok((value, gradient))
    }

    fn add_up(&self, piece: Piece<'_>, step: &[f32], slopes: &mut Vec<f32>) {
        let mut gradient = vec![0.0f32; self.columns];
        for image in piece.images {
            let rows = || image.logits.clone().map(|row| &self.jacobian[row * self.columns..][..self.columns]);
            slopes.clear();
            slopes.extend(image.logits.clone().zip(rows()).map(|(row, slope)| self.logits[row] + dot(slope, step)));
            *piece.value += image.weight * self.objective.differentiate(slopes, image.label);
            for (row, slope) in rows().zip(slopes.iter()) {
                let slope = slope * image.weight as f32;
                gradient.iter_mut().zip(row).for_each(|(sum, row)| *sum += slope * row);
            }
        }
        *piece.gradient = gradient.into_iter().map(f64::from).collect();
    }
}
