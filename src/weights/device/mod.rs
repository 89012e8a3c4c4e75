//! Weights in device memory: base and basis are brought there once, and tasks are reconstructed where they run.
//!
//! `model.rs` is a model on a device, `lease.rs` what keeps it there. `inputs.rs` is what of base and basis stays on
//! the device (`budget.rs` decides how much), `upload.rs` how it gets there, `stream.rs` how the rest passes through.
//! `added.rs` is what a task adds, `weights.rs` the weights of a task, `arena.rs` their memory, `cache.rs` which of
//! them are kept, and `layout.rs` the layout of a user's graph that they are in.

mod added;
mod arena;
mod budget;
mod cache;
mod inputs;
mod layout;
mod lease;
mod model;
mod stream;
#[cfg(test)]
mod tests;
mod upload;
mod weights;

pub(crate) use self::lease::DeviceLease;
pub use self::model::{DeviceModel, DeviceOptions, DeviceStats};
pub use self::weights::{DeviceTensor, DeviceWeights};
