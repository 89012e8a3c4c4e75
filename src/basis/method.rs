//! The four published methods: what each keeps beside the vectors, and the recovery table it makes.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::coefficients::Recovery;
use super::published::{Info, read_json};
use crate::checkpoint::torch::{Archive, Node};
use crate::error::{Error, Result};
use crate::mmap::MapMode;
use crate::tensor::Tensor;

/// How a basis was made, and so how its tasks are recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Softmax encoder, linear decoder: `τ̂_t = Σ_m W[m,t]·s_m`.
    Autoencoder,
    /// Principal components: `τ̂_t = mean + Σ_m C[m,t]·s_m`.
    Pca,
    /// Random projection: `τ̂_t = Σ_m P[m,t]·s_m`, with the vectors as stored.
    Random,
    /// M of the task vectors themselves: τ̂_t = s_m for the tasks that were selected, nothing for the others.
    RandomSample,
}

impl Method {
    const ALL: [Self; 4] = [Self::Autoencoder, Self::Pca, Self::Random, Self::RandomSample];

    /// From the name that `method_info.json` gives it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// As `method_info.json` and bundles spell it: `AutoencoderBasisMethod`, `PCABasisMethod`, ….
    pub fn name(self) -> &'static str {
        match self {
            Self::Autoencoder => "AutoencoderBasisMethod",
            Self::Pca => "PCABasisMethod",
            Self::Random => "RandomBasisMethod",
            Self::RandomSample => "RandomSampleMethod",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Autoencoder => "Autoencoder",
            Self::Pca => "PCA",
            Self::Random => "Random",
            Self::RandomSample => "RandomSample",
        })
    }
}

/// What a method keeps beside its vectors.
pub(super) struct Artifact {
    pub(super) recovery: Recovery,
    /// PCA's mean, flat, with the names and shapes of its pieces in order.
    pub(super) mean: Option<Mean>,
    pub(super) path: PathBuf,
}

/// PCA's mean: one more full vector, kept flat.
pub(super) struct Mean {
    pub(super) flat: Tensor,
    pub(super) layout: Vec<(String, Vec<usize>)>,
}

/// Reads the method's own file in `folder`; `vectors` is how many vectors the basis has.
pub(super) fn read_artifact(folder: &Path, info: &Info, vectors: usize, mode: MapMode) -> Result<Artifact> {
    let tasks = info.datasets.clone();
    let shape = [vectors, tasks.len()];
    let (path, table, mean) = match info.method {
        Method::Autoencoder => {
            let path = autoencoder_file(folder)?;
            // `W` as stored, whatever `softmax_w` says: a true one means that the activation is already applied.
            let table = table(&Archive::open(&path, mode)?, "W", shape)?;
            (path, table, None)
        }
        Method::Random => {
            let path = required(folder, "random_basis.pt", info.method)?;
            let table = table(&Archive::open(&path, mode)?, "projection_coefficients", shape)?;
            (path, table, None)
        }
        Method::Pca => {
            let path = required(folder, "pca_components.pt", info.method)?;
            let archive = Archive::open(&path, mode)?;
            let table = table(&archive, "coefficients", shape)?;
            (path, table, Some(mean(&archive)?))
        }
        Method::RandomSample => {
            let path = required(folder, "random_selection.json", info.method)?;
            let table = selection(&path, &tasks, vectors)?;
            (path, table, None)
        }
    };
    Ok(Artifact { recovery: Recovery::new(info.method, tasks, vectors, table, Vec::new()), mean, path })
}

/// `AWB.pt`, or the only `AWB*.pt` where that name is not used.
fn autoencoder_file(folder: &Path) -> Result<PathBuf> {
    let usual = folder.join("AWB.pt");
    if usual.is_file() {
        return Ok(usual);
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|e| Error::io("cannot list the folder", folder, e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            name.starts_with("AWB") && name.ends_with(".pt")
        })
        .collect();
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
    if path.is_file() { Ok(path) } else { Err(missing(folder, name, method)) }
}

fn missing(folder: &Path, name: &str, method: Method) -> Error {
    Error::format(format!("a basis of method {method} needs `{name}` beside its vectors, and it is not there"))
        .at(folder)
}

/// The matrix `key`, M rows of T, every number finite.
fn table(archive: &Archive, key: &str, shape: [usize; 2]) -> Result<Vec<f64>> {
    let tensor = tensor(archive, key)?;
    if tensor.shape() != shape {
        return Err(Error::format("a coefficient matrix must have a row a vector and a column a task")
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

/// `mean_vector` [D] with `keys_order` and `param_shapes`.
fn mean(archive: &Archive) -> Result<Mean> {
    let fail = |what: &str| Error::format(what.to_owned()).at(archive.mapping().path());
    let flat = tensor(archive, "mean_vector")?;
    if flat.shape().len() != 1 {
        return Err(fail("must be flat").tensor("mean_vector").expected("[D]").got(format_args!("{:?}", flat.shape())));
    }
    let root = archive.root();
    let shapes = root.get("param_shapes").ok_or_else(|| fail("has no `param_shapes`"))?;
    let order = root.get("keys_order").ok_or_else(|| fail("has no `keys_order`"))?;
    let layout = order
        .items()
        .map(|key| {
            let name = key.as_str().ok_or_else(|| fail("`keys_order` holds something that is not a name"))?;
            let shape = shapes.get(name).and_then(|node| extents(&node));
            Ok((name.to_owned(), shape.ok_or_else(|| fail("has no shape in `param_shapes`").tensor(name))?))
        })
        .collect::<Result<_>>()?;
    Ok(Mean { flat, layout })
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
        return Err(fail("must select one task a vector".into())
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
