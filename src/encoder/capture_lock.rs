//! The lock of CUDA graph captures. While ONNX Runtime records one, the driver refuses much of what other threads ask
//! it, memory among it, and spoils the recording. So a recording excludes whatever else may ask the driver.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static CAPTURE: RwLock<()> = RwLock::new(());

/// Held while ONNX Runtime makes or runs a session. Never twice by one thread.
pub(super) fn shared() -> RwLockReadGuard<'static, ()> {
    CAPTURE.read()
}

/// Held during a run that may be recorded.
pub(super) fn exclusive() -> RwLockWriteGuard<'static, ()> {
    CAPTURE.write()
}
