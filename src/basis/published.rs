//! The published folder: `method_info.json`, `basis_vectors.pt`, and the method's own file.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::logits;
use super::method::Method;
use super::vectors::{Basis, BasisContents, Parameter};
use crate::checkpoint::torch::{Archive, Node};
use crate::checkpoint::{Checkpoint, Format, check_sharing, sniff};
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping, read_small};
use crate::present;
use crate::tensor::{Source, Tensor, checked_numel};

/// JSON files beside the vectors are a few kilobytes; one of more than this is not one of them.
const MAX_JSON: usize = 16 << 20;

/// The required fields of `method_info.json`; others are ignored.
struct MethodInfo {
    method: Method,
    datasets: Vec<String>,
    /// Whether the Autoencoder's W is stored as the logits of what was trained.
    has_logits: bool,
    /// Whether the Autoencoder's B is a softmax of A.
    has_softmax_encoder: bool,
}

impl Basis {
    /// Opens a published basis folder, its vectors mapped.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) and [`ErrorKind::Format`](crate::ErrorKind::Format), naming file and
    /// place; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a method that is not known.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, MapMode::default())
    }

    /// [`Basis::open`] with a choice between mapping and reading.
    ///
    /// # Errors
    /// As [`Basis::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        open(&folder_of(path.as_ref())?, mode)
    }

    /// Whether `path` is a folder that holds a basis, judged by its file names alone.
    pub fn is_basis(path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        path.join("method_info.json").is_file() || path.join("basis_vectors.pt").is_file()
    }
}

fn open(folder: &Path, mode: MapMode) -> Result<Basis> {
    let info = read_info(folder)?;
    let vectors_path = folder.join("basis_vectors.pt");
    if !present::is_file(&vectors_path)? {
        return Err(Error::format("a basis folder needs `basis_vectors.pt`, and it is not there").at(folder));
    }
    let mut sources = read_vectors(&vectors_path, mode)?;
    let vectors = sources.len();
    let artifact = read_artifact(folder, &info, vectors, mode)?;
    let has_mean = artifact.mean.is_some();
    sources.extend(artifact.mean);
    let files = vec![folder.join("method_info.json"), vectors_path, artifact.path];
    let file_bytes = files.iter().map(|path| present::file_bytes(path)).sum::<Result<u64>>()?;
    Ok(Basis::from_contents(BasisContents {
        path: folder.to_path_buf(),
        method: info.method,
        tasks: info.datasets,
        vectors,
        has_mean,
        table: artifact.table,
        residual_tasks: Vec::new(),
        parameters: align(&sources)?,
        file_bytes,
        files,
    }))
}

fn read_info(folder: &Path) -> Result<MethodInfo> {
    #[derive(Deserialize)]
    struct Raw {
        method: String,
        datasets: Vec<String>,
        #[serde(default)]
        softmax_w: Json,
        #[serde(default)]
        encoder: Json,
        #[serde(default)]
        w_activation: Json,
    }
    let path = folder.join("method_info.json");
    if !present::is_file(&path)? {
        return Err(Error::format("not a basis folder: it holds no `method_info.json`").at(folder));
    }
    let Raw { method, datasets, softmax_w, encoder, w_activation } = read_json(&path)?;
    let method = Method::parse(&method).ok_or_else(|| {
        Error::unsupported("an unknown method")
            .at(&path)
            .expected("AutoencoderBasisMethod, PCABasisMethod, RandomBasisMethod or RandomSampleMethod")
            .got(format_args!("`{method}`"))
    })?;
    if datasets.is_empty() {
        return Err(Error::format("`datasets` names no task").at(&path));
    }
    for (t, task) in datasets.iter().enumerate() {
        if task.is_empty() || datasets[..t].contains(task) {
            return Err(Error::format(format!("`datasets` names task `{task}` twice, or it is empty")).at(&path));
        }
    }
    let has_logits = w_activation == "softmax" && softmax_w != true;
    Ok(MethodInfo { method, datasets, has_logits, has_softmax_encoder: encoder != "linear" })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_small(path, MAX_JSON, "a basis's description")?;
    serde_json::from_slice(&text).map_err(|e| Error::format("not the JSON it should be").at(path).because(e))
}

/// `basis_vectors`: a list of M dicts {parameter name → tensor}.
fn read_vectors(path: &Path, mode: MapMode) -> Result<Vec<Checkpoint>> {
    let archive = Archive::open(path, mode)?;
    let fail = |what: String| Error::format(what).at(path);
    let root = archive.root();
    let list = root.get("basis_vectors").ok_or_else(|| fail("holds no list `basis_vectors`".into()))?;
    let vectors = list
        .items()
        .enumerate()
        .map(|(m, vector)| {
            let tensors = vector
                .entries()
                .map(|(name, tensor)| {
                    let name =
                        name.as_str().ok_or_else(|| fail(format!("basis vector {m}: a name is not a string")))?;
                    let tensor = tensor.tensor()?.ok_or_else(|| fail("not a tensor".into()).tensor(name))?;
                    if !tensor.dtype().is_float() {
                        return Err(fail("a basis vector must hold floats".into()).tensor(name).got(tensor.dtype()));
                    }
                    Ok((name.to_owned(), tensor))
                })
                .collect::<Result<Vec<_>>>()?;
            if tensors.is_empty() {
                return Err(fail(format!("basis vector {m} holds no tensors")));
            }
            Checkpoint::from_tensors(path, Format::TorchZip, tensors)
        })
        .collect::<Result<Vec<_>>>()?;
    if vectors.is_empty() {
        return Err(fail("holds no basis vectors".into()));
    }
    let tensors = vectors.iter().flat_map(Checkpoint::iter).map(|(_, tensor)| tensor);
    check_sharing(path, archive.mapping().len() as u64, tensors)?;
    if let Some(told) = root.get("num_basis").and_then(|n| n.as_i64())
        && usize::try_from(told) != Ok(vectors.len())
    {
        return Err(fail("`num_basis` and the list of vectors disagree".into()).expected(told).got(vectors.len()));
    }
    Ok(vectors)
}

/// The file that a method keeps beside its vectors.
struct Artifact {
    path: PathBuf,
    /// The recovery table: M rows of T, row-major.
    table: Vec<f64>,
    /// PCA's mean, one more vector.
    mean: Option<Checkpoint>,
}

/// Reads the method's own file in `folder`, for a basis of `vectors` vectors.
fn read_artifact(folder: &Path, info: &MethodInfo, vectors: usize, mode: MapMode) -> Result<Artifact> {
    let shape = [vectors, info.datasets.len()];
    let (path, key) = match info.method {
        // `W` as stored, where `softmax_w` is true: then the activation is already applied.
        Method::Autoencoder => (autoencoder_file(folder)?, "W"),
        Method::Pca => (required(folder, "pca_components.pt", info.method)?, "coefficients"),
        Method::Random => (required(folder, "random_basis.pt", info.method)?, "projection_coefficients"),
        Method::RandomSample => {
            let path = required(folder, "random_selection.json", info.method)?;
            return Ok(Artifact { table: selection(&path, &info.datasets, vectors)?, mean: None, path });
        }
    };
    let archive = Archive::open(&path, mode)?;
    let mut table = table(&archive, key, shape)?;
    if info.method == Method::Autoencoder && info.has_logits && !logits::is_softmax(&table, shape) {
        let transposed = [shape[1], shape[0]];
        let a = self::table(&archive, "A", transposed)?;
        let b = self::table(&archive, "B", transposed)?;
        let tau =
            logits::temperature(&a, &b, vectors, info.has_softmax_encoder).ok_or_else(|| logits::untold(&path))?;
        logits::activate(&mut table, shape, tau);
    }
    let mean = info.method.has_mean().then(|| mean(&archive)).transpose()?;
    Ok(Artifact { path, table, mean })
}

/// `AWB.pt`, or the only `AWB*.pt` where that name is not used.
fn autoencoder_file(folder: &Path) -> Result<PathBuf> {
    let usual = folder.join("AWB.pt");
    if present::is_file(&usual)? {
        return Ok(usual);
    }
    let failed = |e| Error::io("cannot list the folder", folder, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.starts_with("AWB") && name.ends_with(".pt") {
            found.push(path);
        }
    }
    found.sort();
    match found.len() {
        0 => Err(missing(folder, "AWB.pt", Method::Autoencoder)),
        1 => Ok(found.remove(0)),
        n => Err(Error::format(format!("{n} files `AWB*.pt`, none of them `AWB.pt`: which one counts is not known"))
            .at(folder)),
    }
}

fn required(folder: &Path, name: &str, method: Method) -> Result<PathBuf> {
    let path = folder.join(name);
    if present::is_file(&path)? { Ok(path) } else { Err(missing(folder, name, method)) }
}

fn missing(folder: &Path, name: &str, method: Method) -> Error {
    Error::format(format!("a basis of method {method} needs `{name}` beside its vectors, and it is not there"))
        .at(folder)
}

/// The matrix `key`, M rows of T, every number finite.
fn table(archive: &Archive, key: &str, shape: [usize; 2]) -> Result<Vec<f64>> {
    let tensor = tensor(archive, key)?;
    if tensor.shape() != shape {
        return Err(Error::format("a coefficient matrix must have a row per vector and a column per task")
            .at(archive.mapping().path())
            .tensor(key)
            .expected(format_args!("{shape:?}"))
            .got(format_args!("{:?}", tensor.shape())));
    }
    let values = tensor.to_f64().map_err(|e| e.at(archive.mapping().path()).tensor(key))?;
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(at) => Err(Error::format("a coefficient is not finite")
            .at(archive.mapping().path())
            .tensor(key)
            .got(format_args!("{} for vector {}, task {}", values[at], at / shape[1], at % shape[1]))),
    }
}

fn tensor(archive: &Archive, key: &str) -> Result<Tensor> {
    let missing = || Error::format("not in the file").at(archive.mapping().path()).tensor(key);
    archive.root().get(key).ok_or_else(missing)?.tensor()?.ok_or_else(missing)
}

/// PCA's mean: `mean_vector` [D], flat, cut into views at the `param_shapes` in `keys_order`.
fn mean(archive: &Archive) -> Result<Checkpoint> {
    let path = archive.mapping().path();
    let fail = |what: &str| Error::format(what.to_owned()).at(path);
    let flat = tensor(archive, "mean_vector")?;
    if flat.shape().len() != 1 {
        return Err(fail("must be flat").tensor("mean_vector").expected("[D]").got(format_args!("{:?}", flat.shape())));
    }
    let root = archive.root();
    let shapes = root.get("param_shapes").ok_or_else(|| fail("has no `param_shapes`"))?;
    let order = root.get("keys_order").ok_or_else(|| fail("has no `keys_order`"))?;
    let mut start = 0usize;
    let mut tensors = Vec::new();
    for key in order.items() {
        let name = key.as_str().ok_or_else(|| fail("`keys_order` holds something that is not a name"))?;
        let shape = shapes.get(name).and_then(|node| extents(&node));
        let shape = shape.ok_or_else(|| fail("has no shape in `param_shapes`").tensor(name))?;
        let view = checked_numel(&shape)
            .and_then(|numel| start.checked_add(numel))
            .ok_or_else(|| Error::format("its shape overflows"))
            .and_then(|end| flat.rows(start..end)?.reshaped(&shape))
            .map_err(|e| e.at(path).tensor(name))?;
        start += view.numel();
        tensors.push((name.to_owned(), view));
    }
    if start != flat.numel() {
        return Err(fail("`param_shapes` do not add up to the mean vector")
            .tensor("mean_vector")
            .expected(format_args!("{start} elements"))
            .got(flat.numel()));
    }
    Checkpoint::from_tensors(path, Format::TorchZip, tensors)
}

/// A `torch.Size`, or any sequence of integers.
fn extents(node: &Node<'_>) -> Option<Vec<usize>> {
    node.items().map(|extent| usize::try_from(extent.as_i64()?).ok()).collect()
}

#[derive(Deserialize)]
struct Selection {
    selected_indices: Vec<usize>,
    selected_datasets: Vec<String>,
}

/// A unit column for each selected task; NaN, "not recoverable", elsewhere.
fn selection(path: &Path, tasks: &[String], vectors: usize) -> Result<Vec<f64>> {
    let Selection { selected_indices, selected_datasets } = read_json(path)?;
    let fail = |what: String| Error::format(what).at(path);
    if selected_indices.len() != vectors || selected_datasets.len() != vectors {
        return Err(fail("must select one task per vector".into())
            .expected(format_args!("{vectors} selected tasks"))
            .got(format_args!("{} indices, {} names", selected_indices.len(), selected_datasets.len())));
    }
    let mut table = vec![f64::NAN; vectors * tasks.len()];
    for (m, (&t, name)) in selected_indices.iter().zip(&selected_datasets).enumerate() {
        if tasks.get(t) != Some(name) {
            return Err(fail(format!("selected task {t} is not `{name}`"))
                .expected(tasks.get(t).map_or(format!("an index below {}", tasks.len()), |task| format!("`{task}`"))));
        }
        if !table[t].is_nan() {
            return Err(fail(format!("task `{name}` is selected twice")));
        }
        for row in 0..vectors {
            table[row * tasks.len() + t] = if row == m { 1.0 } else { 0.0 };
        }
    }
    Ok(table)
}

/// Every parameter with its M (+1) sources; all vectors must name the same parameters in the same shapes.
fn align(sources: &[Checkpoint]) -> Result<IndexMap<String, Parameter>> {
    let [first, rest @ ..] = sources else { return Ok(IndexMap::new()) };
    for (other, m) in rest.iter().zip(1..) {
        if let Some((name, _)) = other.iter().find(|(name, _)| first.get(name).is_none()) {
            return Err(Error::format(format!("vector {m} changes it, the first vector does not name it"))
                .at(other.path())
                .tensor(name));
        }
    }
    first
        .iter()
        .map(|(name, tensor)| {
            let tensors = sources
                .iter()
                .enumerate()
                .map(|(m, source)| {
                    let other = source.get(name).ok_or_else(|| {
                        Error::format(format!("missing in vector {m}")).at(source.path()).tensor(name)
                    })?;
                    if other.shape() != tensor.shape() {
                        return Err(Error::format(format!("vector {m} has another shape than the first"))
                            .at(source.path())
                            .tensor(name)
                            .expected(format_args!("{:?}", tensor.shape()))
                            .got(format_args!("{:?}", other.shape())));
                    }
                    Ok(Source::Dense(other.clone()))
                })
                .collect::<Result<Vec<Source>>>()?;
            Ok((name.to_owned(), Parameter::new(tensors)))
        })
        .collect()
}

/// The folder that `path` means: itself, or the folder of a `basis_vectors.pt` or `method_info.json` named directly.
fn folder_of(path: &Path) -> Result<PathBuf> {
    if present::is_folder(path)? {
        return Ok(path.to_path_buf());
    }
    match (path.file_name().and_then(|name| name.to_str()), path.parent()) {
        (Some("basis_vectors.pt" | "method_info.json"), Some(folder)) if path.is_file() => {
            Ok(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_path_buf() })
        }
        _ if !path.exists() => {
            let error = Error::new(crate::ErrorKind::Io, "no such file or folder").at(path);
            Err(did_you_mean::hub_path(path).into_iter().fold(error, Error::hint))
        }
        _ => {
            let file = Mapping::open(path, MapMode::Map)?;
            let otherwise = "not a basis: expected a folder with `method_info.json` and `basis_vectors.pt`";
            Err(sniff::refused(&file.head(sniff::HEAD)?, otherwise).at(path))
        }
    }
}
