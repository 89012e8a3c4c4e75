//! The map from constants of a graph to parameters, kept as JSON.

use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::atomic_file::replace_file;
use crate::error::{Error, Result};
use crate::mmap::read_small;
use crate::weights::View;

/// The largest map that is read: real ones have some hundred bytes for each of a few hundred tensors.
const MAX_BYTES: usize = 64 << 20;

/// The map from constants of a graph to parameters. Written by [`bind`](super::bind), or by hand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphMap {
    /// The input that takes the images.
    pub pixels: String,
    /// The output that gives the embeddings.
    pub output: String,
    /// The inputs that take the place of constants, by name.
    pub tensors: IndexMap<String, Mapped>,
    /// Parameters that the graph may lack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Parameters that the graph may hold several times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repeated: Vec<String>,
}

/// One input and the constant whose place it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapped {
    /// The constant, where its name is another one than the input's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<String>,
    /// The uses where it takes the constant's place: `[node, input]`, both counted from 0 in the order of the file.
    /// Nothing means everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<(usize, usize)>,
    /// The parameters whose sum it is, usually one.
    pub sum: Vec<View>,
    /// Whether it is taken as given, though the constant's values are not those of the base.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchecked: bool,
}

impl Mapped {
    /// Every parameter that its values depend on.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.sum.iter().flat_map(View::parameters)
    }

    /// Whether a batch normalisation is folded into it.
    pub fn is_folded(&self) -> bool {
        self.sum.iter().any(|part| part.norm.is_some())
    }
}

impl GraphMap {
    /// Reads a map from a JSON file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::Format`](crate::ErrorKind::Format) with the line where it
    /// is no map, or has more than 64 MiB.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_small(path, MAX_BYTES, "a map of a graph's constants")?;
        serde_json::from_slice(&text).map_err(|e| Error::format("not a map of a graph's constants").at(path).because(e))
    }

    /// Writes it as JSON; the file is replaced whole or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn save(&self, path: &Path, inputs: &[&Path]) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::new(crate::ErrorKind::Internal, "a map cannot be written").because(e))?;
        replace_file(path, inputs, |sibling| {
            std::fs::write(sibling, text + "\n").map_err(|e| Error::io("cannot write", path, e))
        })
    }
}
