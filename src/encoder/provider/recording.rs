//! While ONNX Runtime records a CUDA graph, the driver refuses much of what any other thread asks it, memory among it,
//! and spoils the recording. So whoever records one is alone.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static RECORDING: RwLock<()> = RwLock::new(());

/// Held while ONNX Runtime makes a session or runs one. Never twice by one thread.
pub(in crate::encoder) fn with_others() -> RwLockReadGuard<'static, ()> {
    RECORDING.read()
}

/// Held while it runs one that it may record.
pub(in crate::encoder) fn alone() -> RwLockWriteGuard<'static, ()> {
    RECORDING.write()
}
