//! The peer that taskbasis is compared with: a task's weights in an `.onnx` file of its own, and a session on it.

use std::path::{Path, PathBuf};

use taskbasis::onnx::BoundGraph;
use taskbasis::{Error, Result, TaskExpr, write_onnx};

use super::Setup;
use super::onnx_file::OnnxFileEncoder;

/// A task's own `.onnx`, in a temporary folder that goes with it.
pub struct FrozenFile {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl FrozenFile {
    /// Reconstructs the task and writes it. The file is in the page cache then.
    pub fn write(setup: &Setup<'_>, task: &TaskExpr) -> Result<Self> {
        let weights = setup.family.open(setup.threads, 0)?.weights(task)?.get()?;
        Self::with(|path| write_onnx(&setup.about.arch, &weights, path, &[]))
    }

    /// Reconstructs the task in a user's graph and writes that.
    pub fn of_graph(setup: &Setup<'_>, graph: &BoundGraph, task: &TaskExpr) -> Result<Self> {
        let weights = setup.family.open(setup.threads, 0)?.weights(task)?.in_layout(graph.layout()).get()?;
        Self::with(|path| graph.write(&weights, path, &[]))
    }

    fn with(write: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("cannot make", std::env::temp_dir(), e))?;
        let path = folder.path().join("task.onnx");
        write(&path)?;
        // Not to be written back while something is measured.
        let written = std::fs::File::open(&path).and_then(|file| file.sync_all());
        written.map_err(|e| Error::io("cannot write back", &path, e))?;
        Ok(Self { path, _folder: folder })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A session on it, as many threads as taskbasis has.
    pub fn open(&self, setup: &Setup<'_>) -> Result<OnnxFileEncoder> {
        OnnxFileEncoder::open(&self.path, &setup.encoder)
    }
}
