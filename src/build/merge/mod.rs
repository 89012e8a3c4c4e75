//! Merged vectors: one vector that stands for T task vectors, computed by the merging literature's rules.
//!
//! A merge is computed from the task vectors τ_t = fine-tuned − base, a parameter at a time over the mapped
//! checkpoints; what is in memory is that parameter's merged values, and for the rules that look at matrices a few
//! matrices of its size. Each rule has a file of its own, which names the paper that its formula is from. Sums are f64
//! and rounded once, in an order that does not depend on the number of threads: neither do the bits.
//!
//! Which rules treat a parameter as a matrix: those of singular values (TSV-M, Iso-C, Iso-CTS) every parameter of two
//! dimensions but `text_projection`, WUDI the linear layers of attention and MLPs. For everything else (biases, norms,
//! the patch embedding of four dimensions, the class embedding) their authors' programs take the mean of the task
//! vectors, and so do these. A parameter that no task changes is zero in every merge.
//!
//! ```no_run
//! use taskbasis::build::{Family, Merge};
//! use taskbasis::{Checkpoint, Scope};
//!
//! let tasks = ["MNIST", "SVHN"].map(|task| Ok((task.to_owned(), Checkpoint::open(format!("{task}.pt"))?)));
//! let tasks = tasks.into_iter().collect::<Result<_, taskbasis::Error>>()?;
//! let family = Family::new(Checkpoint::open("zeroshot.pt")?, tasks, Scope::All)?;
//! let gram = family.gram(0, &|_| {})?;
//! let merge: Merge = "ties:keep=0.2".parse()?;
//! family.merge(&gram, &merge, 0)?.write_checkpoint(1.0, "merged.safetensors", &[], &|_| {})?;
//! # Ok::<(), taskbasis::Error>(())
//! ```

mod dare;
mod elementwise;
mod file;
mod iso;
mod magmax;
mod masks;
mod matrix;
mod merged;
mod options;
mod rule;
mod select;
mod stock;
mod ties;
mod tsv;
mod wudi;

pub use dare::Dare;
pub use merged::MergedVector;
pub use options::Merge;
pub use ties::{Reduce, Ties};
