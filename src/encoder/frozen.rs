//! A plain session on an .onnx file that holds its weights: how tasks are usually deployed, one file and one session
//! each. Benchmarks compare with it, and exports are checked with it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::options::EncoderOptions;
use super::ort_error::failed;
use super::provider::{self, Execution};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::OnnxFile;
use crate::tensor::try_zeroed;

/// A plain session on a file. Goes to the bench member.
pub struct FrozenEncoder {
    path: PathBuf,
    execution: Execution,
    output: String,
    threads: usize,
    /// `[3, S, S]`.
    image: [usize; 3],
    embed_dim: usize,
    session: Mutex<Session>,
}

/// A session on the file at `path` with ONNX Runtime's own settings: every optimisation, weights packed in advance. For
/// `taskbasis-bench` and tests.
///
/// Two things are not as ONNX Runtime would have them, so that it can be compared with an [`Encoder`](super::Encoder) in
/// one process: the number of threads, and that threads stop spinning when a run ends. Files with half floats do without
/// the layout that convolutions like best, as promoted tasks do.
///
/// # Errors
/// As [`Runtime::load`](super::Runtime::load) and [`Runtime::check_provider`](super::Runtime::check_provider);
/// [`ErrorKind::InvalidArgument`] for thousands of threads; [`ErrorKind::Io`] when the file cannot be read;
/// [`ErrorKind::Runtime`] when ONNX Runtime refuses it.
#[doc(hidden)]
pub fn session_on_file(path: &Path, options: &EncoderOptions) -> Result<(Session, Execution)> {
    // ONNX Runtime's own message would be the same for a file that is missing and one that is damaged.
    std::fs::File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
    // A file that cannot be read here is left to ONNX Runtime to judge, with care.
    let has_halves = OnnxFile::open(path).map_or(true, |file| file.has_halves());
    let (session, _, mut execution) = provider::begin(options, |setup| setup.open_file(path, has_halves))?;
    execution.nodes = session.nodes()?;
    Ok((session.into_inner(), execution))
}

impl FrozenEncoder {
    /// Opens a session on the file.
    ///
    /// # Errors
    /// As [`session_on_file`]; [`ErrorKind::Unsupported`] for other inputs or outputs.
    pub fn open(path: impl AsRef<Path>, options: &EncoderOptions) -> Result<Self> {
        let path = path.as_ref();
        let (session, execution) = session_on_file(path, options)?;
        let (_, pixels) = tensor(session.inputs(), "inputs", path)?;
        let (output, embeds) = tensor(session.outputs().get(..1).unwrap_or_default(), "outputs", path)?;
        let extent = |shape: &[i64], axis: usize| shape.get(axis).and_then(|&extent| usize::try_from(extent).ok());
        let image = match pixels.len() {
            4 => [1, 2, 3].map(|axis| extent(&pixels, axis)),
            _ => [None; 3],
        };
        let [Some(3), Some(height), Some(width)] = image else {
            return Err(unsupported(path, "its input is not images", "[batch, 3, S, S]", &pixels));
        };
        let Some(embed_dim) = extent(&embeds, 1).filter(|_| embeds.len() == 2) else {
            return Err(unsupported(path, "its output is not embeddings", "[batch, e]", &embeds));
        };
        let (threads, _) = options.threads_per_run()?;
        let (path, session) = (path.to_path_buf(), Mutex::new(session));
        Ok(Self { path, execution, output, threads, image: [3, height, width], embed_dim, session })
    }

    /// The embeddings, `[n, e]`, of `n` images, f32 `[n, 3, S, S]`; as the file gives them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `pixels` is not `n` images; [`ErrorKind::Runtime`] when the run fails;
    /// [`ErrorKind::OutOfMemory`] when there is no room for the embeddings.
    pub fn encode(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        let [channels, height, width] = self.image;
        if n.checked_mul(channels * height * width) != Some(pixels.len()) {
            return Err(Error::invalid("the pixels are not that many images of this encoder")
                .expected(format_args!("{n}·{channels}·{height}·{width} values"))
                .got(pixels.len()));
        }
        let mut embeds = try_zeroed(n.saturating_mul(self.embed_dim))?;
        if n == 0 {
            return Ok(embeds);
        }
        let view = TensorRef::from_array_view(([n, channels, height, width], pixels))
            .map_err(failed("cannot make a view of the pixels"))?;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(ort::inputs![view]).map_err(failed("the image encoder failed"))?;
        let output = outputs.get(&self.output).ok_or_else(|| Error::new(ErrorKind::Internal, "a run has no output"))?;
        let (shape, values) = output.try_extract_tensor::<f32>().map_err(failed("cannot read the embeddings"))?;
        if values.len() != embeds.len() {
            let expected = format!("[{n}, {}]", self.embed_dim);
            return Err(unsupported(&self.path, "its output is of another size than it says", &expected, shape));
        }
        embeds.copy_from_slice(values);
        Ok(embeds)
    }

    /// The length of an embedding, e.
    pub fn embed_dim(&self) -> usize {
        self.embed_dim
    }

    /// The extents of one image: 3, height, width.
    pub fn image(&self) -> [usize; 3] {
        self.image
    }

    /// What it runs on, and why where that is not what was asked for.
    pub fn execution(&self) -> &Execution {
        &self.execution
    }

    /// Threads that one run computes with.
    pub fn threads(&self) -> usize {
        self.threads
    }
}

impl std::fmt::Debug for FrozenEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrozenEncoder({}; {} threads a run)", self.path.display(), self.threads)
    }
}

/// Name and shape of the one tensor of f32 that `outlets` must be; unknown extents are −1.
fn tensor(outlets: &[Outlet], what: &str, path: &Path) -> Result<(String, Vec<i64>)> {
    match outlets {
        [outlet] => match outlet.dtype() {
            ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => {
                Ok((outlet.name().to_owned(), shape.to_vec()))
            }
            other => Err(Error::unsupported(format!("the {what} of this model are of another type"))
                .at(path)
                .expected("a tensor of f32")
                .got(other)),
        },
        _ => Err(Error::unsupported(format!("this model has another number of {what}"))
            .at(path)
            .expected(1)
            .got(outlets.len())),
    }
}

fn unsupported(path: &Path, what: &str, expected: &str, got: &[i64]) -> Error {
    Error::unsupported(what.to_owned()).at(path).expected(expected).got(format_args!("{got:?}"))
}
