//! CIFAR's Python archives: pickled dicts of labels and one NumPy array, read without running anything.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::planes::{PLANE, SIDE, from_planes};
use super::source::SplitSource;
use super::split::Split;
use crate::checkpoint::pickle::{NodeId, Pickle, PickleNode};
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};

/// The batches of a split.
#[derive(Debug)]
pub(super) struct PickledBatches {
    pub(super) files: Vec<PathBuf>,
    /// The key of the labels: CIFAR-100 has coarse ones too.
    pub(super) labels: &'static str,
    /// The file that lists the names of the classes.
    pub(super) names: PathBuf,
    /// The key of those names in it.
    pub(super) names_key: &'static str,
}

impl SplitSource for PickledBatches {
    fn read(&self) -> Result<Split> {
        let (mut planes, mut labels) = (Vec::new(), Vec::new());
        for file in &self.files {
            let batch = Batch::open(file)?;
            let more = batch.labels(self.labels).map_err(|e| e.at(file))?;
            let pixels = batch.pixels(more.len()).map_err(|e| e.at(file))?;
            planes.try_reserve(pixels.len()).map_err(|_| Error::out_of_memory(pixels.len()))?;
            planes.extend_from_slice(&pixels);
            labels.extend(more);
        }
        let names = match self.names.is_file() {
            true => Batch::open(&self.names)?.texts(self.names_key).map_err(|e| e.at(&self.names))?,
            false => Vec::new(),
        };
        let file = &self.files[0];
        Ok(Split::new(from_planes(planes, SIDE, SIDE, false, file)?, labels).at(file).named(names))
    }
}

/// A pickled dict.
struct Batch {
    mapping: Mapping,
    pickle: Pickle,
}

impl Batch {
    fn open(path: &Path) -> Result<Self> {
        let mapping = Mapping::open(path, MapMode::Map)?;
        let pickle = Pickle::parse_with_arrays(&mapping).map_err(|e| e.at(path))?;
        Ok(Self { mapping, pickle })
    }

    /// The value under `key`, which Python 2 wrote as a string and Python 3 may have written as bytes.
    fn get(&self, key: &str) -> Result<NodeId> {
        let PickleNode::Dict(entries) = self.pickle.value(self.pickle.root()) else {
            return Err(Error::format("no batch of CIFAR images").expected("a pickled dict"));
        };
        let is_key = |id: NodeId| match self.pickle.text(id) {
            Some(text) => text == key,
            None => self.raw(id).is_some_and(|bytes| *bytes == *key.as_bytes()),
        };
        let found = entries.iter().find(|(id, _)| is_key(*id)).map(|(_, value)| *value);
        found.ok_or_else(|| Error::format(format!("no `{key}` in the pickled dict")))
    }

    fn list(&self, key: &str) -> Result<&[NodeId]> {
        match self.pickle.value(self.get(key)?) {
            PickleNode::List(items) => Ok(items),
            _ => Err(Error::format(format!("`{key}` is no list"))),
        }
    }

    fn labels(&self, key: &str) -> Result<Vec<usize>> {
        let label = |id: &NodeId| match self.pickle.value(*id) {
            PickleNode::Int(label) => usize::try_from(*label).ok(),
            _ => None,
        };
        let labels: Option<Vec<usize>> = self.list(key)?.iter().map(label).collect();
        labels.ok_or_else(|| Error::format(format!("`{key}` holds something that is no label")))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let text = |id: &NodeId| match self.pickle.text(*id) {
            Some(text) => Some(text.to_owned()),
            None => String::from_utf8(self.raw(*id)?.into_owned()).ok(),
        };
        let texts: Option<Vec<String>> = self.list(key)?.iter().map(text).collect();
        texts.ok_or_else(|| Error::format(format!("`{key}` holds something that is no name")))
    }

    /// The array `data`, u8 [`count`, 3072].
    fn pixels(&self, count: usize) -> Result<Cow<'_, [u8]>> {
        let wrong = |what: String| {
            Error::format("`data` is no array of CIFAR images")
                .expected(format_args!("u8 [{count}, {}] in C order, by NumPy", 3 * PLANE))
                .got(what)
        };
        let array = self.array(self.get("data")?).ok_or_else(|| wrong("another object".into()))?;
        if array.shape != [count, 3 * PLANE] || !matches!(array.dtype, "u1" | "|u1" | "uint8") || array.is_fortran {
            let order = if array.is_fortran { " in Fortran order" } else { "" };
            return Err(wrong(format!("{} {:?}{order}", array.dtype, array.shape)));
        }
        match array.bytes.len() == count * 3 * PLANE {
            true => Ok(array.bytes),
            false => Err(wrong(format!("{} bytes", array.bytes.len()))),
        }
    }

    /// An array as `_reconstruct` and a state, or as `_frombuffer` (protocol 5) would make it.
    fn array(&self, id: NodeId) -> Option<NumpyArray<'_>> {
        let object = self.pickle.object(id)?;
        let (module, function) = self.pickle.global(object.class)?;
        if !module.starts_with("numpy.") {
            return None;
        }
        match (function, object.state) {
            ("_reconstruct", Some(state)) => {
                let &[_, shape, dtype, is_fortran, data] = self.pickle.tuple(state)? else { return None };
                let is_fortran = !matches!(self.pickle.value(is_fortran), PickleNode::Bool(false) | PickleNode::Int(0));
                self.array_of(data, dtype, shape, is_fortran)
            }
            ("_frombuffer", None) => {
                let &[data, dtype, shape, order] = self.pickle.tuple(object.args)? else { return None };
                self.array_of(data, dtype, shape, self.pickle.text(order)? != "C")
            }
            _ => None,
        }
    }

    fn array_of(&self, data: NodeId, dtype: NodeId, shape: NodeId, is_fortran: bool) -> Option<NumpyArray<'_>> {
        let size = |id: &NodeId| match self.pickle.value(*id) {
            PickleNode::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        };
        let shape = self.pickle.tuple(shape)?.iter().map(size).collect::<Option<Vec<_>>>()?;
        let dtype = self.pickle.object(dtype)?;
        let (_, "dtype") = self.pickle.global(dtype.class)? else { return None };
        let dtype = self.pickle.text(*self.pickle.tuple(dtype.args)?.first()?)?;
        Some(NumpyArray { shape, dtype, is_fortran, bytes: self.raw(data)? })
    }

    /// Bytes however they are pickled: as such, as a Python 2 string, or, by Python 3 for protocol 2, as Latin-1 text
    /// that would be encoded.
    fn raw(&self, id: NodeId) -> Option<Cow<'_, [u8]>> {
        if let Some(range) = self.pickle.bytes(id) {
            return self.mapping.get(range).map(Cow::Borrowed);
        }
        if let Some(text) = self.pickle.text(id) {
            return Some(Cow::Borrowed(text.as_bytes()));
        }
        let object = self.pickle.object(id)?;
        let &[first, ..] = self.pickle.tuple(object.args)? else { return None };
        match self.pickle.global(object.class)? {
            ("_codecs", "encode") => {
                let text = self.pickle.text(first)?;
                let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                bytes.map(Cow::Owned)
            }
            ("builtins", "bytearray") => self.pickle.bytes(first).and_then(|r| self.mapping.get(r)).map(Cow::Borrowed),
            _ => None,
        }
    }
}

/// A NumPy array.
struct NumpyArray<'a> {
    shape: Vec<usize>,
    dtype: &'a str,
    is_fortran: bool,
    bytes: Cow<'a, [u8]>,
}
