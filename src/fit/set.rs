//! The images that coefficients are fitted on, those of all tasks one after the other.

use std::ops::Range;

use super::objective::{Measure, Objective};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::tensor::try_with_room;

/// One task's head and images.
#[derive(Debug)]
pub struct FitTask {
    /// Its name in the basis.
    pub task: String,
    /// Its head, for embeddings of the encoder.
    pub head: Head,
    /// Coefficients are fitted on these.
    pub training: FitImages,
    /// The best of several are chosen on these.
    pub validation: FitImages,
}

/// Preprocessed images of one task.
#[derive(Debug, Default)]
pub struct FitImages {
    /// f32 [n, 3, S, S].
    pub pixels: Vec<f32>,
    /// The class of each, as the head counts them; `None` where they are not known.
    pub labels: Option<Vec<usize>>,
}

/// Images of several tasks.
#[derive(Debug)]
pub(super) struct Set {
    /// f32 [n, 3, S, S].
    pub(super) pixels: Vec<f32>,
    pub(super) images: Vec<Image>,
    /// The number of all logits.
    pub(super) logits: usize,
}

/// One image of a [`Set`].
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) task: usize,
    pub(super) label: Option<usize>,
    /// Its logits among those of all.
    pub(super) logits: Range<usize>,
    /// Its share in the mean over the tasks.
    pub(super) weight: f64,
}

impl Set {
    /// The images of each task, with its head; `image` values in one.
    pub(super) fn new(tasks: Vec<(&str, &Head, FitImages)>, image: usize, objective: Objective) -> Result<Self> {
        let values = tasks.iter().map(|(_, _, images)| images.pixels.len()).sum();
        let mut set = Self { pixels: try_with_room(values)?, images: Vec::new(), logits: 0 };
        let count = tasks.len();
        for (at, (task, head, images)) in tasks.into_iter().enumerate() {
            let n = images.pixels.len() / image;
            if n == 0 || n * image != images.pixels.len() {
                return Err(Error::invalid(format!("the images of task `{task}` have the wrong size"))
                    .expected(format_args!("n·{image} values, of one image at least"))
                    .got(images.pixels.len()));
            }
            match &images.labels {
                None if objective == Objective::CrossEntropy => {
                    return Err(Error::invalid(format!("the images of task `{task}` have no labels"))
                        .hint("The entropy of predictions needs none (Objective::Entropy, --unlabelled)"));
                }
                Some(labels) if labels.len() != n => {
                    return Err(Error::invalid(format!("images and labels of task `{task}` differ in number"))
                        .expected(n)
                        .got(labels.len()));
                }
                Some(labels) => drop(head.check_labels(labels)?),
                None => {}
            }
            let classes = head.num_classes();
            for i in 0..n {
                let logits = set.logits..set.logits + classes;
                set.logits = logits.end;
                let label = images.labels.as_ref().map(|labels| labels[i]);
                set.images.push(Image { task: at, label, logits, weight: 1.0 / (n * count) as f64 });
            }
            set.pixels.extend(images.pixels);
        }
        Ok(set)
    }

    /// What these logits come to.
    pub(super) fn measure(&self, logits: &[f32], objective: Objective) -> Measure {
        let (mut loss, mut right, mut labelled) = (0.0, 0.0, !self.images.is_empty());
        for image in &self.images {
            let own = &logits[image.logits.clone()];
            match image.label {
                // The first of several that are equally large, as heads rank them.
                Some(label) => {
                    let is_first = |(class, &z): (usize, &f32)| z < own[label] || (z == own[label] && class >= label);
                    right += image.weight * f64::from(u8::from(own.iter().enumerate().all(is_first)));
                }
                None => labelled = false,
            }
            loss += image.weight * objective.differentiate(&mut own.to_vec(), image.label);
        }
        Measure { loss, accuracy: labelled.then_some(right) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_images_then_tasks() {
        let head = Head::new(vec![1.0; 6], vec![0.0; 2]).unwrap();
        let images = |n: usize, labels: &[usize]| FitImages { pixels: vec![0.0; n], labels: Some(labels.to_vec()) };
        let tasks = vec![("A", &head, images(1, &[0])), ("B", &head, images(3, &[0, 1, 1]))];
        let set = Set::new(tasks, 1, Objective::CrossEntropy).unwrap();
        assert_eq!((set.logits, set.images.len()), (8, 4));
        // A's one is right; of B's, a tie that the first class wins, one right and one wrong.
        let logits = [1.0, 0.0, 0.5, 0.5, 0.0, 2.0, 3.0, 0.0];
        let measure = set.measure(&logits, Objective::CrossEntropy);
        assert!((measure.accuracy.unwrap() - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        let lost = |difference: f64| (1.0 + (-difference).exp()).ln();
        let expected = (lost(1.0) + (lost(0.0) + lost(2.0) + lost(-3.0)) / 3.0) / 2.0;
        assert!((measure.loss - expected).abs() < 1e-7);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let head = Head::new(vec![1.0; 6], vec![0.0; 2]).unwrap();
        let error = |pixels: usize, labels: Option<Vec<usize>>| {
            let tasks = vec![("A", &head, FitImages { pixels: vec![0.0; pixels], labels })];
            Set::new(tasks, 2, Objective::CrossEntropy).unwrap_err().to_string()
        };
        assert!(error(3, None).contains("the wrong size"));
        assert!(error(0, None).contains("the wrong size"));
        assert!(error(4, None).contains("no labels"));
        assert!(error(4, Some(vec![0])).contains("differ in number"));
        assert!(error(4, Some(vec![0, 7])).contains('7'));
    }
}
