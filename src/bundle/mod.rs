//! The bundle: one file with everything that a device needs to run the tasks of a basis, and nothing else.
//!
//! The image tower of the base, the vectors (quantised, mostly) of the parameters that they change, the recovery table,
//! heads with their class names, architecture (or a user's graph, where that is all that is known of the encoder),
//! preprocessing: a valid safetensors file, checked by checksums, whose
//! layout `docs/bundle-format.md` draws byte by byte. [`Bundle`] opens one, [`Packer`] makes one of a basis folder,
//! [`BundleUpdate`] adds tasks and residuals to one, and takes tasks out.
//!
//! ```no_run
//! use taskbasis::Bundle;
//!
//! let bundle = Bundle::open("model.taskbasis")?;
//! println!("{}: {:?}", bundle.arch(), bundle.tasks());
//! # Ok::<(), taskbasis::Error>(())
//! ```

mod add_tasks;
mod alignment;
mod choose;
mod chunks;
mod computed;
mod contents;
mod encoder_record;
mod fingerprint;
mod format;
mod gate;
mod golden;
mod head_forms;
mod items;
mod keys;
mod low_rank;
mod measure;
mod merge_source;
mod merges;
mod names;
mod opened;
mod pack;
mod planner;
mod quantise;
mod reader;
mod recombination;
mod recombine;
mod remove;
mod same_model;
mod solve;
mod span;
mod stored_base;
mod task_fit;
mod verify;
mod writer;

pub(crate) use self::measure::Gram as VectorGram;
#[cfg(feature = "build")]
pub(crate) use self::recombination::Recombination;

pub use self::add_tasks::{BundleUpdate, NewTask};
pub use self::choose::Formats;
pub use self::fingerprint::Fingerprint;
pub use self::format::{Lambdas, VERSION};
pub use self::gate::{AccuracyMeasure, Floors, Gate, GateProgress, LabelledTask, PrecisionMeasure, TaskMeasure, Trial};
pub use self::measure::{RecoveryErrors, TaskRecoveryError};
pub use self::merge_source::{NewMerge, VectorSource};
pub use self::opened::{Bundle, SectionSize};
pub use self::pack::{BaseFormat, PackReport, Packer};
pub use self::planner::{ComparedImages, Planner};
pub use self::quantise::{StoredFormat, VectorFormat};
pub use self::task_fit::TaskFit;
