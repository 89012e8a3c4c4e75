//! Opening: the header and every rule of the format that needs no look at the tensors.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use twox_hash::XxHash3_64;

use super::alignment::{ALIGNMENT, PAGE};
use super::format::{BaseRecord, BasisRecord, CheckedMetadata, MAGIC, Metadata, PREFIX, Role};
use super::keys::in_file;
use super::opened::{Bundle, HeadTensors};
use super::quantise::{BlocksRecord, StoredFormat};
use crate::atomic_file::FileVersion;
use crate::basis::Method;
use crate::checkpoint::safetensors;
use crate::error::{Error, ErrorKind, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::{DType, Source, Tensor};

/// The times that a file may be another between two looks at it, before opening is given up.
const MAX_LOOKS: usize = 10;

impl Bundle {
    /// Whether the file at `path` is a bundle, of whatever version, judged by its first bytes.
    pub fn is_bundle(path: impl AsRef<Path>) -> bool {
        use std::io::Read;

        let path = path.as_ref();
        let mut first = [0; PREFIX + MAGIC.len()];
        // Opening a pipe would wait for a program at its other end.
        std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
            && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok()
            && first[PREFIX..] == *MAGIC
    }

    /// Maps the file and checks its header, the header's checksum, and everything that can be known without looking at
    /// the tensors: names, types, shapes, places, alignment, metadata. What the tensors hold is not read;
    /// [`Bundle::verify`] does that.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be opened;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming file and tensor, when a rule of the format is broken;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for another version of the format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, MapMode::default())
    }

    /// [`Bundle::open`] with a choice between mapping and reading.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        let path = path.as_ref();
        let version = || FileVersion::of(path).ok();
        let mut before = version();
        // Between two looks at its version it is that one which is opened.
        for _ in 0..MAX_LOOKS {
            let mapping = Arc::new(Mapping::open(path, mode)?);
            let after = version();
            if after == before {
                return read(mapping, after).map_err(|e| e.at(path));
            }
            before = after;
        }
        Err(Error::new(ErrorKind::Io, "another program changes it again and again").at(path))
    }

    /// Opens a bundle of bytes that are in memory or mapped already.
    ///
    /// # Errors
    /// As [`Bundle::open`], but for the file's.
    pub fn parse(mapping: Arc<Mapping>) -> Result<Self> {
        let path = mapping.path().to_path_buf();
        let version = FileVersion::of(&path).ok();
        read(mapping, version).map_err(|e| e.at(path))
    }
}

fn read(mapping: Arc<Mapping>, version: Option<FileVersion>) -> Result<Bundle> {
    if mapping.head(PREFIX + MAGIC.len())?.get(PREFIX..) != Some(MAGIC) {
        return Err(Error::format("not a bundle: it does not begin with the metadata of one")
            .hint("`taskbasis pack` makes a bundle of a basis folder"));
    }
    let contents = safetensors::read(&mapping)?;
    let metadata = Metadata::read(&contents.metadata)?;
    let header_bytes = contents.header_bytes;
    let tensors = contents.tensors.into_iter().map(|(name, stored)| match stored {
        Ok(tensor) => Ok((name, tensor)),
        Err(unread) => Err(unread.error().tensor(name)),
    });
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    check_places(header_bytes, &tensors)?;
    let checksums = read_checksums(&mapping, header_bytes, &tensors)?;

    let CheckedMetadata { fingerprint, method, residual_tasks } = metadata.check()?;
    let parameters = metadata.encoder.parameters();
    let mut sorter =
        Sorter { metadata: &metadata, parameters: &parameters, found: TensorsByRole::default(), used: HashSet::new() };
    for (tensor_name, tensor) in &tensors {
        sorter.take(tensor_name, tensor).map_err(|e| e.tensor(tensor_name))?;
    }
    let Sorter { mut found, used, .. } = sorter;
    if let Some(unused) = metadata.blocks.keys().find(|key| !used.contains(key.as_str())) {
        return Err(Error::format("the metadata say how it is quantised, and there is no such tensor of bytes")
            .tensor(unused.as_str()));
    }
    if metadata.graph.is_some() && found.graph.is_none() {
        return Err(Error::format("missing: the metadata say what its inputs are").tensor(Role::Graph.to_string()));
    }
    Ok(Bundle {
        header_bytes,
        method,
        fingerprint,
        base: base(&metadata.base, &parameters, &mut found.base)?,
        vectors: vectors(&metadata.basis, &found)?,
        recovery: recovery(&metadata.basis, method, found.recovery.as_ref())?,
        heads: heads(&metadata, &found)?,
        graph: found.graph,
        golden: found.golden,
        router: found.router,
        parameters,
        residual_tasks,
        checksums,
        tensors,
        metadata,
        mapping,
        version,
    })
}

/// Checks alignment, the order of the sections, and padding.
fn check_places(header_bytes: usize, tensors: &[(String, Tensor)]) -> Result<()> {
    if !header_bytes.is_multiple_of(PAGE) {
        return Err(Error::format("the header does not end at a page")
            .expected(format_args!("a multiple of {PAGE} bytes"))
            .got(header_bytes));
    }
    let mut section = None;
    for (i, (tensor_name, tensor)) in tensors.iter().enumerate() {
        let fail = |what: &str| Error::format(what.to_owned()).tensor(tensor_name);
        let role =
            Role::of(tensor_name).ok_or_else(|| fail("a tensor that the format does not know").got(tensor.dtype()))?;
        let Some(its) = role.section() else {
            let fine = tensor.dtype() == DType::U8 && tensor.shape().len() == 1 && (1..PAGE).contains(&tensor.numel());
            let between = i > 0 && i + 1 < tensors.len() && !is_padding(&tensors[i - 1].0);
            if fine && between {
                continue;
            }
            return Err(fail("padding must be bytes between two tensors, less than a page of them").got(format_args!(
                "{} {:?}",
                tensor.dtype(),
                tensor.shape()
            )));
        };
        let alignment = if section == Some(its) { ALIGNMENT } else { PAGE };
        if !tensor.offset().is_multiple_of(alignment) {
            return Err(fail("a tensor is not aligned")
                .expected(format_args!("a multiple of {alignment} bytes from the file's start"))
                .got(tensor.offset()));
        }
        if section.is_some_and(|before| before > its) {
            return Err(fail("the sections are not in their order"));
        }
        section = Some(its);
    }
    Ok(())
}

pub(super) fn is_padding(tensor_name: &str) -> bool {
    matches!(Role::of(tensor_name), Some(Role::Padding(_)))
}

/// The checksums: one of the header, then one per tensor in the order of their bytes, padding left out.
fn read_checksums(mapping: &Mapping, header_bytes: usize, tensors: &[(String, Tensor)]) -> Result<Vec<u64>> {
    let count = tensors.iter().filter(|(name, _)| !is_padding(name)).count();
    let its_name = || Role::Checksums.to_string();
    let Some((_, table)) = tensors.last().filter(|(last, _)| Role::of(last) == Some(Role::Checksums)) else {
        return Err(Error::format("the file does not end with its checksums").tensor(its_name()));
    };
    // One per tensor but itself, and the header's.
    if table.dtype() != DType::U64 || table.shape() != [count] {
        return Err(Error::format("must hold a checksum of the header and one per tensor")
            .tensor(its_name())
            .expected(format_args!("u64 [{count}]"))
            .got(format_args!("{} {:?}", table.dtype(), table.shape())));
    }
    let table = table.in_memory()?;
    let bytes = table.to_bytes()?;
    let sums: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let header = XxHash3_64::oneshot(&mapping.head(header_bytes)?);
    // `count` counts the table itself, so there is a first one.
    match sums[0] {
        told if told == header => Ok(sums),
        told => Err(wrong_checksum("the header", told, header)),
    }
}

pub(super) fn wrong_checksum(what: &str, told: u64, got: u64) -> Error {
    Error::format(format!("{what} has another checksum than the file says: its bytes were changed"))
        .expected(format_args!("{told:016x}"))
        .got(format_args!("{got:016x}"))
        .hint("Copy or download the bundle again")
}

/// The tensor, which must be u8 `[N]`: a file within the file.
fn row_of_bytes(what: &str, tensor: &Tensor) -> Result<Tensor> {
    if tensor.dtype() == DType::U8 && tensor.shape().len() == 1 && tensor.numel() > 0 {
        return Ok(tensor.clone());
    }
    let got = format_args!("{} {:?}", tensor.dtype(), tensor.shape());
    Err(Error::format(format!("{what} is a row of bytes")).expected("u8 [N]").got(got))
}

/// The tensors of a bundle, by their roles.
#[derive(Default)]
struct TensorsByRole {
    base: HashMap<String, Tensor>,
    vectors: IndexMap<String, Vec<Source>>,
    mean: HashMap<String, Source>,
    residuals: HashMap<(usize, String), Source>,
    weights: IndexMap<String, Tensor>,
    biases: HashMap<String, Tensor>,
    recovery: Option<Tensor>,
    graph: Option<Tensor>,
    golden: Option<Tensor>,
    router: Option<Tensor>,
}

/// The longest embedding that a carried graph may give.
const MAX_EMBEDDING: usize = 1 << 16;

/// Sorts tensors by their roles, and checks each against the metadata.
struct Sorter<'a> {
    metadata: &'a Metadata,
    parameters: &'a IndexMap<String, Vec<usize>>,
    found: TensorsByRole,
    /// The entries under `taskbasis.blocks` that tensors were found for.
    used: HashSet<&'a str>,
}

impl<'a> Sorter<'a> {
    /// Takes a tensor, of which there is one per name: `safetensors::read` sees to that.
    fn take(&mut self, tensor_name: &'a str, tensor: &Tensor) -> Result<()> {
        let Some(role) = Role::of(tensor_name) else { return Ok(()) };
        let BasisRecord { vectors, residuals, mean, .. } = &self.metadata.basis;
        match role {
            Role::Base(parameter) => {
                expect_shape(tensor, self.shape(parameter)?)?;
                expect_float(tensor)?;
                self.found.base.insert(parameter.to_owned(), tensor.clone());
            }
            Role::Vectors(parameter) => {
                let sources = self.sources(tensor_name, tensor, parameter, Some(*vectors))?;
                self.found.vectors.insert(parameter.to_owned(), sources);
            }
            Role::Mean(parameter) if *mean => {
                let source = self.sources(tensor_name, tensor, parameter, None)?;
                self.found.mean.extend(source.into_iter().map(|source| (parameter.to_owned(), source)));
            }
            Role::Residual(index, parameter) if index < residuals.len() => {
                let source = self.sources(tensor_name, tensor, parameter, None)?;
                self.found.residuals.extend(source.into_iter().map(|source| ((index, parameter.to_owned()), source)));
            }
            Role::Mean(_) | Role::Residual(..) => {
                return Err(Error::format("the metadata tell of no such vector"));
            }
            Role::HeadWeight(task) => {
                self.found.weights.insert(task.to_owned(), tensor.clone());
            }
            Role::HeadBias(task) => {
                self.found.biases.insert(task.to_owned(), tensor.clone());
            }
            Role::Recovery => self.found.recovery = Some(tensor.clone()),
            Role::Graph => self.found.graph = Some(row_of_bytes("a graph", tensor)?),
            Role::Router => self.found.router = Some(row_of_bytes("a router", tensor)?),
            Role::Golden => {
                // A carried graph may give embeddings of a length of its own.
                let length = self.metadata.graph.is_none().then_some(self.metadata.encoder.arch.embed_dim);
                let is_fine = tensor.shape().len() == 1 && (1..=MAX_EMBEDDING).contains(&tensor.numel());
                if tensor.dtype() != DType::F32 || !is_fine || length.is_some_and(|length| length != tensor.numel()) {
                    return Err(Error::format("the golden embedding is none of this model's")
                        .expected(format_args!("f32 [{}]", self.metadata.encoder.arch.embed_dim))
                        .got(format_args!("{} {:?}", tensor.dtype(), tensor.shape())));
                }
                self.found.golden = Some(tensor.clone());
            }
            Role::Padding(_) | Role::Checksums => {}
        }
        Ok(())
    }

    fn shape(&self, parameter: &str) -> Result<&'a [usize]> {
        match self.parameters.get(parameter) {
            Some(shape) => Ok(shape),
            None => Err(Error::format("the architecture has no such parameter")),
        }
    }

    /// The sources of `count` vectors, which lie one after another in `tensor`; `None` is a single one without that
    /// dimension.
    fn sources(
        &mut self,
        tensor_name: &'a str,
        tensor: &Tensor,
        parameter: &str,
        count: Option<usize>,
    ) -> Result<Vec<Source>> {
        let shape = self.shape(parameter)?;
        let (rows, whole) = match count {
            Some(count) => (count, [&[count], shape].concat()),
            None => (1, shape.to_vec()),
        };
        let Some(record @ BlocksRecord { shape: told, .. }) = self.metadata.blocks.get(tensor_name) else {
            expect_shape(tensor, &whole)?;
            expect_float(tensor)?;
            let Some(count) = count else { return Ok(vec![tensor.clone().into()]) };
            return (0..count).map(|m| Ok(tensor.rows(m..m + 1)?.reshaped(shape)?.into())).collect();
        };
        self.used.insert(tensor_name);
        let format = StoredFormat::of_record(record).map_err(in_file)?;
        if told != shape {
            return Err(Error::format("the metadata give it another shape than the architecture")
                .expected(format_args!("{shape:?}"))
                .got(format_args!("{told:?}")));
        }
        let no_matrix = || Error::format("its shape overflows, or is no matrix's").got(format_args!("{shape:?}"));
        let bytes = format.value_bytes(shape).ok_or_else(no_matrix)?;
        let stride = format.stored_bytes(shape).map_err(|_| no_matrix())?;
        if tensor.dtype() != DType::U8 {
            return Err(Error::format("blocks are bytes").expected("u8").got(tensor.dtype()));
        }
        match count {
            Some(count) => expect_shape(tensor, &[count, stride])?,
            None => expect_shape(tensor, &[stride])?,
        }
        (0..rows)
            .map(|m| {
                let start = tensor.offset() + m * stride;
                format.source(tensor.mapping(), start..start + bytes, shape)
            })
            .collect()
    }
}

fn expect_shape(tensor: &Tensor, shape: &[usize]) -> Result<()> {
    if tensor.shape() == shape {
        return Ok(());
    }
    Err(Error::format("has another shape than it must have")
        .expected(format_args!("{shape:?}"))
        .got(format_args!("{:?}", tensor.shape())))
}

fn expect_float(tensor: &Tensor) -> Result<()> {
    match tensor.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => Ok(()),
        other => Err(Error::format("has a type that it may not have").expected("f32, f16 or bf16").got(other)),
    }
}

/// The stored base: all of the architecture's parameters; `None` where it is left out.
fn base(
    record: &BaseRecord,
    parameters: &IndexMap<String, Vec<usize>>,
    found: &mut HashMap<String, Tensor>,
) -> Result<Option<Vec<(String, Tensor)>>> {
    if !record.stored {
        return match found.keys().next() {
            None => Ok(None),
            Some(parameter) => {
                Err(Error::format("the metadata say that the base is left out")
                    .tensor(Role::Base(parameter).to_string()))
            }
        };
    }
    let all = parameters.keys().map(|parameter| match found.remove(parameter) {
        Some(tensor) => Ok((parameter.clone(), tensor)),
        None => Err(Error::format("missing").tensor(Role::Base(parameter).to_string())),
    });
    all.collect::<Result<_>>().map(Some)
}

/// The parameters that any vector changes, each with its sources in the order in which coefficients come: the M
/// vectors, PCA's mean, the residuals.
fn vectors(record: &BasisRecord, found: &TensorsByRole) -> Result<IndexMap<String, Vec<Source>>> {
    let missing =
        |role: Role<'_>| Error::format("missing: another vector changes this parameter").tensor(role.to_string());
    let beside = found.mean.keys().chain(found.residuals.keys().map(|(_, parameter)| parameter));
    if let Some(parameter) = beside.into_iter().find(|parameter| !found.vectors.contains_key(*parameter)) {
        return Err(missing(Role::Vectors(parameter)));
    }
    let mut all = found.vectors.clone();
    for (parameter, sources) in &mut all {
        if record.mean {
            let mean = found.mean.get(parameter).ok_or_else(|| missing(Role::Mean(parameter)))?;
            sources.push(mean.clone());
        }
        for r in 0..record.residuals.len() {
            let residual = found.residuals.get(&(r, parameter.clone()));
            sources.push(residual.ok_or_else(|| missing(Role::Residual(r, parameter)))?.clone());
        }
    }
    Ok(all)
}

/// The recovery table: M rows of T; a task that cannot be recovered has a column of NaN.
fn recovery(record: &BasisRecord, method: Method, tensor: Option<&Tensor>) -> Result<Vec<f64>> {
    let its_name = || Role::Recovery.to_string();
    let tensor = tensor.ok_or_else(|| Error::format("missing").tensor(its_name()))?;
    let (rows, columns) = (record.vectors, record.tasks.len());
    let check = || {
        if tensor.dtype() != DType::F64 {
            return Err(Error::format("has a type that it may not have").expected("f64").got(tensor.dtype()));
        }
        expect_shape(tensor, &[rows, columns])?;
        let table = tensor.in_memory()?.to_f64()?;
        for (t, task) in record.tasks.iter().enumerate() {
            let column = || (0..rows).map(|m| table[m * columns + t]);
            let left_out = method == Method::RandomSample && column().all(f64::is_nan);
            if !left_out && !column().all(f64::is_finite) {
                return Err(Error::format(format!("a coefficient of task `{task}` is not finite")));
            }
        }
        Ok(table)
    };
    check().map_err(|e| e.tensor(its_name()))
}

fn heads(metadata: &Metadata, found: &TensorsByRole) -> Result<IndexMap<String, HeadTensors>> {
    if let Some(task) = found.biases.keys().find(|task| !found.weights.contains_key(*task)) {
        return Err(Error::format("missing").tensor(Role::HeadWeight(task).to_string()));
    }
    if let Some(task) = metadata.classes.keys().find(|task| !found.weights.contains_key(*task)) {
        return Err(Error::format(format!("the metadata name classes of `{task}`, and it has no head")));
    }
    if let Some(task) = metadata.heads.tasks().find(|task| !found.weights.contains_key(*task)) {
        return Err(Error::format(format!("the metadata say how `{task}` is classified, and it has no head")));
    }
    let check = |tensor: &Tensor, shape: &[usize], role: Role<'_>| {
        let typed = match tensor.dtype() {
            DType::F32 => expect_shape(tensor, shape),
            other => Err(Error::format("has a type that it may not have").expected("f32").got(other)),
        };
        typed.map_err(|e| e.tensor(role.to_string()))
    };
    found
        .weights
        .iter()
        .map(|(task, weight)| {
            let classes = weight.shape().first().copied().unwrap_or(0).max(1);
            check(weight, &[classes, metadata.encoder.arch.embed_dim], Role::HeadWeight(task))?;
            let role = Role::HeadBias(task);
            let bias = found.biases.get(task).ok_or_else(|| Error::format("missing").tensor(role.to_string()))?;
            check(bias, &[classes], role)?;
            // The metadata name the classes of some heads only.
            let names = metadata.classes.get(task).cloned().unwrap_or_default();
            if !names.is_empty() && names.len() != classes {
                return Err(Error::format(format!("another number of class names for `{task}` than its head has"))
                    .expected(classes)
                    .got(names.len()));
            }
            let (normalises, function) = metadata.heads.of(task);
            let (weight, bias) = (weight.clone(), bias.clone());
            Ok((task.clone(), HeadTensors { weight, bias, classes: names, normalises, function }))
        })
        .collect()
}
