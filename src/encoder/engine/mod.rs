//! What executes a run.

pub(super) mod cuda;
pub(super) mod slot;
