//! A router's file: safetensors, with everything that is no array as JSON in its metadata.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::subspace::Subspaces;
use super::whitening::{self, Whitening};
use super::{FeatureKind, Router, THRESHOLD};
use crate::basis::TaskExpr;
use crate::bundle::{Bundle, BundleUpdate, Fingerprint};
use crate::checkpoint::safetensors;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::Tensor;
use crate::tower::Pooling;
use crate::weights::{arrays_in_memory, save_arrays};

/// The key of the metadata.
const KEY: &str = "taskbasis.router";
/// The version of files of embeddings.
const FIRST_VERSION: u64 = 1;
/// The version of files that say the kind of their features, and the newest that is read.
const VERSION: u64 = 2;
/// What helps where there is none.
const MAKE_IT: &str = "`taskbasis route` makes one";
/// The most tasks.
const MAX_TASKS: usize = 1 << 16;
/// The largest file that is read.
const MAX_BYTES: usize = 1 << 30;

/// The metadata.
#[derive(Serialize, Deserialize)]
struct About {
    version: u64,
    /// [`Fingerprint`].
    base: String,
    pooling: Pooling,
    /// From version 2 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<FeatureKind>,
    /// A task expression.
    features: String,
    tasks: Vec<String>,
    temperature: f64,
    #[serde(default = "threshold")]
    threshold: f64,
    /// A task expression.
    fallback: Option<String>,
}

fn threshold() -> f64 {
    THRESHOLD
}

impl Router {
    /// Reads the router in the file at `path`: one of its own, or the bundle that keeps it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::Format`](crate::ErrorKind::Format), naming the tensor,
    /// when it is none, or what it holds is no router's; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for
    /// one of a newer version; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a bundle that keeps none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if Bundle::is_bundle(path) {
            let bundle = Bundle::open(path)?;
            let missing = || Error::not_found("the bundle keeps no router").at(path).hint(MAKE_IT);
            return Self::of_bundle(&bundle)?.ok_or_else(missing);
        }
        let read = || {
            let mapping = Arc::new(Mapping::open(path, MapMode::Read)?);
            Self::read(&mapping)
        };
        let router: Result<Self> = read();
        Ok(Self { path: Some(path.to_path_buf()), ..router.map_err(|e| e.at(path))? })
    }

    /// The router that a bundle keeps; `None` where it keeps none.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
    /// as [`Router::open`].
    pub fn of_bundle(bundle: &Bundle) -> Result<Option<Self>> {
        let Some(tensor) = bundle.router() else { return Ok(None) };
        let read = || {
            let bytes = tensor.in_memory()?.to_bytes()?.into_owned();
            Self::read(&Arc::new(Mapping::from_vec(bytes, bundle.path())))
        };
        let router = read().map_err(|e| e.at(bundle.path()))?;
        Ok(Some(Self { path: Some(bundle.path().to_path_buf()), ..router }))
    }

    /// Puts the router into the bundle that `update` writes, in the place of the one that it keeps.
    ///
    /// # Errors
    /// As [`Router::check_base`]; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) and
    /// [`ErrorKind::NotRecoverable`](crate::ErrorKind::NotRecoverable) for a task, features or a fallback that the
    /// bundle does not have.
    pub fn keep_in(&self, update: &mut BundleUpdate<'_>) -> Result<()> {
        let bundle = update.bundle();
        self.check_base(bundle.fingerprint())?;
        let basis = bundle.basis()?;
        let tasks: Vec<TaskExpr> = self.tasks.iter().map(TaskExpr::task).collect();
        for expr in tasks.iter().chain([&self.features]).chain(&self.fallback) {
            basis.coefficients(expr).map_err(|e| e.at(bundle.path()))?;
        }
        let bytes = self.with_arrays(arrays_in_memory)?;
        update.keep_router(bytes);
        Ok(())
    }

    fn read(mapping: &Arc<Mapping>) -> Result<Self> {
        if mapping.len() > MAX_BYTES {
            let error = Error::format("too large for a router").expected(format_args!("at most {MAX_BYTES} bytes"));
            return Err(error.got(mapping.len()));
        }
        if !safetensors::is_safetensors(&mapping.head(16)?) {
            return Err(not_a_router("it is no safetensors file"));
        }
        let contents = safetensors::read(mapping)?;
        let Some(about) = contents.metadata.get(KEY) else {
            return Err(not_a_router(format_args!("its metadata has no `{KEY}`")));
        };
        let version = serde_json::from_str::<Version>(about).map_err(broken)?.version;
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            let error = Error::unsupported("a router of another version");
            return Err(error.expected(format_args!("{FIRST_VERSION} to {VERSION}")).got(version));
        }
        let about: About = serde_json::from_str(about).map_err(broken)?;
        let kind = about.check()?;
        let tensor = |name: &str| {
            let found = contents.tensors.iter().find(|(known, _)| known == name);
            match found.map(|(_, stored)| stored) {
                Some(Ok(tensor)) => Ok(tensor),
                Some(Err(unread)) => Err(unread.error().tensor(name)),
                None => Err(Error::format("the router has no such tensor").tensor(name)),
            }
        };
        let count = about.tasks.len();
        let extents = |name: &'static str, rank: usize| -> Result<Vec<usize>> {
            let shape = tensor(name)?.shape();
            match shape.len() == rank && shape[0] == count {
                true => Ok(shape.to_vec()),
                false => Err(wrong_shape(name, shape, rank, count)),
            }
        };
        let (embedding, components) = (extents("means", 2)?[1], extents("directions", 3)?[1]);
        if embedding == 0 || components >= embedding {
            return Err(Error::format("the directions do not fit the features")
                .tensor("directions")
                .expected(format_args!("fewer than the {embedding} dimensions of a feature"))
                .got(components));
        }
        let values = |name: &'static str, shape: &[usize]| -> Result<Vec<f32>> {
            let tensor: &Tensor = tensor(name)?;
            if tensor.shape() != shape || !tensor.dtype().is_float() {
                return Err(Error::format("not as a router has it")
                    .tensor(name)
                    .expected(format_args!("floats of shape {shape:?}"))
                    .got(format_args!("{} {:?}", tensor.dtype(), tensor.shape())));
            }
            Ok(tensor.to_f32().map_err(|e| e.tensor(name))?.into_owned())
        };
        if !embedding.is_multiple_of(kind.parts()) {
            let error = Error::format("hidden features have an even number of values").tensor("means");
            return Err(error.got(embedding));
        }
        let whitening = match kind {
            FeatureKind::Embedding => None,
            FeatureKind::Hidden => {
                let extent = whitening::values(embedding).ok_or_else(|| wrong_size(embedding))?;
                Some(Whitening::new(values(whitening::NAME, &[extent])?)?)
            }
        };
        let subspaces = Subspaces {
            whitening,
            means: values("means", &[count, embedding])?,
            directions: values("directions", &[count, components, embedding])?,
            variances: values("variances", &[count, components + 1])?,
            limits: values("limits", &[count])?,
        };
        subspaces.check()?;
        let expression = |text: &str| text.parse::<TaskExpr>();
        Ok(Self {
            path: None,
            base: about.base.parse::<Fingerprint>()?,
            pooling: about.pooling,
            kind,
            features: expression(&about.features)?,
            fallback: about.fallback.as_deref().map(expression).transpose()?,
            tasks: about.tasks,
            subspaces,
            temperature: about.temperature,
            threshold: about.threshold,
        })
    }

    /// Writes the router to `path`, which is replaced whole or not at all; none of `inputs` is overwritten. The same
    /// router gives the same bytes.
    ///
    /// # Errors
    /// As [`save_arrays`].
    pub fn save(&self, path: impl AsRef<Path>, inputs: &[&Path]) -> Result<()> {
        self.with_arrays(|arrays, about| save_arrays(path.as_ref(), arrays, about, inputs))
    }

    /// What `write` makes of the file's arrays and metadata.
    fn with_arrays<T>(
        &self,
        write: impl FnOnce(&[(&str, &[usize], &[f32])], &[(&str, String)]) -> Result<T>,
    ) -> Result<T> {
        let kind = Some(self.kind).filter(|kind| *kind != FeatureKind::Embedding);
        let about = About {
            version: if kind.is_some() { VERSION } else { FIRST_VERSION },
            base: self.base.to_string(),
            pooling: self.pooling,
            kind,
            features: self.features.to_string(),
            tasks: self.tasks.clone(),
            temperature: self.temperature,
            threshold: self.threshold,
            fallback: self.fallback.as_ref().map(TaskExpr::to_string),
        };
        let about = serde_json::to_string(&about).map_err(broken)?;
        let (t, e, k) = (self.tasks.len(), self.embedding_dim(), self.components());
        let arrays = self.subspaces.arrays();
        let triangle = [arrays.last().map_or(0, |(_, values)| values.len())];
        let shapes: [&[usize]; 5] = [&[t, e], &[t, k, e], &[t, k + 1], &[t], &triangle];
        let arrays: Vec<_> = arrays.iter().zip(shapes).map(|(&(name, values), shape)| (name, shape, values)).collect();
        write(&arrays, &[(KEY, about)])
    }
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    version: u64,
}

impl About {
    /// Checks it, and tells the kind of the features.
    fn check(&self) -> Result<FeatureKind> {
        let wrong = |what: &str| Error::format(format!("the router's {what}"));
        let count = self.tasks.len();
        if count == 0 || count > MAX_TASKS {
            return Err(wrong("number of tasks").expected(format_args!("1 to {MAX_TASKS}")).got(count));
        }
        let mut names: Vec<&String> = self.tasks.iter().collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(wrong("tasks: one is there twice").got(format_args!("`{}`", twice[0])));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(wrong("temperature").expected("a positive number").got(self.temperature));
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err(wrong("threshold").expected("0 to 1").got(self.threshold));
        }
        match (self.version, self.kind) {
            (FIRST_VERSION, _) => Ok(FeatureKind::Embedding),
            (_, Some(kind)) => Ok(kind),
            (_, None) => Err(wrong("kind of features is not said").expected("embedding or hidden")),
        }
    }
}

fn wrong_shape(name: &str, shape: &[usize], rank: usize, tasks: usize) -> Error {
    Error::format("not as a router has it")
        .tensor(name)
        .expected(format_args!("{rank} extents, the first {tasks}, the number of tasks"))
        .got(format_args!("{shape:?}"))
}

fn wrong_size(extent: usize) -> Error {
    Error::format("larger than memory can hold").tensor(whitening::NAME).got(format_args!("{extent} rows"))
}

fn not_a_router(why: impl std::fmt::Display) -> Error {
    Error::format(format!("not a router: {why}")).hint(MAKE_IT)
}

fn broken(error: serde_json::Error) -> Error {
    Error::format("the router's metadata are broken").because(error)
}
