//! Classes in words: the best ones of an embedding, their names, labels.

use std::path::Path;

use super::class_lists::class_names;
use super::head::{Head, top_k};
use crate::error::{Error, Result};
use crate::tensor::try_zeroed;

/// A class and how likely it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The class, counted from 0.
    pub class: usize,
    /// Its logit.
    pub logit: f32,
    /// What the head's [`ScoreFunction`](super::ScoreFunction) makes of all logits.
    pub probability: f32,
}

impl Head {
    /// The `k` best classes of one embedding, the best first; all of them where there are fewer.
    ///
    /// # Errors
    /// As [`Head::logits`].
    pub fn classify(&self, embedding: &[f32], k: usize) -> Result<Vec<Score>> {
        let mut values = try_zeroed(self.num_classes())?;
        self.logits(embedding, &mut values)?;
        Ok(self.rank(&mut values, k))
    }

    /// The `k` best classes of the embedding with these logits, which become probabilities.
    pub(crate) fn rank(&self, logits: &mut [f32], k: usize) -> Vec<Score> {
        let best = top_k(logits, k);
        self.function().apply(logits);
        best.into_iter().map(|(class, logit)| Score { class, logit, probability: logits[class] }).collect()
    }

    /// The name of a class; its number where the head knows no names.
    pub fn class_name(&self, class: usize) -> String {
        self.classes().get(class).cloned().unwrap_or_else(|| class.to_string())
    }

    /// Names the classes as the JSON file at `path` does for `task`; see [`class_names`].
    ///
    /// # Errors
    /// As [`class_names`] and [`Head::with_classes`].
    pub fn with_class_names(self, path: impl AsRef<Path>, task: &str) -> Result<Self> {
        let path = path.as_ref();
        self.with_classes(class_names(path, task)?).map_err(|e| e.at(path).tensor(task))
    }

    /// The labels, if each is one of the head's classes.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) with the first that is not.
    pub fn check_labels<'a>(&self, labels: &'a [usize]) -> Result<&'a [usize]> {
        match labels.iter().position(|&label| label >= self.num_classes()) {
            None => Ok(labels),
            Some(at) => Err(Error::mismatch(format!("the label of image {at} is no class of the head"))
                .expected(format_args!("a label below {}", self.num_classes()))
                .got(labels[at])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_classes_with_their_shares() {
        let head = Head::new(vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0], vec![0.0, 0.0, -0.5]).unwrap();
        let best = head.classify(&[3.0, 4.0], 2).unwrap();
        assert_eq!(best.iter().map(|s| s.class).collect::<Vec<_>>(), [2, 1]);
        assert!((best[0].logit - 0.9).abs() < 1e-6 && (best[1].logit - 0.8).abs() < 1e-6);
        let total: f64 = [0.6f64, 0.8, 0.9].map(f64::exp).iter().sum();
        assert!((f64::from(best[0].probability) - 0.9f64.exp() / total).abs() < 1e-6);
        assert_eq!(head.classify(&[3.0, 4.0], 9).unwrap().len(), 3);
        assert_eq!(head.class_name(1), "1");
    }

    #[test]
    fn a_label_beyond_the_head_is_an_error() {
        let head = Head::new(vec![1.0, 2.0], vec![0.0, 0.0]).unwrap();
        assert_eq!(head.check_labels(&[0, 1]).unwrap(), [0, 1]);
        assert!(head.check_labels(&[0, 2]).unwrap_err().to_string().contains("image 1"));
    }
}
