//! A graph whose weights can be any task's: a user's, a bundle's, or one that was built here.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use half::f16;
use parking_lot::Mutex;

use super::bind::{self, Absent, BindOptions, GraphMap, Mapped};
use super::constant::Constant;
use super::emit::{ConstantValues, ModelWriter};
use super::file::{OnnxFile, Port};
use super::rewrite::{ConstantSource, OwnNodes, Replacement, Use};
use super::types::float_dtype;
use crate::basis::Basis;
use crate::checkpoint::Checkpoint;
use crate::did_you_mean;
use crate::error::{Error, ErrorKind, Result};
use crate::mmap::Mapping;
use crate::tensor::{DType, f32_bytes};
use crate::weights::{Layout, TensorSpec, Values, Weights};

/// The form in which a file keeps weights that the graph computes with as f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Values as they are.
    F32,
    /// Rounded to f16, and cast to f32 by the graph.
    F16,
}

/// The origin of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GraphOrigin {
    /// A user's file.
    File,
    /// A bundle that carries it: its file has no weights, and is no .onnx file.
    Bundle,
    /// Built here.
    Built,
}

/// A graph and what in it are the weights: those that a basis changes become inputs, in the order,
/// the type and the pieces that the graph wants. What the basis does not change stays in the graph.
///
/// ```no_run
/// # use std::sync::Arc;
/// use taskbasis::{Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Model, ModelOptions};
/// use taskbasis::onnx::{BindOptions, BoundGraph};
///
/// let base = Checkpoint::open("zeroshot.pt")?;
/// let basis = Basis::open("ViT-B-32_AE_M4_8task")?;
/// let graph = BoundGraph::open("encoder.onnx", &base, Some(&basis), &BindOptions::default())?;
/// let arch = Arch::of(&base, ArchHints::default())?;
/// let encoder = Encoder::with_graph(&arch, &graph, &EncoderOptions::default())?;
/// let model = Model::new(base, Some(basis), &ModelOptions::default())?;
/// # let pixels = vec![0.0; 3 * 224 * 224];
/// let embeds = encoder.encode_task(&model.weights(&"MNIST@0.3".parse()?)?, &pixels, 1)?;
/// # Ok::<(), taskbasis::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BoundGraph {
    pub(super) file: Arc<OnnxFile>,
    pub(super) map: GraphMap,
    pub(super) layout: Arc<Layout>,
    /// The layouts that encoders over it have made of that one. They go with the graph, and the weights in them.
    pub(super) packed: Arc<Mutex<Vec<Arc<Layout>>>>,
    pub(super) pixels: Port,
    pub(super) output: Port,
    /// Parameters that tasks change and that come after the graph's end.
    pub(super) beyond: Vec<String>,
    pub(super) moved: Vec<String>,
    pub(super) origin: GraphOrigin,
}

impl BoundGraph {
    /// Opens the file at `path` and finds the base's parameters in it ([`bind`](super::bind())).
    ///
    /// # Errors
    /// As [`OnnxFile::open`] and [`BoundGraph::bind`].
    pub fn open(
        path: impl AsRef<Path>,
        base: &Checkpoint,
        basis: Option<&Basis>,
        options: &BindOptions,
    ) -> Result<Self> {
        Self::bind(Arc::new(OnnxFile::open(path)?), base, basis, options)
    }

    /// Finds the base's parameters in a file. Without a basis everything found becomes an input.
    ///
    /// # Errors
    /// As [`bind`](super::bind()); [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, for a parameter that
    /// may be missing where the basis changes it, unless the graph ends before its use ([`BoundGraph::beyond`]);
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a graph that normalises its pixels itself.
    pub fn bind(file: Arc<OnnxFile>, base: &Checkpoint, basis: Option<&Basis>, options: &BindOptions) -> Result<Self> {
        let map = bind::bind(&file, base, options)?;
        Self::new(file, map, base, basis)
    }

    /// A file with a map of what its constants are. The constants' values are compared with the base's, unless the map
    /// says that they should not be.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the tensor, for a map of another graph or another
    /// model; as [`BoundGraph::bind`] for parameters that the map leaves out, and for pixels.
    pub fn with_map(file: Arc<OnnxFile>, map: GraphMap, base: &Checkpoint, basis: Option<&Basis>) -> Result<Self> {
        bind::check_complete(&file, &map, base).map_err(|e| e.at(file.path()))?;
        for (name, mapped) in &map.tensors {
            check_values(&file, name, mapped, base)?;
        }
        Self::new(file, map, base, basis)
    }

    /// What the map says, as far as it can be checked without values.
    pub(super) fn new(file: Arc<OnnxFile>, map: GraphMap, base: &Checkpoint, basis: Option<&Basis>) -> Result<Self> {
        Self::lacking(file, map, base, basis, |file, map| Absent::of(file, map, base, basis))
    }

    /// [`BoundGraph::new`] of a graph that lacks what `absent` tells.
    pub(super) fn lacking(
        file: Arc<OnnxFile>,
        map: GraphMap,
        base: &Checkpoint,
        basis: Option<&Basis>,
        absent: impl FnOnce(&OnnxFile, &GraphMap) -> Result<Absent>,
    ) -> Result<Self> {
        let port = |what: &str, ports: &[Port], name: &str| {
            let known = ports.iter().map(|port| port.name.as_str());
            let found = ports.iter().find(|port| port.name == name).cloned();
            found.ok_or_else(|| did_you_mean::unknown(what, name, known).at(file.path()))
        };
        let pixels = port("input", &file.inputs, &map.pixels)?;
        let output = port("output", &file.outputs, &map.output)?;
        let needed = file.needed(&map.output);
        bind::check_pixels(&file, &needed, &map).map_err(|e| e.at(file.path()))?;
        let moved = bind::moved_pixels(&file, &needed, &map);
        if !moved.is_empty() {
            tracing::warn!(
                "{}: moves its pixels before the patch embedding ({})",
                file.path().display(),
                moved.join(", ")
            );
        }
        let absent = absent(&file, &map).map_err(|e| e.at(file.path()))?;
        let (mut tensors, mut kept) = (Vec::new(), Vec::new());
        for (name, mapped) in &map.tensors {
            let tensor = tensor_spec(&file, name, mapped)?;
            if mapped.parameters().any(|parameter| bind::changes(basis, parameter)) {
                tensors.push(tensor);
            } else {
                kept.extend(mapped.parameters());
            }
        }
        // Of another basis, which changes it, no weights fit.
        kept.extend(absent.unchanged.iter().map(String::as_str));
        let layout = Layout::new(tensors, &kept, base).map_err(|e| e.at(file.path()))?;
        let (packed, beyond, origin) = (Arc::default(), absent.beyond, GraphOrigin::File);
        Ok(Self { file, map, layout, packed, pixels, output, beyond, moved, origin })
    }

    /// A graph that was built for these weights, which are its inputs in f32.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] where it is no such graph.
    pub(crate) fn built(model: Vec<u8>, layout: Arc<Layout>, pixels: &str, output: &str) -> Result<Self> {
        let file = OnnxFile::parse(Arc::new(Mapping::from_vec(model, "the built graph")))?;
        let port = |ports: &[Port], name: &str| {
            let found = ports.iter().find(|port| port.name == name).cloned();
            found.ok_or_else(|| Error::new(ErrorKind::Internal, "a built graph lacks an input or output").tensor(name))
        };
        let inputs: HashSet<&str> = file.inputs.iter().map(|port| port.name.as_str()).collect();
        if let Some(tensor) = layout.tensors().iter().find(|tensor| !inputs.contains(tensor.name.as_str())) {
            return Err(Error::new(ErrorKind::Internal, "a built graph lacks an input").tensor(&tensor.name));
        }
        Ok(Self {
            pixels: port(&file.inputs, pixels)?,
            output: port(&file.outputs, output)?,
            map: GraphMap { pixels: pixels.to_owned(), output: output.to_owned(), ..GraphMap::default() },
            file: Arc::new(file),
            layout,
            packed: Arc::default(),
            beyond: Vec::new(),
            moved: Vec::new(),
            origin: GraphOrigin::Built,
        })
    }

    /// The map of the graph's constants.
    pub fn map(&self) -> &GraphMap {
        &self.map
    }

    /// The tensors that it is given in every run.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The file.
    pub fn file(&self) -> &Arc<OnnxFile> {
        &self.file
    }

    /// The input that takes the images.
    pub fn pixels(&self) -> &Port {
        &self.pixels
    }

    /// The output that gives the embeddings.
    pub fn output(&self) -> &Port {
        &self.output
    }

    /// Parameters that tasks change, and that come after the graph's end: nothing of these changes is in its
    /// embeddings.
    pub fn beyond(&self) -> &[String] {
        &self.beyond
    }

    /// The operators by which it moves its pixels before the patch embedding, where it does so on every way there. It
    /// is believed; one that exchanges red and blue, or mirrors the image, embeds another image than it is given.
    pub fn moved(&self) -> &[String] {
        &self.moved
    }

    /// Whether it came out of a bundle; then [`BoundGraph::file`] is that bundle's.
    pub fn is_embedded(&self) -> bool {
        self.origin == GraphOrigin::Bundle
    }

    /// The graph's constants that are no parameters, or none that the basis changes: how many, and their bytes.
    pub fn kept(&self) -> (usize, u64) {
        let replaced = |constant: &&Constant| {
            self.layout.tensors().iter().any(|tensor| {
                let mapped = self.map.tensors.get(&tensor.name);
                mapped.and_then(|mapped| mapped.constant.as_ref()).unwrap_or(&tensor.name) == &constant.name
            })
        };
        let kept = self.file.constants.iter().filter(|constant| !replaced(constant));
        kept.filter_map(|constant| constant.tensor.as_ref())
            .fold((0, 0), |(count, bytes), tensor| (count + 1, bytes + tensor.nbytes() as u64))
    }

    /// The number of images that a run takes, where the graph takes no other number: its input says so, or the class
    /// token is repeated that many times.
    pub(crate) fn batch(&self) -> Option<usize> {
        let parts = self.map.tensors.values().flat_map(|mapped| &mapped.sum);
        let tokens = parts.filter(|part| part.parameter == "visual.class_embedding").find_map(|part| part.repeat);
        let of_input = self.pixels.shape.as_ref().and_then(|shape| shape.first().copied().flatten());
        of_input.filter(|batch| *batch > 0).or(tokens)
    }

    /// Whether it takes images of this size.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch).
    pub(crate) fn check_image_size(&self, size: usize) -> Result<()> {
        let extents = self.pixels.shape.as_deref().unwrap_or_default();
        if extents.iter().skip(2).flatten().all(|extent| *extent == size) {
            return Ok(());
        }
        Err(Error::mismatch("the graph takes images of another size")
            .at(self.file.path())
            .expected(format_args!("{size}×{size}"))
            .got(format_args!("{extents:?}")))
    }

    /// An error of ONNX Runtime's that refuses the graph, with what may be the reason.
    pub(crate) fn explain(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Runtime {
            return error;
        }
        let error = error.at(self.file.path());
        let odd = |tensor: &&TensorSpec| matches!(tensor.dtype, DType::BF16 | DType::F64);
        match self.layout.tensors().iter().find(odd) {
            Some(tensor) => error.or_hint(format!(
                "Its weights are {}, which ONNX Runtime computes with in few places: export it in f32 or f16",
                tensor.dtype
            )),
            None => error,
        }
    }

    /// The model with the weights as inputs.
    pub(crate) fn with_inputs(&self) -> Result<Vec<u8>> {
        self.rewritten(|_| Ok(ConstantSource::Input))?.to_vec()
    }

    /// The model with the weights as constants without values, in a file that is never opened.
    pub(crate) fn with_placeholders(&self) -> Result<Vec<u8>> {
        self.rewritten(|_| Ok(ConstantSource::Constant(ConstantValues::Elsewhere)))?.to_vec()
    }

    /// Writes the model with these weights in it, which must be in this graph's layout, as a plain .onnx file. The file
    /// is replaced whole or not at all, and neither `inputs` nor the graph's own files are overwritten. Where it would
    /// take 2 GiB or more, the weights go into a second file beside it, called after their checksum.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for weights of another layout;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming the tensor, for one that is not finite;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn write(&self, weights: &Weights, path: &Path, inputs: &[&Path]) -> Result<()> {
        self.write_as(weights, Stored::F32, path, inputs)
    }

    /// Writes the graph with those weights that the graph takes as f32 rounded to f16, and cast to f32 before they
    /// are used. What the graph takes as f16 already, and its own constants, stay as they are.
    ///
    /// # Errors
    /// As [`BoundGraph::write`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for values beyond the range
    /// of f16, naming the tensor, for a graph that has the constant's name (the tensor's, and `.f16`) for another
    /// value, and for operator sets before 6, which cast otherwise.
    pub fn write_f16(&self, weights: &Weights, path: &Path, inputs: &[&Path]) -> Result<()> {
        self.write_as(weights, Stored::F16, path, inputs)
    }

    fn write_as(&self, weights: &Weights, stored: Stored, path: &Path, inputs: &[&Path]) -> Result<()> {
        if !weights.is_in(&self.layout) {
            return Err(Error::mismatch("the weights are not laid out as this graph wants them"));
        }
        weights.verify_finite()?;
        self.write_values(|tensor| Ok(weights.at(weights.index_of(&tensor.name)?)?.2), stored, path, inputs)
    }

    /// [`BoundGraph::write`] with values that `values` gives, in the type and size of each tensor.
    pub(crate) fn write_values<'a>(
        &'a self,
        values: impl Fn(&TensorSpec) -> Result<Values<'a>>,
        stored: Stored,
        path: &Path,
        inputs: &[&Path],
    ) -> Result<()> {
        if stored == Stored::F16 && self.file.opset()?.is_none_or(|version| version < 6) {
            return Err(Error::unsupported("weights as f16 need ONNX's operator set 6 or a later one")
                .at(self.file.path())
                .hint("Write the weights as f32 instead"));
        }
        let model = self.rewritten(|tensor| match values(tensor)? {
            Values::F32(values) if stored == Stored::F16 => {
                check_range(&tensor.name, values)?;
                Ok(ConstantSource::Constant(ConstantValues::Halves(values)))
            }
            values => given(tensor, values),
        })?;
        // What was built here is in no file.
        let own = (self.origin != GraphOrigin::Built).then(|| self.file.files());
        let inputs: Vec<&Path> = inputs.iter().copied().chain(own.into_iter().flatten()).collect();
        model.write(path, &inputs)
    }

    fn rewritten<'a>(&'a self, given: impl Fn(&TensorSpec) -> Result<ConstantSource<'a>>) -> Result<ModelWriter<'a>> {
        self.rewritten_with(self.layout.tensors(), given)
    }

    /// The model with other values for these tensors, which the map names.
    pub(super) fn rewritten_with<'a>(
        &'a self,
        tensors: &'a [TensorSpec],
        given: impl Fn(&TensorSpec) -> Result<ConstantSource<'a>>,
    ) -> Result<ModelWriter<'a>> {
        self.rewritten_as(tensors, given, &OwnNodes::default())
    }

    /// [`BoundGraph::rewritten_with`], with nodes of our own operators in the place of others.
    pub(super) fn rewritten_as<'a>(
        &'a self,
        tensors: &'a [TensorSpec],
        given: impl Fn(&TensorSpec) -> Result<ConstantSource<'a>>,
        own: &OwnNodes,
    ) -> Result<ModelWriter<'a>> {
        let replacement = |tensor| Ok(Replacement { tensor, values: given(tensor)? });
        let replacements = tensors.iter().map(replacement).collect::<Result<Vec<_>>>()?;
        let uses = self.uses(tensors);
        self.file.rewritten(&self.output.name, &replacements, &uses, own).map_err(|e| e.at(self.file.path()))
    }

    /// The uses of constants by other names, in which these tensors take their place.
    pub(super) fn uses(&self, tensors: &[TensorSpec]) -> HashMap<Use, String> {
        let mut uses = HashMap::new();
        for tensor in tensors {
            let Some(Mapped { constant: Some(constant), uses: given, .. }) = self.map.tensors.get(&tensor.name) else {
                continue;
            };
            if given.is_empty() {
                let everywhere = self.file.nodes.iter().enumerate().flat_map(|(i, node)| {
                    node.inputs.iter().enumerate().filter(|(_, name)| *name == constant).map(move |(k, _)| (i, k))
                });
                uses.extend(everywhere.map(|at| (at, tensor.name.clone())));
            }
            uses.extend(given.iter().map(|at| (*at, tensor.name.clone())));
        }
        uses
    }
}

/// The tensor as a constant of these values.
pub(super) fn given<'a>(tensor: &TensorSpec, values: Values<'a>) -> Result<ConstantSource<'a>> {
    match values {
        Values::F32(values) => Ok(ConstantSource::Constant(ConstantValues::Bytes(f32_bytes(values)))),
        Values::Cast(_, bytes) => Ok(ConstantSource::Constant(ConstantValues::Bytes(bytes))),
        Values::Carried(_) | Values::Packed(..) => {
            Err(Error::new(ErrorKind::Internal, "not a tensor of floats").tensor(&tensor.name))
        }
    }
}

/// Refuses what f16 would make infinite: its largest value is 65,504, and halfway to the next one rounding goes up.
fn check_range(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().find(|value| value.is_finite() && f16::from_f32(**value).is_infinite()) {
        None => Ok(()),
        Some(value) => Err(Error::unsupported("a value beyond the range of f16")
            .tensor(name)
            .expected("at most 65504, positive or negative")
            .got(value)
            .hint("Write the weights as f32 instead")),
    }
}

/// What a tensor of the map is in the graph: type, extents, and what it is made of. It is a constant of the graph, or
/// an input of the same name where a bundle carries it.
pub(super) fn tensor_spec(file: &OnnxFile, name: &str, mapped: &Mapped) -> Result<TensorSpec> {
    let parts = mapped.sum.clone();
    if let Some(port) = as_input(file, name, mapped) {
        let extents = port.shape.as_deref().unwrap_or_default().iter().copied().collect::<Option<Vec<_>>>();
        let (Some(dtype), Some(shape), Some(_)) = (float_dtype(port.data_type), extents, &port.shape) else {
            return Err(Error::format("an input for weights is of no fixed type and shape")
                .at(file.path())
                .tensor(name)
                .got(format_args!("type {} {:?}", port.data_type, port.shape)));
        };
        return Ok(TensorSpec { name: name.to_owned(), dtype, shape, parts, packed: None });
    }
    let constant = constant(file, name, mapped)?;
    let dtype = constant.tensor.as_ref().ok_or_else(|| not_floats(file, constant))?.dtype();
    Ok(TensorSpec { name: name.to_owned(), dtype, shape: constant.shape.clone(), parts, packed: None })
}

/// The input that takes these weights already: no constant has their name.
pub(super) fn as_input<'a>(file: &'a OnnxFile, name: &str, mapped: &Mapped) -> Option<&'a Port> {
    let is_constant = || file.constants.iter().any(|constant| constant.name == name);
    file.inputs.iter().find(|port| port.name == name).filter(|_| mapped.constant.is_none() && !is_constant())
}

/// Whether a constant has the values that the map says, unless it says that they do not matter.
pub(super) fn check_values(file: &OnnxFile, name: &str, mapped: &Mapped, base: &Checkpoint) -> Result<()> {
    let constant = constant(file, name, mapped)?;
    let values = constant.tensor.as_ref().ok_or_else(|| not_floats(file, constant))?;
    if mapped.unchecked || bind::is_sum(&mapped.sum, base, values).map_err(|e| e.at(file.path()).tensor(name))? {
        return Ok(());
    }
    Err(Error::mismatch("its values are not those of the base that the map names")
        .at(file.path())
        .tensor(name)
        .expected(mapped.sum.iter().map(bind::describe).collect::<Vec<_>>().join(" + "))
        .hint("Is the map one of another graph? `\"unchecked\": true` takes it as it is"))
}

/// The constant whose place an input takes, checked.
fn constant<'a>(file: &'a OnnxFile, name: &str, mapped: &Mapped) -> Result<&'a Constant> {
    let wanted = mapped.constant.as_deref().unwrap_or(name);
    let known = file.constants.iter().map(|constant| constant.name.as_str());
    let found = file.constants.iter().find(|constant| constant.name == wanted);
    let found = found.ok_or_else(|| did_you_mean::unknown("constant", wanted, known).at(file.path()))?;
    for &(i, k) in &mapped.uses {
        if file.nodes.get(i).and_then(|node| node.inputs.get(k)).map(String::as_str) != Some(wanted) {
            return Err(Error::mismatch("the graph does not use the constant there")
                .at(file.path())
                .tensor(wanted)
                .got(format_args!("input {k} of node {i}")));
        }
    }
    Ok(found)
}

fn not_floats(file: &OnnxFile, constant: &Constant) -> Error {
    Error::unsupported("weights are floats").at(file.path()).tensor(&constant.name)
}
