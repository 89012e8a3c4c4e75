//! What is minimised: of one image's logits, and in the mean over images and tasks.

use serde::Serialize;

/// The function of the logits that is minimised, in the mean over the images of each task, and over the tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// −ln p of the image's class, p being the softmax of the logits.
    #[default]
    CrossEntropy,
    /// −Σ p·ln p: how undecided the prediction is. Needs no labels (AdaMerging, arXiv 2310.02575).
    Entropy,
}

impl Objective {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::Entropy => "entropy",
        }
    }

    /// The value for one image, whose logits are replaced by the derivatives with respect to them.
    ///
    /// `label` is a class of these logits where the objective is the cross-entropy.
    pub(super) fn differentiate(self, logits: &mut [f32], label: Option<usize>) -> f64 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&z| f64::from(z - max).exp()).sum();
        let log_sum = sum.ln();
        let log_p = |z: f32| f64::from(z - max) - log_sum;
        match (self, label) {
            (Self::CrossEntropy, Some(label)) => {
                let value = -log_p(logits[label]);
                logits.iter_mut().for_each(|z| *z = log_p(*z).exp() as f32);
                logits[label] -= 1.0;
                value
            }
            // Without a label there is nothing that an image could say against a prediction.
            (Self::CrossEntropy, None) => {
                logits.fill(0.0);
                0.0
            }
            (Self::Entropy, _) => {
                let value: f64 = -logits.iter().map(|&z| log_p(z).exp() * log_p(z)).sum::<f64>();
                logits.iter_mut().for_each(|z| *z = (-log_p(*z).exp() * (log_p(*z) + value)) as f32);
                value
            }
        }
    }
}

/// What images say of some coefficients: means over the tasks of the means over their images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// The objective.
    pub loss: f64,
    /// The share of images whose class has the largest logit; `None` without labels.
    pub accuracy: Option<f64>,
}

impl Measure {
    /// Whether it is better than another: by accuracy where there are labels, else, and where that is equal, by loss.
    pub fn is_better_than(&self, other: &Self) -> bool {
        match (self.accuracy, other.accuracy) {
            (Some(own), Some(others)) if own != others => own > others,
            _ => self.loss < other.loss,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_are_those_of_the_value() {
        let logits = [0.3f32, -1.2, 2.0, 0.7];
        for (objective, label) in [(Objective::CrossEntropy, Some(1)), (Objective::Entropy, None)] {
            let value = |logits: &[f32]| objective.differentiate(&mut logits.to_vec(), label);
            let mut slopes = logits;
            objective.differentiate(&mut slopes, label);
            for i in 0..logits.len() {
                let at = |step: f32| {
                    let mut moved = logits;
                    moved[i] += step;
                    value(&moved)
                };
                let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!((slope - f64::from(slopes[i])).abs() < 1e-4, "{objective:?}: {slope}, {slopes:?}");
            }
        }
    }

    #[test]
    fn values_are_those_of_the_formulas() {
        // Two classes with p = 1/4 and 3/4.
        let logits = [0.0f32, 3f32.ln()];
        let entropy = Objective::Entropy.differentiate(&mut logits.clone(), None);
        assert!((entropy - (0.25 * 4f64.ln() + 0.75 * (4.0f64 / 3.0).ln())).abs() < 1e-7);
        let cross = Objective::CrossEntropy.differentiate(&mut logits.clone(), Some(0));
        assert!((cross - 4f64.ln()).abs() < 1e-7);
        // Far from what exp can hold.
        let mut large = [1e4f32, -1e4];
        assert!((Objective::CrossEntropy.differentiate(&mut large, Some(1)) - 2e4).abs() < 1e-3);
        assert_eq!(large, [1.0, -1.0]);
    }

    #[test]
    fn accuracy_comes_before_loss() {
        let of = |loss, accuracy| Measure { loss, accuracy };
        assert!(of(2.0, Some(0.9)).is_better_than(&of(1.0, Some(0.8))));
        assert!(of(1.0, Some(0.8)).is_better_than(&of(2.0, Some(0.8))));
        assert!(!of(1.0, None).is_better_than(&of(1.0, None)));
        assert!(of(0.5, None).is_better_than(&of(1.0, None)));
    }
}
