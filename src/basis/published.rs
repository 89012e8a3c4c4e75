//! The published folder: `method_info.json`, `basis_vectors.pt`, and the method's own file.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::method::{Mean, Method, read_artifact};
use super::{Basis, Parameter};
use crate::checkpoint::torch::Archive;
use crate::checkpoint::{Checkpoint, Format, check_sharing, sniff};
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::Source;

/// JSON files beside the vectors are a few kilobytes; one of more than this is not one of them.
const MAX_JSON: u64 = 16 << 20;

/// What `method_info.json` must tell; fields that are not known are ignored.
pub(super) struct Info {
    pub(super) method: Method,
    pub(super) datasets: Vec<String>,
}

pub(super) fn open(folder: &Path, mode: MapMode) -> Result<Basis> {
    let info = read_info(folder)?;
    let vectors_path = folder.join("basis_vectors.pt");
    if !vectors_path.is_file() {
        return Err(Error::format("a basis folder needs `basis_vectors.pt`, and it is not there").at(folder));
    }
    let vectors = read_vectors(&vectors_path, mode)?;
    let artifact = read_artifact(folder, &info, vectors.len(), mode)?;
    let has_mean = artifact.mean.is_some();
    let count = vectors.len();

    let mut sources = vectors;
    if let Some(mean) = artifact.mean {
        sources.push(split_mean(&mean, &artifact.path)?);
    }
    let parameters = align(&sources)?;
    let file_bytes = [&vectors_path, &artifact.path, &folder.join("method_info.json")]
        .iter()
        .map(|path| {
            std::fs::metadata(path).map(|m| m.len()).map_err(|e| Error::io("cannot read its metadata", path, e))
        })
        .sum::<Result<u64>>()?;
    Ok(Basis {
        path: folder.to_path_buf(),
        vectors: count,
        has_mean,
        recovery: artifact.recovery,
        parameters,
        file_bytes,
    })
}

fn read_info(folder: &Path) -> Result<Info> {
    #[derive(Deserialize)]
    struct Raw {
        method: String,
        datasets: Vec<String>,
    }
    let path = folder.join("method_info.json");
    if !path.is_file() {
        return Err(Error::format("not a basis folder: it holds no `method_info.json`").at(folder));
    }
    let Raw { method, datasets } = read_json(&path)?;
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
    Ok(Info { method, datasets })
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let length = std::fs::metadata(path).map_err(|e| Error::io("cannot read its metadata", path, e))?.len();
    if length > MAX_JSON {
        return Err(Error::format(format!("a JSON file of {length} bytes: at most {MAX_JSON} are read")).at(path));
    }
    let text = std::fs::read(path).map_err(|e| Error::io("cannot read", path, e))?;
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

/// The mean is one flat tensor, its pieces side by side in `keys_order`: views of it, no copies.
fn split_mean(mean: &Mean, path: &Path) -> Result<Checkpoint> {
    let mut at = 0usize;
    let mut tensors = Vec::with_capacity(mean.layout.len());
    for (name, shape) in &mean.layout {
        let end = crate::tensor::checked_numel(shape).and_then(|n| at.checked_add(n));
        let piece = end
            .ok_or_else(|| Error::format("its shape overflows"))
            .and_then(|end| mean.flat.rows(at..end)?.reshaped(shape))
            .map_err(|e| e.at(path).tensor(name))?;
        at += piece.numel();
        tensors.push((name.clone(), piece));
    }
    if at != mean.flat.numel() {
        return Err(Error::format("`param_shapes` do not add up to the mean vector")
            .at(path)
            .tensor("mean_vector")
            .expected(format_args!("{at} elements"))
            .got(mean.flat.numel()));
    }
    Checkpoint::from_tensors(path, Format::TorchZip, tensors)
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

/// Whether `path` looks like a basis folder (rather than a folder of something else).
pub(super) fn is_basis(path: &Path) -> bool {
    path.join("method_info.json").is_file() || path.join("basis_vectors.pt").is_file()
}

/// The folder that `path` means: itself, or the folder of a `basis_vectors.pt` or `method_info.json` named directly.
pub(super) fn folder_of(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    match (path.file_name().and_then(|name| name.to_str()), path.parent()) {
        (Some("basis_vectors.pt" | "method_info.json"), Some(folder)) if path.is_file() => {
            Ok(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_path_buf() })
        }
        _ if !path.exists() => {
            let error = Error::new(crate::ErrorKind::Io, "no such file or folder").at(path);
            Err(crate::hub::hint(path).into_iter().fold(error, Error::hint))
        }
        _ => {
            let file = Mapping::open(path, MapMode::Map)?;
            let otherwise = "not a basis: expected a folder with `method_info.json` and `basis_vectors.pt`";
            Err(sniff::refused(&file, otherwise).at(path))
        }
    }
}
