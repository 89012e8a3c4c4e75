//! How often a task's weights are right on labelled images.

use taskbasis::{Encoder, Error, Head, Preprocess, Result, Split, Weights};

/// What was counted.
pub struct Accuracy {
    pub task: String,
    pub right: usize,
    pub images: usize,
}

impl Accuracy {
    pub fn share(&self) -> f64 {
        self.right as f64 / self.images.max(1) as f64
    }
}

/// Whoever counts.
pub struct Judge<'a> {
    pub encoder: &'a Encoder,
    pub preprocess: Preprocess,
    /// Images a run.
    pub batch: usize,
    pub threads: usize,
}

impl Judge<'_> {
    /// Classifies every image; `done` is told how many more are done.
    pub fn accuracy(
        &self,
        task: &str,
        weights: &Weights,
        head: &Head,
        split: &Split,
        mut done: impl FnMut(usize),
    ) -> Result<Accuracy> {
        if split.is_empty() {
            return Err(Error::format("a split without images"));
        }
        let labels = head.check_labels(split.labels())?;
        let width = self.encoder.arch().embed_dim;
        let mut right = 0;
        for start in (0..split.len()).step_by(self.batch) {
            let batch = start..split.len().min(start + self.batch);
            let images = batch.clone().map(|i| split.image(i)).collect::<Result<Vec<_>>>()?;
            let pixels = self.preprocess.images(&images, self.threads)?;
            let embeds = self.encoder.encode(weights, &pixels, batch.len())?;
            for (embedding, &label) in embeds.chunks_exact(width).zip(&labels[batch.clone()]) {
                right += usize::from(head.classify(embedding, 1)?.first().is_some_and(|best| best.class == label));
            }
            done(batch.len());
        }
        Ok(Accuracy { task: task.to_owned(), right, images: split.len() })
    }
}
