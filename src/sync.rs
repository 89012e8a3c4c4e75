//! The locks, atomics and threads of what is model-checked. `models/` compiles the same sources with types in their
//! place that try out how threads may be interleaved.

pub(crate) use std::sync::atomic;
pub(crate) use std::thread;

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
