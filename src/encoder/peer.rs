//! What tasks are compared with: a plain session on an .onnx file that holds its weights, as they are usually deployed.

use std::path::Path;

use ort::session::Session;

use super::provider::{self, Execution, Target, recording};
use super::runtime::Runtime;
use super::{EncoderOptions, failed, session};
use crate::error::{Error, Result};
use crate::onnx::OnnxFile;

/// A session on the file at `path` with ONNX Runtime's own settings: every optimisation, weights packed in advance. For
/// `taskbasis-bench` and tests.
///
/// Two things are not as ONNX Runtime would have them, so that it can be compared with an [`Encoder`](super::Encoder) in
/// one process: the number of threads, and that threads stop spinning when a run ends. Files with half floats do without
/// the layout that convolutions like best, as promoted tasks do.
///
/// # Errors
/// As [`Runtime::load`] and [`Runtime::check_provider`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind) for thousands
/// of threads; [`ErrorKind::Io`](crate::ErrorKind) when the file cannot be read; [`ErrorKind::Runtime`](crate::ErrorKind)
/// when ONNX Runtime refuses it.
#[doc(hidden)]
pub fn session_on_file(path: &Path, options: &EncoderOptions) -> Result<(Session, Execution)> {
    let (threads, _) = options.threads_a_run()?;
    let runtime = Runtime::load(options.runtime.as_deref())?;
    // ONNX Runtime's own message would be the same for a file that is missing and one that is damaged.
    std::fs::File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
    // A file that cannot be read here is left to ONNX Runtime to judge, with care.
    let has_halves = OnnxFile::open(path).map_or(true, |file| file.has_halves());
    let create = |target: &Target| {
        let doing = "cannot create a session on the file";
        let _turn = recording::with_others();
        let builder = Session::builder(runtime.environment())
            .map_err(failed(doing))?
            .with_intra_threads(threads)
            .map_err(failed(doing))?
            .with_config_entry("session.force_spinning_stop", "1")
            .map_err(failed(doing))?;
        let builder = session::for_frozen(builder, has_halves)?;
        // Engines have the weights in them.
        let session = target.register(runtime, builder, None)?.commit_from_file(path);
        session.map_err(failed(doing)).map_err(|e| target.explain(runtime, e).at(path))
    };
    let (session, target, mut execution) = provider::begin(runtime, options, create)?;
    execution.nodes = target.nodes(&session)?;
    Ok((session, execution))
}
