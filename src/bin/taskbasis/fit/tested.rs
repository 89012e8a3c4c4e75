//! Accuracies on a split that fitting never saw.

/// Accuracies on images that fitting has not seen.
pub(super) struct Tested {
    pub(super) split: String,
    pub(super) tasks: Vec<String>,
    /// What the weights are called, and a share for each task.
    pub(super) shares: Vec<(&'static str, Vec<f64>)>,
}
