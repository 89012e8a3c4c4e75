//! The images that coefficients are fitted on: chosen, read and preprocessed once.

use taskbasis::fit::{FitImages, FitTask, choose_images, choose_shots};
use taskbasis::{Arch, Dataset, Head, OtherNames, Preprocess, Result, Split};

use super::options::Fit;
use crate::args::Session;
use crate::eval::labels;

/// What images are taken from.
pub(super) struct Source<'a> {
    pub(super) fit: &'a Fit,
    pub(super) session: &'a Session,
    pub(super) data: &'a Dataset,
    pub(super) preprocess: Preprocess,
    pub(super) arch: &'a Arch,
}

impl Source<'_> {
    /// The tasks that are asked for: those given, or all that have images.
    pub(super) fn tasks(&self) -> Result<Vec<String>> {
        match self.fit.tasks.as_slice() {
            [] => Ok(self.data.tasks_with(&self.fit.split)?.into_iter().map(String::from).collect()),
            tasks => Ok(tasks.to_vec()),
        }
    }

    /// The head of a task.
    pub(super) fn head(&self, task: &str) -> Result<Head> {
        self.fit.heads.head(self.session.bundle(), task, self.arch)
    }

    /// The labels of a split, as the head counts classes.
    pub(super) fn labels(&self, task: &str, head: &Head, split: &Split) -> Result<Vec<usize>> {
        let other_names = if self.fit.alphabetical { OtherNames::Alphabetical } else { OtherNames::Refuse };
        labels(head, split, other_names, task)
    }

    /// A task's head and the images that are chosen for it, and their places in the split.
    pub(super) fn chosen(&self, task: &str) -> Result<(FitTask, Vec<usize>)> {
        let head = self.head(task)?;
        let split = self.data.split(task, &self.fit.split)?;
        let (shots, seed) = (self.fit.shots, self.fit.seed);
        let (chosen, labels) = if self.fit.unlabelled {
            (choose_images(task, split.len(), shots.saturating_mul(head.num_classes()), seed)?, None)
        } else {
            let labels = self.labels(task, &head, &split)?;
            (choose_shots(task, &labels, shots, seed, |class| head.class_name(class))?, Some(labels))
        };
        let images = FitImages {
            pixels: split.preprocess_chosen(&self.preprocess, &chosen, self.fit.encoder.threads)?,
            labels: labels.map(|labels| chosen.iter().map(|&image| labels[image]).collect()),
        };
        Ok((FitTask { task: task.to_owned(), head, images }, chosen))
    }
}
