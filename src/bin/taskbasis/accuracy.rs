//! The accuracy of a task's weights on labelled images.

use taskbasis::{Encoder, Error, Head, Preprocess, Result, Split, TaskWeights};

/// The images that were counted.
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

/// Counts the images of data sets that an encoder classifies correctly.
pub struct Judge<'a> {
    pub encoder: &'a Encoder,
    pub preprocess: Preprocess,
    /// Images a run.
    pub batch: usize,
    pub threads: usize,
}

impl Judge<'_> {
    /// Classifies every image; `labels` are those of the split, as the head counts classes, and `done` is told how many
    /// more are done.
    pub fn accuracy(
        &self,
        task: &str,
        weights: &TaskWeights,
        head: &Head,
        split: &Split,
        labels: &[usize],
        mut done: impl FnMut(usize),
    ) -> Result<Accuracy> {
        if split.is_empty() {
            return Err(Error::format("a split without images"));
        }
        let mut right = 0;
        for start in (0..split.len()).step_by(self.batch) {
            let batch = start..split.len().min(start + self.batch);
            let pixels = split.preprocess(&self.preprocess, batch.clone(), self.threads)?;
            right += count_right(self.encoder, weights, head, &pixels, &labels[batch.clone()])?;
            done(batch.len());
        }
        Ok(Accuracy { task: task.to_owned(), right, images: split.len() })
    }
}

/// Counts those of the images, [n, 3, S, S], that belong to the class that the head finds first.
pub fn count_right(
    encoder: &Encoder,
    weights: &TaskWeights,
    head: &Head,
    pixels: &[f32],
    labels: &[usize],
) -> Result<usize> {
    let embeds = encoder.encode_task(weights, pixels, labels.len())?;
    let mut right = 0;
    for (embedding, &label) in embeds.chunks_exact(encoder.arch().embed_dim).zip(labels) {
        right += usize::from(head.classify(embedding, 1)?.first().is_some_and(|best| best.class == label));
    }
    Ok(right)
}
