//! Coefficients found: the λ of every task and group of parameters, of a few images or of the vectors alone.
//!
//! Weights are linear in the λ, and the network is nearly so over the small distances that fine-tuning goes. [`fit`]
//! measures how every logit of the images changes with every λ, minimises the true objective (cross-entropy, or the
//! entropy of predictions where there are no labels) over the *linearised* logits, and looks what the images really
//! say of what comes out; then again from there. That takes a run of the images per direction, needs no gradients of
//! the network, and so serves whatever graph runs. [`closed_form`] needs no images: what it computes with are the
//! lengths of the task vectors. `docs/arithmetic.md` has formulas, sources and figures.
//!
//! ```no_run
//! use taskbasis::fit::{FitOptions, FitTask, fit};
//! use taskbasis::{EncoderOptions, Grouping, OpenModel, OpenOptions};
//!
//! # fn images() -> Vec<FitTask> { Vec::new() }
//! let opened = OpenModel::open("model.taskbasis", &OpenOptions::default())?;
//! let encoder = opened.encoder(&EncoderOptions::default())?;
//! let basis = opened.model().basis().unwrap();
//! let grouping = Grouping::per_layer(basis);
//! let found = fit(opened.model(), &encoder, images(), &grouping, &FitOptions::default(), &|_| {})?;
//! println!("{}", found.expr); // MNIST@{"visual.conv1.weight": 0.31, …} + …
//! # Ok::<(), taskbasis::Error>(())
//! ```

mod bench;
mod closed;
mod linear;
mod objective;
mod products;
mod search;
mod set;
mod shots;
mod space;

pub use closed::{ClosedForm, closed_form};
pub use objective::{Measure, Objective};
pub use products::Products;
pub use search::{Candidate, FitOptions, Fitted, SweepPoint, fit};
pub use set::{FitImages, FitTask};
pub use shots::{choose_images, choose_shots};
