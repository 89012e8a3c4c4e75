//! Programs on the CUDA driver that has no GPU (`driver.cpp`).
#![allow(unreachable_pub)]

#[path = "mod.rs"]
mod cuda_host;

use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// The output of `command` where that driver, with these settings, is the only one. `None`, said aloud, where there is
/// none.
pub fn on_the_hosts_driver(command: &mut Command, settings: &[(&str, &str)]) -> Option<Output> {
    if !cfg!(all(feature = "cuda", target_os = "linux")) {
        crate::need::skip(crate::need::Need::Driver, "built without the feature `cuda`, or not for Linux");
        return None;
    }
    static FOLDER: Mutex<Option<Option<tempfile::TempDir>>> = Mutex::new(None);
    let mut folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder.get_or_insert_with(|| {
        let folder = tempfile::tempdir().unwrap();
        cuda_host::compile("driver.cpp", &folder.path().join("libcuda.so")).then_some(folder)
    });
    let folder = folder.as_ref()?.path();
    command.env("LD_LIBRARY_PATH", folder).envs(settings.iter().copied());
    Some(command.output().unwrap())
}
