//! Weights: immutable values, always computed from the untouched base.
//!
//! `weights = base + Σ_m a_m·s_m`, in one pass over what changes. What does not change is a view of the base.

mod arena;
mod batch_norm;
mod cache;
#[allow(unsafe_code)] // A contract with the streams of a GPU.
mod device;
mod finite;
mod layout;
mod model;
mod partial;
mod plan;
mod reconstruct;
mod rows;
mod save;
mod sum;
mod values;

pub(crate) use self::arena::BufferPool;
pub use self::batch_norm::BatchNorm;
pub(crate) use self::cache::{CacheLease, Derived, Holder, Key, Owner};
pub use self::cache::{CacheStats, Reconstructed, WeightsCache};
pub(crate) use self::device::DeviceLease;
pub use self::device::{DeviceModel, DeviceOptions, DeviceStats, DeviceTensor, DeviceWeights};
pub(crate) use self::finite::{first_of, not_finite};
pub use self::layout::{Layout, TensorSpec, View};
pub use self::model::{Model, ModelOptions, TaskWeights};
pub use self::plan::Scope;
pub(crate) use self::plan::check_models;
pub use self::reconstruct::ReconstructOptions;
pub(crate) use self::save::arrays_in_memory;
pub use self::save::save_arrays;
pub(crate) use self::save::save_stored;
pub use self::values::{Values, Weights};
