//! The images that coefficients are fitted on, those of all tasks one after the other.

use std::collections::HashMap;
use std::ops::Range;

use super::objective::{Measure, Objective};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::tensor::try_with_room;

/// The largest temperature that is tried.
const MAX_TEMPERATURE: f64 = 10.0;

/// One task's head and images.
#[derive(Debug)]
pub struct FitTask {
    /// Its name in the basis.
    pub task: String,
    /// Its head, for embeddings of the encoder.
    pub head: Head,
    /// What coefficients are fitted on, and, in parts that are held out in turn, validated by.
    pub images: FitImages,
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
    /// The number of parts that are held out in turn.
    pub(super) folds: usize,
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
    /// The part that it is held out with.
    pub(super) fold: usize,
}

impl Set {
    /// The images of each task, with its head; `image` values in one. Of every class each of at most `folds` parts has
    /// about as many.
    pub(super) fn new(
        tasks: Vec<(&str, &Head, FitImages)>,
        image: usize,
        objective: Objective,
        folds: usize,
    ) -> Result<Self> {
        let values = tasks.iter().map(|(_, _, images)| images.pixels.len()).sum();
        let mut set = Self { pixels: try_with_room(values)?, images: Vec::new(), logits: 0, folds: 0 };
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
            let mut of_class: HashMap<Option<usize>, usize> = HashMap::new();
            for i in 0..n {
                let logits = set.logits..set.logits + classes;
                set.logits = logits.end;
                let label = images.labels.as_ref().map(|labels| labels[i]);
                let seen = of_class.entry(label).or_default();
                let fold = *seen % folds;
                *seen += 1;
                set.folds = set.folds.max(fold + 1);
                set.images.push(Image { task: at, label, logits, weight: 1.0 / (n * count) as f64, fold });
            }
            set.pixels.extend(images.pixels);
        }
        if set.folds < 2 {
            return Err(Error::invalid("too few images to hold any out")
                .expected("two parts, and two images of a class at least")
                .got(format_args!("{folds} parts, of a class at most one image each")));
        }
        Ok(set)
    }

    /// The places of the images of one part.
    pub(super) fn of_fold(&self, fold: usize) -> Vec<usize> {
        (0..self.images.len()).filter(|&i| self.images[i].fold == fold).collect()
    }

    /// The images without those of a part, each with its share in the mean over those that are left; all without one.
    pub(super) fn without(&self, held_out: Option<usize>) -> Vec<Image> {
        let left = self.images.iter().filter(|image| Some(image.fold) != held_out);
        let mut images: Vec<Image> = left.cloned().collect();
        let tasks = self.images.last().map_or(0, |last| last.task + 1);
        let mut counts = vec![0usize; tasks];
        images.iter().for_each(|image| counts[image.task] += 1);
        images.iter_mut().for_each(|image| image.weight = 1.0 / (counts[image.task] * tasks) as f64);
        images
    }

    /// What these logits are to be divided by so that their probabilities are about what they say, in hundredths: the
    /// number with the least cross-entropy (temperature scaling: Guo and others, 2017), from 1 to [`MAX_TEMPERATURE`].
    /// 1 where there are no labels to tell.
    pub(super) fn temperature(&self, logits: &[f32], objective: Objective) -> f32 {
        if objective != Objective::CrossEntropy {
            return 1.0;
        }
        let loss = |log: f64| {
            let temperature = log.exp() as f32;
            let softened: Vec<f32> = logits.iter().map(|z| z / temperature).collect();
            self.measure(&softened, objective).loss
        };
        // The loss is convex in 1/τ, so it has one valley, and a golden section search over ln τ ends in it.
        let ratio = (5.0f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) = (0.0, MAX_TEMPERATURE.ln());
        for _ in 0..24 {
            let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
            if loss(a) <= loss(b) {
                high = b;
            } else {
                low = a;
            }
        }
        ((100.0 * (0.5 * (low + high)).exp()).round() / 100.0) as f32
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
        let set = Set::new(tasks, 1, Objective::CrossEntropy, 4).unwrap();
        assert_eq!((set.logits, set.images.len(), set.folds), (8, 4, 2));
        // Images of a class go to one part after another; means of what is left are again over images, then tasks.
        assert_eq!((set.of_fold(0), set.of_fold(1)), (vec![0, 1, 2], vec![3]));
        let weights = |held_out| set.without(held_out).iter().map(|image| image.weight).collect::<Vec<_>>();
        assert_eq!(weights(Some(1)), [0.5, 0.25, 0.25]);
        assert_eq!(weights(None), set.images.iter().map(|image| image.weight).collect::<Vec<_>>());
        // A's one is right; of B's, a tie that the first class wins, one right and one wrong.
        let logits = [1.0, 0.0, 0.5, 0.5, 0.0, 2.0, 3.0, 0.0];
        let measure = set.measure(&logits, Objective::CrossEntropy);
        assert!((measure.accuracy.unwrap() - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        let lost = |difference: f64| (1.0 + (-difference).exp()).ln();
        let expected = (lost(1.0) + (lost(0.0) + lost(2.0) + lost(-3.0)) / 3.0) / 2.0;
        assert!((measure.loss - expected).abs() < 1e-7);
    }

    #[test]
    fn what_is_too_sure_is_softened() {
        let head = Head::new(vec![1.0; 6], vec![0.0; 2]).unwrap();
        let images = FitImages { pixels: vec![0.0; 4], labels: Some(vec![0, 0, 0, 1]) };
        let set = Set::new(vec![("A", &head, images)], 1, Objective::CrossEntropy, 2).unwrap();
        // Three of four are right, which logits say that are ln 3 apart.
        let logits = |factor: f32| [factor * 3f32.ln(), 0.0].repeat(4);
        assert_eq!(set.temperature(&logits(2.0), Objective::CrossEntropy), 2.0);
        assert_eq!(set.temperature(&logits(0.5), Objective::CrossEntropy), 1.0);
        assert_eq!(set.temperature(&logits(2.0), Objective::Entropy), 1.0);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let head = Head::new(vec![1.0; 6], vec![0.0; 2]).unwrap();
        let error = |pixels: usize, labels: Option<Vec<usize>>| {
            let tasks = vec![("A", &head, FitImages { pixels: vec![0.0; pixels], labels })];
            Set::new(tasks, 2, Objective::CrossEntropy, 4).unwrap_err().to_string()
        };
        assert!(error(3, None).contains("the wrong size"));
        assert!(error(0, None).contains("the wrong size"));
        assert!(error(4, None).contains("no labels"));
        assert!(error(4, Some(vec![0])).contains("differ in number"));
        assert!(error(4, Some(vec![0, 7])).contains('7'));
        assert!(error(4, Some(vec![0, 1])).contains("too few images to hold any out"));
    }
}
