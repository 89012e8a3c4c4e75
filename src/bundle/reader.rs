//! Opening: the header and every rule of the format that needs no look at the tensors.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use twox_hash::XxHash3_64;

use super::format::{
    ALIGNMENT, About, BaseInfo, BasisInfo, BlockInfo, MAGIC, PAGE, PREFIX, Role, VERSION, block_stride, name,
};
use super::{Bundle, Fingerprint, HeadTensors, Pieces};
use crate::basis::Method;
use crate::checkpoint::safetensors;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::preprocess::Preprocess;
use crate::tensor::{BlockFormat, Blocks, DType, Source, Tensor};

/// Whether the file at `path` is a bundle, of whatever version, judged by its first bytes.
pub(super) fn is_bundle(path: &Path) -> bool {
    use std::io::Read;

    let mut first = [0; PREFIX + MAGIC.len()];
    // A pipe would wait for somebody to write.
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
        && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok()
        && first[PREFIX..] == *MAGIC
}

pub(super) fn open(path: &Path, mode: MapMode) -> Result<Bundle> {
    parse(Arc::new(Mapping::open(path, mode)?))
}

pub(super) fn parse(mapping: Arc<Mapping>) -> Result<Bundle> {
    let path = mapping.path().to_path_buf();
    read(mapping).map_err(|e| e.at(path))
}

fn read(mapping: Arc<Mapping>) -> Result<Bundle> {
    if mapping.get(PREFIX..PREFIX + MAGIC.len()) != Some(MAGIC) {
        return Err(Error::format("not a bundle: it does not begin with the metadata of one")
            .hint("`taskbasis pack` makes a bundle of a basis folder"));
    }
    let contents = safetensors::read(&mapping)?;
    let about = About::read(&contents.metadata)?;
    // `read` has made sure that so many bytes are there.
    let length = mapping.first_chunk::<PREFIX>().map_or(0, |bytes| u64::from_le_bytes(*bytes)) as usize;
    let header_bytes = PREFIX + length;
    let tensors = contents.tensors.into_iter().map(|(name, stored)| match stored {
        Ok(tensor) => Ok((name, tensor)),
        Err(unread) => Err(unread.error().tensor(name)),
    });
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    check_places(header_bytes, &tensors)?;
    let checksums = read_checksums(&mapping, header_bytes, &tensors)?;

    let AboutChecked { fingerprint, method } = check_about(&about)?;
    let parameters: IndexMap<String, Vec<usize>> = about.arch.parameters().into_iter().collect();
    let mut sorter = Sorter { about: &about, parameters: &parameters, found: Found::default(), used: HashSet::new() };
    for (tensor_name, tensor) in &tensors {
        sorter.take(tensor_name, tensor).map_err(|e| e.tensor(tensor_name))?;
    }
    let Sorter { mut found, used, .. } = sorter;
    if let Some(unused) = about.blocks.keys().find(|key| !used.contains(key.as_str())) {
        return Err(Error::format("the metadata say how it is quantised, and there is no such tensor of bytes")
            .tensor(unused.as_str()));
    }
    if about.graph.is_some() && found.graph.is_none() {
        return Err(Error::format("missing: the metadata say what its inputs are").tensor(name::GRAPH));
    }
    let base = base(&about.base, &parameters, &mut found.base)?;
    let pieces = pieces(&about.basis, &found)?;
    let recovery = recovery(&about.basis, method, found.recovery.as_ref())?;
    let heads = heads(&about, &found)?;
    Ok(Bundle {
        header_bytes,
        method,
        fingerprint,
        base,
        parameters,
        pieces,
        recovery,
        heads,
        graph: found.graph,
        golden: found.golden,
        checksums,
        tensors,
        about,
        mapping,
    })
}

/// Alignment, the order of the sections, padding, and the checksums at the end.
fn check_places(header_bytes: usize, tensors: &[(String, Tensor)]) -> Result<()> {
    if !header_bytes.is_multiple_of(PAGE) {
        return Err(Error::format("the header does not end at a page")
            .expected(format_args!("a multiple of {PAGE} bytes"))
            .got(header_bytes));
    }
    let mut section = None;
    for (i, (tensor_name, tensor)) in tensors.iter().enumerate() {
        let fail = |what: &str| Error::format(what.to_owned()).tensor(tensor_name);
        let role = Role::of(tensor_name).ok_or_else(|| {
            fail(&format!("a tensor that version {VERSION} of the format does not know")).got(tensor.dtype())
        })?;
        let Some(its) = role.section() else {
            let fine = tensor.dtype() == DType::U8 && tensor.shape().len() == 1 && (1..PAGE).contains(&tensor.numel());
            let between = i > 0 && i + 1 < tensors.len() && Role::of(&tensors[i - 1].0) != Some(Role::Padding);
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

/// One for the header, then one a tensor in the order of their bytes, padding left out.
fn read_checksums(mapping: &Mapping, header_bytes: usize, tensors: &[(String, Tensor)]) -> Result<Vec<u64>> {
    let count = tensors.iter().filter(|(name, _)| Role::of(name) != Some(Role::Padding)).count();
    let missing = || Error::format("the file does not end with its checksums").tensor(name::CHECKSUMS);
    let (last, table) = tensors.last().ok_or_else(missing)?;
    if last != name::CHECKSUMS {
        return Err(missing());
    }
    // One for each but itself, and the header's.
    if table.dtype() != DType::U64 || table.shape() != [count] {
        return Err(Error::format("must hold a checksum of the header and one a tensor")
            .tensor(name::CHECKSUMS)
            .expected(format_args!("u64 [{count}]"))
            .got(format_args!("{} {:?}", table.dtype(), table.shape())));
    }
    let bytes = table.bytes().unwrap_or_default().as_chunks::<8>().0;
    let sums: Vec<u64> = bytes.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let header = mapping.get(..header_bytes).map_or(0, XxHash3_64::oneshot);
    match sums.first() {
        Some(&told) if told == header => Ok(sums),
        Some(&told) => Err(wrong_checksum("the header", told, header)),
        None => Err(missing()),
    }
}

pub(super) fn wrong_checksum(what: &str, told: u64, got: u64) -> Error {
    Error::format(format!("{what} has another checksum than the file says: its bytes were changed"))
        .expected(format_args!("{told:016x}"))
        .got(format_args!("{got:016x}"))
        .hint("Copy or download the bundle again")
}

struct AboutChecked {
    fingerprint: Fingerprint,
    method: Method,
}

/// What the metadata say, as far as they can be checked by themselves.
fn check_about(about: &About) -> Result<AboutChecked> {
    let About { arch, basis, preprocess, base, lambda, .. } = about;
    arch.check().map_err(in_file)?;
    check_preprocess(about)?;
    let BasisInfo { method, tasks, vectors, mean, residuals } = basis;
    let method =
        Method::parse(method).ok_or_else(|| Error::unsupported("an unknown method").got(format_args!("`{method}`")))?;
    let fail = |what: String| Err(Error::format(what));
    if tasks.is_empty() || *vectors == 0 {
        return fail("a basis has at least one task and one vector".into());
    }
    let mut known = HashSet::new();
    if let Some(task) = tasks.iter().find(|task| task.is_empty() || !known.insert(task.as_str())) {
        return fail(format!("task `{task}` is named twice, or it is empty"));
    }
    let mut with_residual = HashSet::new();
    if let Some(task) = residuals.iter().find(|task| !known.contains(task.as_str()) || !with_residual.insert(*task)) {
        return fail(format!("a residual for `{task}`, which is no task of the basis or has one already"));
    }
    if *mean != (method == Method::Pca) {
        return fail(format!("a {method} basis {} a mean", if *mean { "has not" } else { "has" }));
    }
    if [lambda.task, lambda.merged, lambda.all].into_iter().flatten().any(|lambda| !lambda.is_finite()) {
        return fail("a suggested scaling coefficient is not finite".into());
    }
    if preprocess.image_size != arch.image_size() {
        return Err(Error::format("preprocessing gives another image size than the architecture takes")
            .expected(arch.image_size())
            .got(preprocess.image_size));
    }
    Ok(AboutChecked { fingerprint: base.fingerprint.parse()?, method })
}

fn check_preprocess(about: &About) -> Result<Preprocess> {
    about.preprocess.preprocess().map_err(in_file)
}

/// A caller's mistake elsewhere is a broken file here.
fn in_file(error: Error) -> Error {
    Error::format("the metadata cannot be used").because(error)
}

/// Every tensor by its role.
#[derive(Default)]
struct Found {
    base: HashMap<String, Tensor>,
    vectors: IndexMap<String, Vec<Source>>,
    mean: HashMap<String, Source>,
    residuals: HashMap<(usize, String), Source>,
    weights: IndexMap<String, Tensor>,
    biases: HashMap<String, Tensor>,
    recovery: Option<Tensor>,
    graph: Option<Tensor>,
    golden: Option<Tensor>,
}

/// No encoder gives longer embeddings.
const MAX_EMBEDDING: usize = 1 << 16;

struct Sorter<'a> {
    about: &'a About,
    parameters: &'a IndexMap<String, Vec<usize>>,
    found: Found,
    /// The entries under `taskbasis.blocks` that were.
    used: HashSet<&'a str>,
}

impl<'a> Sorter<'a> {
    /// `safetensors::read` lets no two tensors have one name.
    fn take(&mut self, tensor_name: &'a str, tensor: &Tensor) -> Result<()> {
        let Some(role) = Role::of(tensor_name) else { return Ok(()) };
        let BasisInfo { vectors, residuals, mean, .. } = &self.about.basis;
        match role {
            Role::Base(parameter) => {
                expect_shape(tensor, self.shape(parameter)?)?;
                expect_float(tensor)?;
                self.found.base.insert(parameter.to_owned(), tensor.clone());
            }
            Role::Vectors(parameter) => {
                let pieces = self.pieces(tensor_name, tensor, parameter, Some(*vectors))?;
                self.found.vectors.insert(parameter.to_owned(), pieces);
            }
            Role::Mean(parameter) if *mean => {
                let piece = self.pieces(tensor_name, tensor, parameter, None)?;
                self.found.mean.extend(piece.into_iter().map(|piece| (parameter.to_owned(), piece)));
            }
            Role::Residual(index, parameter) if index < residuals.len() => {
                let piece = self.pieces(tensor_name, tensor, parameter, None)?;
                self.found.residuals.extend(piece.into_iter().map(|piece| ((index, parameter.to_owned()), piece)));
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
            Role::Graph => {
                if tensor.dtype() != DType::U8 || tensor.shape().len() != 1 || tensor.numel() == 0 {
                    return Err(Error::format("a graph is a row of bytes").got(format_args!(
                        "{} {:?}",
                        tensor.dtype(),
                        tensor.shape()
                    )));
                }
                self.found.graph = Some(tensor.clone());
            }
            Role::Golden => {
                // A carried graph may give embeddings of a length of its own.
                let length = self.about.graph.is_none().then_some(self.about.arch.embed_dim);
                let is_fine = tensor.shape().len() == 1 && (1..=MAX_EMBEDDING).contains(&tensor.numel());
                if tensor.dtype() != DType::F32 || !is_fine || length.is_some_and(|length| length != tensor.numel()) {
                    return Err(Error::format("the golden embedding is none of this model's")
                        .expected(format_args!("f32 [{}]", self.about.arch.embed_dim))
                        .got(format_args!("{} {:?}", tensor.dtype(), tensor.shape())));
                }
                self.found.golden = Some(tensor.clone());
            }
            Role::Padding | Role::Checksums => {}
        }
        Ok(())
    }

    fn shape(&self, parameter: &str) -> Result<&'a [usize]> {
        match self.parameters.get(parameter) {
            Some(shape) => Ok(shape),
            None => Err(Error::format("the architecture has no such parameter")),
        }
    }

    /// The pieces of `count` vectors one after another, or a single one without that dimension.
    fn pieces(
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
        let Some(BlockInfo { format, shape: told }) = self.about.blocks.get(tensor_name) else {
            expect_shape(tensor, &whole)?;
            expect_float(tensor)?;
            let Some(count) = count else { return Ok(vec![tensor.clone().into()]) };
            return (0..count).map(|m| Ok(tensor.rows(m..m + 1)?.reshaped(shape)?.into())).collect();
        };
        self.used.insert(tensor_name);
        let format: BlockFormat = format.parse().map_err(in_file)?;
        if told != shape {
            return Err(Error::format("the metadata give it another shape than the architecture")
                .expected(format_args!("{shape:?}"))
                .got(format_args!("{told:?}")));
        }
        let numel = shape.iter().product();
        let stride = block_stride(format, numel).ok_or_else(|| Error::format("its shape overflows"))?;
        if tensor.dtype() != DType::U8 {
            return Err(Error::format("blocks are bytes").expected("u8").got(tensor.dtype()));
        }
        match count {
            Some(count) => expect_shape(tensor, &[count, stride])?,
            None => expect_shape(tensor, &[stride])?,
        }
        let bytes = format.bytes(numel).unwrap_or(stride);
        (0..rows)
            .map(|m| {
                let start = tensor.offset() + m * stride;
                Ok(Blocks::new(tensor.mapping(), start..start + bytes, format, shape)?.into())
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

/// All of the architecture's parameters, or none.
fn base(
    info: &BaseInfo,
    parameters: &IndexMap<String, Vec<usize>>,
    found: &mut HashMap<String, Tensor>,
) -> Result<Option<Vec<(String, Tensor)>>> {
    if !info.stored {
        return match found.keys().next() {
            None => Ok(None),
            Some(parameter) => Err(Error::format("the metadata say that the base is left out")
                .tensor(format!("{}{parameter}", name::BASE))),
        };
    }
    let all = parameters.keys().map(|parameter| match found.remove(parameter) {
        Some(tensor) => Ok((parameter.clone(), tensor)),
        None => Err(Error::format("missing").tensor(format!("{}{parameter}", name::BASE))),
    });
    all.collect::<Result<_>>().map(Some)
}

/// Every parameter that any vector changes, with its pieces in the order in which coefficients come.
fn pieces(info: &BasisInfo, found: &Found) -> Result<IndexMap<String, Pieces>> {
    let missing = |tensor: String| Error::format("missing: another vector changes this parameter").tensor(tensor);
    let known = |parameter: &String| found.vectors.contains_key(parameter);
    if let Some(parameter) = found.mean.keys().find(|parameter| !known(parameter)) {
        return Err(missing(format!("{}{parameter}", name::VECTORS)));
    }
    if let Some((_, parameter)) = found.residuals.keys().find(|(_, parameter)| !known(parameter)) {
        return Err(missing(format!("{}{parameter}", name::VECTORS)));
    }
    found
        .vectors
        .iter()
        .map(|(parameter, vectors)| {
            let mut sources = vectors.clone();
            if info.mean {
                let mean = found.mean.get(parameter);
                sources.push(mean.cloned().ok_or_else(|| missing(format!("{}{parameter}", name::MEAN)))?);
            }
            for r in 0..info.residuals.len() {
                let residual = found.residuals.get(&(r, parameter.clone()));
                sources.push(residual.cloned().ok_or_else(|| missing(format!("{}{r}/{parameter}", name::RESIDUALS)))?);
            }
            Ok((parameter.clone(), Pieces { sources }))
        })
        .collect()
}

/// M rows of T; a task that cannot be recovered has a column of NaN.
fn recovery(info: &BasisInfo, method: Method, tensor: Option<&Tensor>) -> Result<Vec<f64>> {
    let tensor = tensor.ok_or_else(|| Error::format("missing").tensor(name::RECOVERY))?;
    let (rows, columns) = (info.vectors, info.tasks.len());
    let check = || {
        if tensor.dtype() != DType::F64 {
            return Err(Error::format("has a type that it may not have").expected("f64").got(tensor.dtype()));
        }
        expect_shape(tensor, &[rows, columns])?;
        let table = tensor.to_f64()?;
        for (t, task) in info.tasks.iter().enumerate() {
            let column = || (0..rows).map(|m| table[m * columns + t]);
            let left_out = method == Method::RandomSample && column().all(f64::is_nan);
            if !left_out && !column().all(f64::is_finite) {
                return Err(Error::format(format!("a coefficient of task `{task}` is not finite")));
            }
        }
        Ok(table)
    };
    check().map_err(|e| e.tensor(name::RECOVERY))
}

fn heads(about: &About, found: &Found) -> Result<IndexMap<String, HeadTensors>> {
    if let Some(task) = found.biases.keys().find(|task| !found.weights.contains_key(*task)) {
        return Err(Error::format("missing").tensor(format!("{}{task}{}", name::HEADS, name::WEIGHT)));
    }
    if let Some(task) = about.classes.keys().find(|task| !found.weights.contains_key(*task)) {
        return Err(Error::format(format!("the metadata name classes of `{task}`, and it has no head")));
    }
    if let Some(task) = about.unnormalised.iter().find(|task| !found.weights.contains_key(*task)) {
        return Err(Error::format(format!("the metadata say how `{task}` is classified, and it has no head")));
    }
    let check = |weight: &Tensor, shape: &[usize], what: String| {
        let typed = match weight.dtype() {
            DType::F32 => expect_shape(weight, shape),
            other => Err(Error::format("has a type that it may not have").expected("f32").got(other)),
        };
        typed.map_err(|e| e.tensor(what))
    };
    found
        .weights
        .iter()
        .map(|(task, weight)| {
            let classes = weight.shape().first().copied().unwrap_or(0).max(1);
            let weight_name = format!("{}{task}{}", name::HEADS, name::WEIGHT);
            let bias_name = format!("{}{task}{}", name::HEADS, name::BIAS);
            check(weight, &[classes, about.arch.embed_dim], weight_name)?;
            let bias = found.biases.get(task).ok_or_else(|| Error::format("missing").tensor(&bias_name))?;
            check(bias, &[classes], bias_name)?;
            let names = about.classes.get(task).cloned().unwrap_or_default();
            if !names.is_empty() && names.len() != classes {
                return Err(Error::format(format!("another number of class names for `{task}` than its head has"))
                    .expected(classes)
                    .got(names.len()));
            }
            let normalises = !about.unnormalised.contains(task);
            Ok((task.clone(), HeadTensors { weight: weight.clone(), bias: bias.clone(), classes: names, normalises }))
        })
        .collect()
}
