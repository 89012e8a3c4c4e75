//! A plain session on an .onnx file that holds its weights: how tasks are usually deployed, one file and one session
//! each. Measurements compare with it, and tests check exports with it.

use std::path::{Path, PathBuf};

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};
use parking_lot::Mutex;
use taskbasis::encoder::session_on_file;
use taskbasis::{EncoderOptions, Error, ErrorKind, Result};

/// An image encoder that is an .onnx file with its weights in it, in ONNX Runtime as [`session_on_file`] has it. Runs
/// one call at a time.
#[derive(Debug)]
pub struct OnnxFileEncoder {
    path: PathBuf,
    output: String,
    /// The extents of one image: 3, height, width.
    pub image: [usize; 3],
    /// The length of an embedding, e.
    pub embed_dim: usize,
    session: Mutex<Session>,
}

impl OnnxFileEncoder {
    /// Opens a session on the file. It must take one input, f32 `[batch, 3, S, S]`, and its first output must be f32
    /// `[batch, e]`; of the options, those of promotion do not apply, and half floats are not compared with the CPU's.
    ///
    /// # Errors
    /// As [`session_on_file`]; [`ErrorKind::Unsupported`] for other inputs or outputs.
    pub fn open(path: impl AsRef<Path>, options: &EncoderOptions) -> Result<Self> {
        let path = path.as_ref();
        let (session, _) = session_on_file(path, options)?;
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
        let (path, session) = (path.to_path_buf(), Mutex::new(session));
        Ok(Self { path, output, image: [3, height, width], embed_dim, session })
    }

    /// The embeddings, `[n, e]`, of `n` images, f32 `[n, 3, S, S]`; as the file gives them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `pixels` is not `n` images; [`ErrorKind::Runtime`] when the run fails.
    pub fn encode(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>> {
        let [channels, height, width] = self.image;
        if n.checked_mul(channels * height * width) != Some(pixels.len()) {
            return Err(Error::invalid("the pixels are not that many images of this encoder")
                .expected(format_args!("{n}·{channels}·{height}·{width} values"))
                .got(pixels.len()));
        }
        if n == 0 {
            return Ok(Vec::new());
        }
        let failed = |e: ort::Error| {
            Error::new(ErrorKind::Runtime, "the image encoder failed").because(e.to_string()).at(&self.path)
        };
        let view = TensorRef::from_array_view(([n, channels, height, width], pixels)).map_err(failed)?;
        let mut session = self.session.lock();
        let outputs = session.run(ort::inputs![view]).map_err(failed)?;
        let output = outputs.get(&self.output).ok_or_else(|| Error::new(ErrorKind::Internal, "a run has no output"))?;
        let (shape, values) = output.try_extract_tensor::<f32>().map_err(failed)?;
        if values.len() != n * self.embed_dim {
            let expected = format!("[{n}, {}]", self.embed_dim);
            return Err(unsupported(&self.path, "its output is of another size than it says", &expected, shape));
        }
        Ok(values.to_vec())
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
