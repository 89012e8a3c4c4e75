//! Making a basis: from a base and T fine-tuned checkpoints to M vectors in the published layout.
//!
//! Everything that is chosen is chosen from the Gram matrix of the task vectors, T × T numbers: one pass over the
//! mapped checkpoints gives it ([`Family::gram`]), in f64. From it come the spectrum, the cosine similarities, every
//! method's coefficients and how well each task is recovered ([`Gram`], [`Fit`]); a second pass writes the vectors
//! ([`Family::write_basis`]). Neither needs more memory than a few tiles per thread and the output of one parameter.
//!
//! ```no_run
//! use taskbasis::build::{Family, Fit, WriteOptions};
//! use taskbasis::{Checkpoint, Scope};
//!
//! let tasks = ["MNIST", "SVHN", "Cars"].map(|task| Ok((task.to_owned(), Checkpoint::open(format!("{task}.pt"))?)));
//! let tasks = tasks.into_iter().collect::<Result<_, taskbasis::Error>>()?;
//! let family = Family::new(Checkpoint::open("zeroshot.pt")?, tasks, Scope::All)?;
//! let gram = family.gram(0, &|_| {})?;
//! let fit = Fit::autoencoder(&gram, 2, 0)?;
//! family.write_basis(&fit, "basis", &WriteOptions::default())?;
//! # Ok::<(), taskbasis::Error>(())
//! ```

mod activated;
mod autoencoder;
mod conditioning;
mod cost;
mod damped;
mod family;
mod fit;
mod folder;
mod gram;
mod merge;
mod random;
mod refit;
mod sample;
mod tile;

pub use activated::{Activation, AutoencoderForm};
pub use family::{Difference, Family, doubt};
pub use fit::Fit;
pub use folder::WriteOptions;
pub use gram::{Gram, GramPart};
pub use merge::{Dare, Merge, MergedVector, Reduce, Ties};
pub use refit::{Refit, RefitOptions, RefitTask, refit};
