//! While ONNX Runtime records a CUDA graph, the driver refuses much of what any other thread asks it, memory among it,
//! and spoils the recording. So a recording excludes whatever else may ask the driver.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static CAPTURE: RwLock<()> = RwLock::new(());

/// Held while ONNX Runtime makes or runs a session. Never twice by one thread.
pub(super) fn shared() -> RwLockReadGuard<'static, ()> {
    CAPTURE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held during a run that may be recorded.
pub(super) fn exclusive() -> RwLockWriteGuard<'static, ()> {
    CAPTURE.write().unwrap_or_else(PoisonError::into_inner)
}
