//! The images that the reference validates on: a part of the training images, and of that, where it is asked for, a
//! sample. Image for image, where the data lies in the order that the reference reads it in.

use super::split::Split;
use crate::error::{Error, Result};
use crate::random::{python_sample, torch_permutation};

/// The share of the training images, and the most of them.
const VALIDATION: (f64, usize) = (0.1, 5000);
/// The seed of that part; the reference has no other.
const SEED: u32 = 0;

impl Split {
    /// Of training images, those that the reference validates on: a tenth, at most 5,000, the last of PyTorch's
    /// `random_split` by the seed 0.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for fewer than 10 images, or 2³² of them.
    pub fn reference_validation(self) -> Result<Self> {
        let (share, most) = VALIDATION;
        let count = ((self.len() as f64 * share) as usize).min(most);
        if count == 0 || u32::try_from(self.len()).is_err() {
            return Err(Error::invalid("a tenth of the images is to be set aside for validation")
                .at(&self.path)
                .expected("at least 10 images, and fewer than 2³²")
                .got(self.len()));
        }
        let order = torch_permutation(self.len(), SEED);
        self.chosen(&order[order.len() - count..])
    }

    /// The images that the reference validates on with `--subsample-eval`: `int(M / T * N)` of these N, Python's
    /// `random.sample` by this seed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where that is none, or M is above T.
    pub fn reference_sample(self, vectors: usize, tasks: usize, seed: u32) -> Result<Self> {
        let count = (vectors as f64 / tasks as f64 * self.len() as f64) as usize;
        if vectors > tasks || count == 0 {
            return Err(Error::invalid("a sample of M / T of the images")
                .at(&self.path)
                .expected("at most as many vectors as tasks, and at least one image in it")
                .got(format_args!("{vectors} vectors, {tasks} tasks, {} images", self.len())));
        }
        let places = python_sample(self.len(), count, seed);
        self.chosen(&places)
    }
}
