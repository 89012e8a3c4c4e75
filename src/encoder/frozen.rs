//! A plain session on an .onnx file that holds its weights: how tasks are usually deployed, one file and one session
//! each. Benchmarks compare with it, and exports are checked with it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::capture_lock;
use super::options::EncoderOptions;
use super::ort_error::failed;
use super::pool::Pool;
use super::provider::target::Target;
use super::provider::{self, Execution};
use super::runtime::Runtime;
use super::session;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::OnnxFile;
use crate::tensor::try_zeroed;

/// An image encoder that is an .onnx file with its weights in it, with ONNX Runtime's own settings: every optimisation,
/// weights packed in advance.
///
/// Two things are not as ONNX Runtime would have them, so that it can be compared with an
/// [`Encoder`](super::Encoder) in one process: the number of threads, and that threads stop spinning when a run ends.
/// Files with half floats do without the layout that convolutions like best, as promoted tasks do.
pub struct FrozenEncoder {
    path: PathBuf,
    /// Whether anything in it may be half floats.
    has_halves: bool,
    runtime: &'static Runtime,
    threads_per_run: usize,
    target: Target,
    execution: Execution,
    input: String,
    output: String,
    /// `[3, S, S]`.
    image: [usize; 3],
    embed_dim: usize,
    sessions: Pool<Session>,
}

impl FrozenEncoder {
    /// Opens a session on the file. It must take one input, f32 `[batch, 3, S, S]`, and its first output must be f32
    /// `[batch, e]`; of the options, those of promotion do not apply, and half floats are not compared with the CPU's.
    ///
    /// # Errors
    /// As [`Runtime::load`] and [`Runtime::check_provider`]; [`ErrorKind::InvalidArgument`] for thousands of threads;
    /// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Runtime`] when ONNX Runtime refuses it;
    /// [`ErrorKind::Unsupported`] for other inputs or outputs.
    pub fn open(path: impl AsRef<Path>, options: &EncoderOptions) -> Result<Self> {
        let path = path.as_ref();
        let (threads_per_run, concurrency) = options.threads_per_run()?;
        let runtime = Runtime::load(options.runtime.as_deref())?;
        // ONNX Runtime's own message would be the same for a file that is missing and one that is damaged.
        std::fs::File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
        // A file that cannot be read here is left to ONNX Runtime to judge, with care.
        let has_halves = OnnxFile::open(path).map_or(true, |file| file.has_halves());
        let create = |target: &Target| create(runtime, (path, has_halves), threads_per_run, target);
        let (session, target, mut execution) = provider::begin(runtime, options, create)?;
        execution.nodes = target.nodes(&session)?;
        let (input, pixels) = tensor(session.inputs(), "inputs", path)?;
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
        Ok(Self {
            path: path.to_path_buf(),
            has_halves,
            runtime,
            threads_per_run,
            target,
            execution,
            input,
            output,
            image: [3, height, width],
            embed_dim,
            sessions: Pool::new(session, concurrency),
        })
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
        let mut session = self.sessions.lend(|| self.session())?;
        let _turn = capture_lock::shared();
        let outputs = session
            .run(vec![(Cow::Borrowed(self.input.as_str()), SessionInputValue::from(view))])
            .map_err(failed("the image encoder failed"))
            .map_err(|e| self.target.explain(self.runtime, e).at(&self.path))?;
        let output = outputs.get(&self.output).ok_or_else(|| Error::new(ErrorKind::Internal, "a run has no output"))?;
        let (shape, values) = output.try_extract_tensor::<f32>().map_err(failed("cannot read the embeddings"))?;
        if values.len() != embeds.len() {
            let expected = format!("[{n}, {}]", self.embed_dim);
            return Err(unsupported(&self.path, "its output is of another size than it says", &expected, shape));
        }
        embeds.copy_from_slice(values);
        Ok(embeds)
    }

    /// Another session on the file.
    fn session(&self) -> Result<Session> {
        create(self.runtime, (&self.path, self.has_halves), self.threads_per_run, &self.target)
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
        self.threads_per_run
    }
}

impl std::fmt::Debug for FrozenEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrozenEncoder({}; {} threads a run)", self.path.display(), self.threads_per_run)
    }
}

fn create(runtime: &Runtime, (path, has_halves): (&Path, bool), threads: usize, target: &Target) -> Result<Session> {
    let doing = "cannot create a session on the file";
    let _turn = capture_lock::shared();
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
