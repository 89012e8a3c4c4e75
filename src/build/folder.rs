//! Writing the published layout: the vectors in one pass over the checkpoints, and what the method keeps beside them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use nalgebra::DMatrix;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis};
use serde_json::{Map, Value as Json, json};

use super::activated::Activation;
use super::autoencoder::logits;
use super::family::Family;
use super::fit::Fit;
use super::random::RandomColumns;
use super::tile::{TILE, Tiles, TunedParameter, matrix, split};
use crate::atomic_file::{PartialFolder, check_output_folder, parent, unwritten, with_room};
use crate::basis::Method;
use crate::checkpoint::writer::{StorageId, TorchWriter, Value};
use crate::error::{Error, Result};
use crate::kernel::threads;
use crate::tensor::{DType, WRITE_BUFFER, f32_bytes, try_zeroed};

/// All vectors of a parameter are computed in one reading where together they take at most this many bytes; of larger
/// ones one vector at a time.
const MAX_TOGETHER: usize = 256 << 20;
/// Elements of those that are computed before they are written.
const CHUNK: usize = 4 << 20;
/// A thread takes this many elements at a time.
const WORK_ITEM: usize = 16 * TILE;
/// The temperature that the reference's softmax starts with: `B = softmax(A / τ)`.
const TAU: f64 = 5.0;
/// The prefix of the folder's names of parameters: the reference's encoder wraps the model.
const PREFIX: &str = "model.";

/// The file of the vectors.
const VECTORS: &str = "basis_vectors.pt";

/// The options of [`Family::write_basis`]; `default()` is right nearly always.
#[derive(Clone, Copy, Default)]
pub struct WriteOptions<'a> {
    /// Threads; 0 means one per processor.
    pub threads: usize,
    /// The model's name, for `method_info.json`.
    pub model: Option<&'a str>,
    /// Told how many more bytes of vectors are written, of [`Family::output_bytes`].
    pub progress: Option<&'a dyn Fn(u64)>,
}

impl std::fmt::Debug for WriteOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteOptions").field("threads", &self.threads).field("model", &self.model).finish()
    }
}

impl Family {
    /// Bytes of the vectors that [`Family::write_basis`] will write, PCA's mean among them.
    pub fn output_bytes(&self, fit: &Fit) -> u64 {
        let vectors = fit.vectors() + usize::from(fit.method().has_mean());
        (vectors * self.parameter_count() * size_of::<f32>()) as u64
    }

    /// Whether [`Family::write_basis`] may write to `folder`: it must not be there yet, or be empty.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where it holds anything, and
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where it is a file, or the folder around it is not there.
    pub fn check_output(folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        if folder.is_dir() {
            let mut entries = fs::read_dir(folder).map_err(|e| Error::io("cannot list the folder", folder, e))?;
            return match entries.next() {
                None => check_output_folder(folder),
                Some(_) => Err(Error::invalid("is there already, and not empty: nothing is overwritten")
                    .at(folder)
                    .hint("Choose another name, or remove it first")),
            };
        }
        if folder.symlink_metadata().is_ok() {
            return Err(Error::new(crate::ErrorKind::Io, "is a file, not a folder").at(folder));
        }
        match parent(folder) {
            around if around.is_dir() => check_output_folder(folder),
            _ => {
                Err(Error::new(crate::ErrorKind::Io, "cannot create a folder there: the one around it does not exist")
                    .at(folder))
            }
        }
    }

    /// Writes the basis as a folder in the published layout, which [`Basis::open`](crate::Basis::open) and the
    /// reference read: f32, names with the prefix `model.`. It is written beside its place and put there when it is
    /// complete and on the disk; nothing half-written is left, and what a killed process left beside it is removed.
    ///
    /// # Errors
    /// As [`Family::check_output`]; [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a fit of another number of tasks.
    pub fn write_basis(&self, fit: &Fit, folder: impl AsRef<Path>, options: &WriteOptions<'_>) -> Result<()> {
        let folder = folder.as_ref();
        let tasks = self.tasks().len();
        if fit.combine.nrows() != tasks {
            return Err(Error::mismatch("the fit is of other tasks").expected(tasks).got(fit.combine.nrows()));
        }
        if let Some(random) = fit.random.as_ref().filter(|random| random.total() != self.parameter_count()) {
            let error = Error::mismatch("the random vectors are of another model");
            return Err(error.expected(self.parameter_count()).got(random.total()));
        }
        Self::check_output(folder)?;
        let partial = PartialFolder::in_folder(parent(folder))?;
        let output = Output { family: self, fit, options, folder, partial: partial.path() };
        output.vectors()?;
        match fit.method() {
            Method::Autoencoder => output.awb()?,
            Method::Pca => output.pca()?,
            Method::Random => output.projections()?,
            Method::RandomSample => output.selection()?,
        }
        output.info()?;
        partial.take_place(folder)
    }
}

/// A folder in the making.
struct Output<'a> {
    family: &'a Family,
    fit: &'a Fit,
    options: &'a WriteOptions<'a>,
    /// The folder's place, which errors name.
    folder: &'a Path,
    /// The folder beside it that is written.
    partial: &'a Path,
}

impl Output<'_> {
    /// Opens `name`, lets `write` fill it, and syncs it.
    fn file(&self, name: &str, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
        let shown: PathBuf = self.folder.join(name);
        let bytes = (name == VECTORS).then(|| self.family.output_bytes(self.fit));
        let failed = |e| unwritten("cannot write", &shown, bytes, e);
        let file = File::create(self.partial.join(name)).map_err(failed)?;
        let mut out = BufWriter::with_capacity(WRITE_BUFFER, file);
        write(&mut out).map_err(|e| with_room(e.at(&shown), bytes))?;
        out.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)
    }

    fn json(&self, name: &str, value: &Json) -> Result<()> {
        self.file(name, |out| {
            writeln!(out, "{value:#}").map_err(|e| Error::io("cannot write", self.folder.join(name), e))
        })
    }

    fn progress(&self, bytes: usize) {
        if let Some(progress) = self.options.progress {
            progress(bytes as u64);
        }
    }

    fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.family.parameters.iter().map(|parameter| format!("{PREFIX}{}", parameter.name))
    }

    /// `basis_vectors.pt`. The storages stand in the file parameter by parameter, all vectors of one side by side, so
    /// that they can be written as they are computed.
    fn vectors(&self) -> Result<()> {
        let count = self.fit.vectors();
        let mut writer = TorchWriter::new("basis_vectors");
        let mut vectors = vec![Vec::with_capacity(self.family.parameters.len()); count];
        for (parameter, name) in self.family.parameters.iter().zip(self.names()) {
            for vector in &mut vectors {
                vector.push((name.clone(), writer.tensor(DType::F32, parameter.shape())?));
            }
        }
        let value = Value::dict([
            ("basis_vectors", Value::List(vectors.into_iter().map(Value::Dict).collect())),
            ("num_basis", Value::Int(count as i64)),
            ("method", Value::from(self.fit.method().name())),
        ]);
        let combine = to_array(&self.fit.combine.transpose());
        let mut all: Vec<Vec<f32>> = Vec::new();
        let random = self.fit.random.as_ref();
        let mut random = random.map(|of| of.columns(self.options.threads));
        self.file(VECTORS, |out| {
            writer.write(out, &value, |StorageId(storage), out| {
                let parameter = &self.family.parameters[storage / count];
                let m = storage % count;
                if let Some(columns) = &mut random {
                    return self.random(parameter, m, columns, &mut all, out);
                }
                if count * parameter.numel() * size_of::<f32>() > MAX_TOGETHER {
                    return self.stream(parameter, combine.slice_axis(Axis(0), (m..m + 1).into()), out);
                }
                if m == 0 {
                    all = self.compute(parameter, 0..parameter.numel(), combine.view()).map_err(io::Error::other)?;
                }
                self.progress(size_of_val(all[m].as_slice()));
                out.write_all(finite(&all[m], &parameter.name)?)
            })
        })
    }

    /// Writes a parameter of random vector `m`. The vectors are drawn side by side: all of them are kept until the last
    /// is written, or drawn again for each where that were too much.
    fn random(
        &self,
        parameter: &TunedParameter,
        m: usize,
        columns: &mut RandomColumns,
        all: &mut Vec<Vec<f32>>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let (count, numel) = (self.fit.vectors(), parameter.numel());
        if count * numel * size_of::<f32>() <= MAX_TOGETHER {
            if m == 0 {
                *all = columns.next(numel, 0..count).map_err(io::Error::other)?;
            }
            self.progress(size_of_val(all[m].as_slice()));
            return out.write_all(f32_bytes(&all[m]));
        }
        let mut ahead = columns.clone();
        for range in split(0..numel, CHUNK) {
            for chunk in ahead.next(range.len(), m..m + 1).map_err(io::Error::other)? {
                self.progress(size_of_val(chunk.as_slice()));
                out.write_all(f32_bytes(&chunk))?;
            }
        }
        if m + 1 == count {
            *columns = ahead;
        }
        Ok(())
    }

    /// Writes one combination of a whole parameter, computed chunk by chunk.
    fn stream(&self, parameter: &TunedParameter, combine: ArrayView2<'_, f64>, out: &mut dyn Write) -> io::Result<()> {
        for range in split(0..parameter.numel(), CHUNK) {
            for chunk in self.compute(parameter, range, combine).map_err(io::Error::other)? {
                self.progress(size_of_val(chunk.as_slice()));
                out.write_all(finite(&chunk, &parameter.name)?)?;
            }
        }
        Ok(())
    }

    /// `combine [N, T] · τ [T, range]`, summed in f64 and rounded once.
    fn compute(
        &self,
        parameter: &TunedParameter,
        range: std::ops::Range<usize>,
        combine: ArrayView2<'_, f64>,
    ) -> Result<Vec<Vec<f32>>> {
        let count = combine.nrows();
        let mut all = (0..count).map(|_| try_zeroed(range.len())).collect::<Result<Vec<Vec<f32>>>>()?;
        if !parameter.is_changed() {
            return Ok(all);
        }
        let mut rows: Vec<_> = all.iter_mut().map(|vector| vector.chunks_mut(WORK_ITEM)).collect();
        let items = split(range, WORK_ITEM)
            .map(|item| (item, rows.iter_mut().filter_map(Iterator::next).collect::<Vec<&mut [f32]>>()))
            .collect();
        threads::share(self.options.threads, items, |(item, mut outs), scratch: &mut Scratch| {
            if scratch.sums.nrows() != count {
                scratch.sums = matrix(count, TILE)?;
            }
            let start = item.start;
            for tile in split(item, TILE) {
                let (vectors, _) = scratch.tiles.read(parameter, tile.clone())?;
                let mut sums = scratch.sums.slice_axis_mut(Axis(1), (..tile.len()).into());
                general_mat_mul(1.0, &combine, &vectors, 0.0, &mut sums);
                for (out, sums) in outs.iter_mut().zip(sums.rows()) {
                    let out = &mut out[tile.start - start..tile.end - start];
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum as f32);
                }
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// `AWB.pt`.
    fn awb(&self) -> Result<()> {
        let (b, w) = (&self.fit.combine, &self.fit.recover);
        let mut writer = TorchWriter::new("AWB");
        let a = match self.fit.form.encoder {
            Activation::Softmax => logits(b, TAU),
            Activation::Linear => b * TAU,
        };
        let matrices = [("A", a), ("W", w.clone()), ("B", b.clone())];
        let tensors = matrices
            .iter()
            .map(|(name, matrix)| Ok((*name, writer.tensor(DType::F32, &[matrix.nrows(), matrix.ncols()])?)))
            .collect::<Result<Vec<_>>>()?;
        let metadata = from_json(&self.about());
        let value = Value::dict(tensors.into_iter().chain([("metadata", metadata)]));
        self.file("AWB.pt", |out| writer.write(out, &value, |StorageId(i), out| write_matrix(&matrices[i].1, out)))
    }

    /// `pca_components.pt`, with the mean as one flat tensor.
    fn pca(&self) -> Result<()> {
        let parameters = &self.family.parameters;
        let total = self.family.parameter_count();
        let tasks = self.family.tasks().len();
        let count = self.fit.vectors();
        let mut writer = TorchWriter::new("pca_components");
        let singular = self.fit.singular_values();
        let own = [
            ("coefficients", writer.tensor(DType::F32, &[count, tasks])?),
            ("mean_vector", writer.tensor(DType::F32, &[total])?),
            ("singular_values", writer.tensor(DType::F32, &[count])?),
            ("M_actual", Value::Int(count as i64)),
        ];
        let value = Value::dict(own.into_iter().chain(self.flattened(tasks * count + total + count)));
        let mean = Array2::from_elem((1, tasks), 1.0 / tasks as f64);
        self.file("pca_components.pt", |out| {
            writer.write(out, &value, |StorageId(i), out| match i {
                0 => write_matrix(&self.fit.recover, out),
                1 => parameters.iter().try_for_each(|parameter| self.stream(parameter, mean.view(), out)),
                _ => singular.iter().try_for_each(|value| write_number(*value, out)),
            })
        })
    }

    /// `random_basis.pt`.
    fn projections(&self) -> Result<()> {
        let (tasks, count) = (self.family.tasks().len(), self.fit.vectors());
        let mut writer = TorchWriter::new("random_basis");
        let own = [
            ("projection_coefficients", writer.tensor(DType::F32, &[count, tasks])?),
            ("seed", Value::Int(self.fit.seed.into())),
            ("M", Value::Int(count as i64)),
        ];
        let value = Value::dict(own.into_iter().chain(self.flattened(tasks * count)));
        self.file("random_basis.pt", |out| writer.write(out, &value, |_, out| write_matrix(&self.fit.recover, out)))
    }

    /// The fields that say how vectors lie as flat ones, and what `compact` numbers save.
    fn flattened(&self, compact: usize) -> [(&'static str, Value); 5] {
        let total = self.family.parameter_count();
        let (compact, full) = (compact * size_of::<f32>(), total * self.fit.vectors() * size_of::<f32>());
        let storage_info = [
            ("compact_size_mb", compact as f64 / f64::from(1 << 20)),
            ("full_matrix_size_gb", full as f64 / f64::from(1 << 30)),
            ("compression_ratio", full as f64 / compact as f64),
        ];
        let shapes = self.names().zip(&self.family.parameters);
        let shapes = shapes.map(|(name, parameter)| (name, Value::Size(parameter.shape().to_vec())));
        [
            ("total_dim", Value::Int(total as i64)),
            ("keys_order", Value::List(self.names().map(Value::Str).collect())),
            ("param_shapes", Value::dict(shapes)),
            ("dataset_names", Value::List(self.family.tasks().map(Value::from).collect())),
            ("storage_info", Value::dict(storage_info.map(|(name, value)| (name, Value::Float(value))))),
        ]
    }

    /// `random_selection.json`.
    fn selection(&self) -> Result<()> {
        let names: Vec<&str> = self.family.tasks().collect();
        let selected = self.fit.selected();
        let about = json!({
            "seed": self.fit.seed,
            "M": self.fit.vectors(),
            "selected_indices": selected,
            "selected_datasets": selected.iter().map(|&t| names[t]).collect::<Vec<_>>(),
            "total_tasks": names.len(),
        });
        self.json("random_selection.json", &about)
    }

    fn info(&self) -> Result<()> {
        self.json("method_info.json", &Json::Object(self.about()))
    }

    /// The content of `method_info.json` and of the Autoencoder's metadata: the reference's fields, as far as they mean
    /// anything here. `lr` and `weight_decay` are null, there being neither.
    fn about(&self) -> Map<String, Json> {
        let fit = self.fit;
        let tasks: Vec<&str> = self.family.tasks().collect();
        let mut about = Map::new();
        let mut add = |fields: Json| {
            if let Json::Object(fields) = fields {
                about.extend(fields);
            }
        };
        add(json!({
            "model": self.options.model, "finetuning_mode": "standard", "datasets": tasks, "M": fit.vectors(),
        }));
        if fit.method() == Method::Autoencoder {
            add(json!({
                "steps": fit.iterations, "lr": null, "tau_init": TAU, "anneal_every": null, "anneal_factor": null,
                "weight_decay": null, "grad_clip": null, "batch_cols": null, "device": "cpu",
            }));
        }
        add(json!({ "seed": fit.seed }));
        if fit.method() == Method::Autoencoder {
            add(json!({
                // False whatever W is: it is stored activated, and what is true the reference's loader activates again.
                "softmax_w": false, "encoder": fit.form.encoder.name(), "w_activation": fit.form.w.name(),
                "gram_dtype": "float64",
                "loss": fit.loss(), "spectral_lower_bound": fit.bound(),
            }));
        }
        add(json!({
            "notes": concat!("taskbasis ", env!("CARGO_PKG_VERSION")), "task_scenario": tasks.len().to_string(),
            "method": fit.method().name(),
        }));
        about
    }
}

#[derive(Default)]
struct Scratch {
    tiles: Tiles,
    sums: Array2<f64>,
}

fn to_array(matrix: &DMatrix<f64>) -> Array2<f64> {
    Array2::from_shape_fn((matrix.nrows(), matrix.ncols()), |(i, j)| matrix[(i, j)])
}

/// Row-major f32.
fn write_matrix(matrix: &DMatrix<f64>, out: &mut dyn Write) -> io::Result<()> {
    matrix.row_iter().try_for_each(|row| row.iter().try_for_each(|value| write_number(*value, out)))
}

fn write_number(value: f64, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(finite(&[value as f32], "a coefficient")?)
}

/// The bytes of values that are to be written: all of them numbers.
fn finite<'v>(values: &'v [f32], name: &str) -> io::Result<&'v [u8]> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(f32_bytes(values)),
        Some(at) => Err(io::Error::other(
            Error::format("a vector is beyond what f32 can hold")
                .tensor(name)
                .got(format_args!("{} at element {at}", values[at]))
                .hint("Are the checkpoints fine-tuned from this base?"),
        )),
    }
}

fn from_json(fields: &Map<String, Json>) -> Value {
    let convert = |value: &Json| match value {
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => number.as_i64().map_or(Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Int),
        Json::String(text) => Value::Str(text.clone()),
        Json::Array(items) => Value::List(items.iter().filter_map(Json::as_str).map(Value::from).collect()),
        Json::Null | Json::Object(_) => Value::None,
    };
    Value::dict(fields.iter().map(|(name, value)| (name.clone(), convert(value))))
}
