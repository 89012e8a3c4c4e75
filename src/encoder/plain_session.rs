//! The peer that tasks are compared with: a plain session on an .onnx file that holds its weights, as they are usually
//! deployed.

use std::path::Path;

use ort::session::Session;

use super::options::EncoderOptions;
use super::provider::{self, Execution};
use crate::error::Result;
use crate::mmap::{MapMode, Mapping};
use crate::onnx::OnnxFile;

/// A session on the file at `path` with ONNX Runtime's own settings: every optimisation, weights packed in advance. For
/// `taskbasis-bench` and tests.
///
/// Two things are not as ONNX Runtime would have them, so that it can be compared with an [`Encoder`](super::Encoder)
/// in one process: the number of threads, and that threads stop spinning when a run ends. Files with half floats do
/// without the layout that convolutions like best, as promoted tasks do.
///
/// # Errors
/// As [`Runtime::load`](super::Runtime::load) and [`Runtime::check_provider`](super::Runtime::check_provider); [`ErrorKind::InvalidArgument`](crate::ErrorKind) for more
/// than [`max_threads`](crate::kernel::max_threads); [`ErrorKind::Io`](crate::ErrorKind) when the file cannot be read; [`ErrorKind::Runtime`](crate::ErrorKind)
/// when ONNX Runtime refuses it.
#[doc(hidden)]
pub fn session_on_file(path: &Path, options: &EncoderOptions) -> Result<(Session, Execution)> {
    // ONNX Runtime's own message would be the same for a file that is missing and one that is damaged.
    Mapping::open(path, MapMode::Map)?;
    // A file that cannot be read here is left to ONNX Runtime to judge, with care.
    let has_halves = OnnxFile::open(path).map_or(true, |file| file.has_halves());
    let (session, _, mut execution) = provider::begin(options, |setup| setup.open_file(path, has_halves))?;
    execution.nodes = session.nodes()?;
    Ok((session.into_inner(), execution))
}
