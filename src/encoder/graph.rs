//! The graph that an encoder runs, built or a user's: its tensors, its pixels and embeddings. And one task as a plain
//! .onnx file, for programs that know nothing of bases.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::finite;
use super::input::{Elements, Input};
use super::session::GraphKind;
use super::weight_source::WeightSource;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel;
use crate::onnx::{BoundGraph, Stored, TensorType, type_name};
use crate::tensor::DType;
use crate::tower::arch::Arch;
use crate::tower::{LayerKind, LayerPrecisions, graph};
use crate::weights::{Layout, TensorSpec, Values, Weights};

/// The share of the linear layers' weights that makes a user's graph as fast packed as promoted, at least.
const ENOUGH: f64 = 0.9;

/// What builds a graph of our own operators: for these precisions, of packed matrices or not.
type BuildOwn = fn(&Arch, LayerPrecisions, bool) -> Result<Vec<u8>>;

/// A graph whose weights are inputs.
pub(super) struct EncoderGraph {
    /// The user's graph, where it is one.
    users: Option<BoundGraph>,
    layout: Arc<Layout>,
    /// The ONNX model.
    pub(super) model: Vec<u8>,
    /// What the graph was built for and by, where another one computes the same bits from weights as they are.
    own: Option<(Arch, LayerPrecisions, BuildOwn)>,
    /// The input that takes the images, and the type that it takes.
    pub(super) pixels: String,
    pub(super) pixels_dtype: DType,
    /// The output that gives the embeddings, and the type that it gives.
    pub(super) embeds: String,
    pub(super) embeds_dtype: DType,
    /// How many images a run takes, where the graph takes no other number.
    pub(super) batch: Option<usize>,
    /// Whether anything in the graph may be half floats.
    pub(super) has_halves: bool,
    /// What a session over it needs.
    pub(super) kind: GraphKind,
}

impl EncoderGraph {
    /// The graph that is built for an architecture, of our own operators, which the CPU computes. Its layout has the
    /// matrices packed.
    ///
    /// # Errors
    /// As [`Arch::check`] and [`kernel::active`].
    pub(super) fn own(arch: &Arch, precisions: LayerPrecisions) -> Result<Self> {
        let packed = graph::packed_layouts(arch, precisions)?;
        let specs = arch.parameters().into_iter().map(|(name, shape)| {
            let whole = TensorSpec::whole(&name, &shape, DType::F32);
            TensorSpec { packed: packed.get(&name).copied(), ..whole }
        });
        let layout = Layout::of_parameters(specs.collect());
        let model = graph::build_own(arch, precisions, true)?;
        let own = Some((arch.clone(), precisions, graph::build_own as BuildOwn));
        Ok(Self { own, ..Self::of_model(model, layout, GraphKind::Own(kernel::active()?)) })
    }

    /// The graph that is built for an architecture. Its layout is the canonical one.
    ///
    /// # Errors
    /// As [`Arch::check`].
    pub(super) fn built(arch: &Arch) -> Result<Self> {
        let parameters = arch.parameters();
        let whole = |(name, shape): &(String, Vec<usize>)| TensorSpec::whole(name, shape, DType::F32);
        let layout = Layout::canonical(parameters.iter().map(whole).collect());
        Ok(Self::of_model(graph::build(arch)?, layout, GraphKind::Standard))
    }

    /// The graph that gives hidden features, of the same weights in the same layout; `None` where this one is not
    /// [`EncoderGraph::own`].
    ///
    /// # Errors
    /// As [`EncoderGraph::own`], and [`graph::build_hidden`].
    pub(super) fn hidden(&self) -> Result<Option<Self>> {
        let Some((arch, precisions, _)) = &self.own else { return Ok(None) };
        let (model, layout) = (graph::build_hidden(arch, *precisions, true)?, Arc::clone(&self.layout));
        let own = Some((arch.clone(), *precisions, graph::build_hidden as BuildOwn));
        Ok(Some(Self { own, embeds: graph::HIDDEN.to_owned(), ..Self::of_model(model, layout, self.kind) }))
    }

    /// A model that was built here. It is not parsed: its weights are inputs as it stands, and every encoder begins
    /// here.
    fn of_model(model: Vec<u8>, layout: Arc<Layout>, kind: GraphKind) -> Self {
        Self {
            users: None,
            layout,
            model,
            own: None,
            pixels: graph::PIXELS.to_owned(),
            pixels_dtype: DType::F32,
            embeds: graph::EMBEDS.to_owned(),
            embeds_dtype: DType::F32,
            batch: None,
            has_halves: false,
            kind,
        }
    }

    /// A graph whose weights are known.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for one that takes or gives something else than f32 or f16, or is too large for a
    /// session without its weights.
    pub(super) fn new(graph: &BoundGraph) -> Result<Self> {
        let dtype = |data_type: i32| match TensorType::of(data_type) {
            Some(TensorType::Float | TensorType::Undefined) => Ok(DType::F32),
            Some(TensorType::Float16) => Ok(DType::F16),
            _ => Err(Error::unsupported("a graph that takes or gives another type than floats")
                .at(graph.file().path())
                .expected("f32 or f16")
                .got(type_name(data_type))),
        };
        let (pixels, output) = (graph.pixels(), graph.output());
        Ok(Self {
            model: graph.with_inputs()?,
            own: None,
            pixels: pixels.name.clone(),
            pixels_dtype: dtype(pixels.data_type)?,
            embeds: output.name.clone(),
            embeds_dtype: dtype(output.data_type)?,
            batch: graph.batch(),
            has_halves: graph.file().has_halves(),
            kind: GraphKind::Users(None),
            layout: Arc::clone(graph.layout()),
            users: Some(graph.clone()),
        })
    }

    /// A graph whose weights are known, for the CPU: its linear layers take packed weights and are our own operator,
    /// where they are recognised. In f32 that is left where a part of them is not: such a graph gains more from
    /// promotion. Of an encoder that only its graph is known of (`is_alone`) every matrix has the one precision that
    /// there is, and convolutions count as what is not recognised.
    ///
    /// # Errors
    /// As [`EncoderGraph::new`]; [`ErrorKind::Unsupported`] for other precisions than f32 where no layer is recognised,
    /// and for one per kind of layer where those are not known.
    pub(super) fn packed(graph: &BoundGraph, precisions: LayerPrecisions, is_alone: bool) -> Result<Self> {
        let layers = match (is_alone, precisions.uniform()) {
            (false, _) => graph.linear_layers(|name, shape| {
                let kind = LayerKind::of_matrix(name).filter(|_| shape.len() == 2);
                kind.map(|kind| precisions.get(kind))
            })?,
            (true, Some(precision)) => graph.linear_layers(|_, shape| (shape.len() >= 2).then_some(precision))?,
            (true, None) => {
                return Err(Error::unsupported(
                    "a precision per kind of layer, of an encoder whose kinds are not known",
                )
                .at(graph.file().path())
                .expected("one of f32, bf16 and int8")
                .got(precisions));
            }
        };
        let (plain, share) = (Self::new(graph)?, layers.share());
        let is_f32 = precisions == LayerPrecisions::default();
        tracing::debug!(share, %precisions, "linear layers of a user's graph, packed");
        if is_f32 && share < ENOUGH {
            return Ok(plain);
        }
        if share == 0.0 {
            let error = Error::unsupported(format!("no linear layer of the graph can be run in {precisions}"))
                .at(graph.file().path())
                .expected("MatMul or Gemm, each with a matrix of f32 that tasks change and nothing else reads");
            let built = "`built_graph` (--built-graph) runs the built one, whatever a bundle carries";
            return Err(if is_alone { error } else { error.hint(built) });
        }
        if share < ENOUGH {
            let path = graph.file().path().display();
            tracing::warn!(
                "{path}: {:.0} % of its linear layers' weights are multiplied in f32",
                100.0 * (1.0 - share)
            );
        }
        let (model, layout) = graph.with_layers(&layers)?;
        Ok(Self { model, layout, kind: GraphKind::Users(Some(kernel::active()?)), ..plain })
    }

    /// Whether the graph is one that others exported, which ONNX Runtime can improve on.
    pub(super) fn is_users(&self) -> bool {
        self.users.is_some()
    }

    /// The user's graph, where it is one.
    pub(super) fn users(&self) -> Option<&BoundGraph> {
        self.users.as_ref()
    }

    /// Whether its matrices are packed: it is as fast as any session with the weights in it.
    pub(super) fn takes_packed(&self) -> bool {
        !matches!(self.kind, GraphKind::Standard | GraphKind::Users(None))
    }

    /// How the graph wants its weights.
    pub(super) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The graph with its weights as constants without values.
    ///
    /// # Errors
    /// As [`EncoderGraph::new`].
    pub(super) fn with_placeholders(&self) -> Result<Vec<u8>> {
        self.bound()?.with_placeholders()
    }

    /// The graph to be written with weights in it.
    fn bound(&self) -> Result<Cow<'_, BoundGraph>> {
        if let Some(graph) = &self.users {
            return Ok(Cow::Borrowed(graph));
        }
        let (model, layout) = (self.model.clone(), Arc::clone(&self.layout));
        BoundGraph::built(model, layout, graph::PIXELS, graph::EMBEDS).map(Cow::Owned)
    }

    /// Whether `weights`, as [`EncoderGraph::inputs`] gives them, are for [`EncoderGraph::unpacked_model`].
    pub(super) fn is_unpacked<W: WeightSource + ?Sized>(&self, weights: &W) -> bool {
        self.own.is_some() && weights.in_layout(self.layout()).is_none()
    }

    /// The model that takes weights as they are.
    ///
    /// # Errors
    /// As [`EncoderGraph::own`].
    pub(super) fn unpacked_model(&self) -> Result<Cow<'_, [u8]>> {
        match &self.own {
            None => Ok(Cow::Borrowed(&self.model)),
            Some((arch, precisions, build)) => build(arch, *precisions, false).map(Cow::Owned),
        }
    }

    /// Views of all tensors, checked. A thousandth of a run's time, so every run can afford it. Where the graph wants
    /// another layout than `weights` are in, and no model takes them as they are, they are put into it and kept in
    /// `converted`.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`], naming the parameter, when one is missing or has another shape;
    /// [`ErrorKind::OutOfMemory`].
    pub(super) fn inputs<'a, W: WeightSource + ?Sized>(
        &'a self,
        weights: &'a W,
        converted: &'a mut Option<Weights>,
    ) -> Result<Vec<Input<'a>>> {
        let layout = self.layout();
        if layout.is_canonical() || self.is_unpacked(weights) {
            return parameter_inputs(layout.tensors().iter().map(|tensor| (&*tensor.name, &*tensor.shape)), weights);
        }
        let weights = match weights.in_layout(layout) {
            Some(weights) => weights,
            None => converted.insert(match self.users().map(|graph| (graph, weights.in_layout(graph.layout()))) {
                Some((graph, Some(plain))) => plain.packed(graph.layout(), layout)?,
                _ => Weights::relayout(layout, |name| weights.parameter(name))?,
            }),
        };
        let tensors = layout.tensors().iter().map(|tensor| {
            let (name, shape, values) = weights.at(weights.index_of(&tensor.name)?)?;
            let values = match values {
                Values::F32(values) => Elements::F32(values),
                Values::Cast(dtype, bytes) => Elements::Other(dtype, bytes),
                Values::Packed(_, bytes) => return Ok(Input { name, shape: &[], values: Elements::Packed(bytes) }),
                Values::Carried(_) => return Err(Error::new(ErrorKind::Internal, "a weight is no float").tensor(name)),
            };
            Ok(Input { name, shape, values })
        });
        tensors.collect()
    }

    /// Bytes that all weights take.
    pub(super) fn nbytes(&self) -> usize {
        self.layout().nbytes()
    }
}

/// Whether a parameter of the encoder is there, and in its shape; `got` is the shape that it has, where it is there.
///
/// # Errors
/// [`ErrorKind::Mismatch`], naming it.
pub(super) fn check_shape(name: &str, shape: &[usize], got: Option<&[usize]>) -> Result<()> {
    match got {
        Some(got) if got == shape => Ok(()),
        Some(got) => Err(Error::mismatch("the weights are not of this encoder's architecture")
            .tensor(name)
            .expected(format_args!("{shape:?}"))
            .got(format_args!("{got:?}"))),
        None => Err(Error::mismatch("the weights lack a parameter of this encoder").tensor(name)),
    }
}

/// Views of these parameters, names and shapes, of some canonical weights.
///
/// # Errors
/// [`ErrorKind::Mismatch`], naming it, when one is missing or has another shape.
pub(super) fn parameter_inputs<'a, W: WeightSource + ?Sized>(
    parameters: impl Iterator<Item = (&'a str, &'a [usize])>,
    weights: &'a W,
) -> Result<Vec<Input<'a>>> {
    parameters
        .map(|(name, shape)| {
            let values = weights.parameter(name);
            check_shape(name, shape, values.map(|_| weights.shape(name).unwrap_or(shape)))?;
            match values {
                Some(values) if values.len() == shape.iter().product::<usize>() => {
                    Ok(Input { name, shape, values: Elements::F32(values) })
                }
                values => Err(Error::mismatch("the weights are not of this encoder's architecture")
                    .tensor(name)
                    .expected(format_args!("{shape:?}"))
                    .got(format_args!("{} values", values.map_or(0, <[f32]>::len)))),
            }
        })
        .collect()
}

/// Writes the image encoder of `arch` with these weights as constants: the graph that an [`Encoder`](super::Encoder)
/// runs, from `pixel_values` to `embeds`. It needs ONNX Runtime, whose own operators it uses, and is as large as the
/// weights; weights of 2 GiB and more go into a second file beside it.
///
/// The file is replaced whole or not at all, and none of `inputs` is overwritten
/// ([`replace_file`](crate::replace_file)). The weights are not copied on the way.
///
/// # Errors
/// As [`Arch::check`]; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, when a parameter is missing or
/// has another shape; [`ErrorKind::Format`](crate::ErrorKind::Format), naming it, when one is not finite;
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output that is an input;
/// [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn write_onnx<W: WeightSource + ?Sized>(arch: &Arch, weights: &W, path: &Path, inputs: &[&Path]) -> Result<()> {
    write(arch, weights, Stored::F32, path, inputs)
}

/// Writes the graph with the weights rounded to f16, in a file half as large. What is computed stays f32: the graph
/// casts the weights first, which ONNX Runtime does once, when it loads the file.
///
/// # Errors
/// As [`write_onnx`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the tensor, for values beyond
/// the range of f16.
pub fn write_onnx_f16<W: WeightSource + ?Sized>(arch: &Arch, weights: &W, path: &Path, inputs: &[&Path]) -> Result<()> {
    write(arch, weights, Stored::F16, path, inputs)
}

fn write<W: WeightSource + ?Sized>(
    arch: &Arch,
    weights: &W,
    stored: Stored,
    path: &Path,
    inputs: &[&Path],
) -> Result<()> {
    let built = EncoderGraph::built(arch)?;
    let mut values = HashMap::new();
    let mut converted = None;
    for input in built.inputs(weights, &mut converted)? {
        match input.values {
            Elements::F32(floats) if floats.iter().all(|value| value.is_finite()) => values.insert(input.name, floats),
            Elements::F32(_) => return Err(finite::of_inputs(&[input])),
            _ => return Err(Error::new(ErrorKind::Internal, "the built graph takes f32").tensor(input.name)),
        };
    }
    let lost = |name: &str| Error::new(ErrorKind::Internal, "a weight of the built graph is lost").tensor(name);
    let find = |name: &str| values.get(name).copied().map(Values::F32).ok_or_else(|| lost(name));
    built.bound()?.write_values(|tensor| find(&tensor.name), stored, path, inputs)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::onnx::OnnxFile;
    use crate::tower::{Activation, Variant};

    fn arch() -> Arch {
        let (width, heads, activation) = (8, 1, Activation::Gelu);
        let variant = Variant::default();
        Arch { width, layers: 2, heads, mlp_width: 8, patch: 2, grid: 1, embed_dim: 4, activation, variant }
    }

    /// Every parameter of [`arch`], each with values of its own.
    fn parameters() -> HashMap<String, Vec<f32>> {
        let all = arch().parameters().into_iter().enumerate();
        let values =
            |i: usize, shape: &[usize]| (0..shape.iter().product::<usize>()).map(|j| (i * 1000 + j) as f32).collect();
        all.map(|(i, (name, shape))| (name, values(i, &shape))).collect()
    }

    #[test]
    fn the_inputs_are_the_parameters_and_become_constants() {
        let built = EncoderGraph::built(&arch()).unwrap();
        let names = |model: &[u8]| {
            let model = crate::Mapping::from_vec(model.to_vec(), "model");
            let file = OnnxFile::parse(Arc::new(model)).map_err(|e| e.to_string());
            file.map(|file| file.inputs().iter().map(|input| input.name.clone()).collect::<Vec<_>>())
        };
        let mut expected = vec![graph::PIXELS.to_owned()];
        expected.extend(arch().parameters().into_iter().map(|(name, _)| name));
        assert_eq!(names(&built.model).unwrap(), expected);
        // Their values are in a file that is never opened.
        assert!(names(&built.with_placeholders().unwrap()).unwrap_err().contains("taskbasis.weights"));
        assert_eq!(built.nbytes(), parameters().values().map(|values| 4 * values.len()).sum::<usize>());
    }

    #[test]
    fn a_written_task_has_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut parameters) = (folder.path().join("x.onnx"), parameters());
        let inputs = |path: &Path| OnnxFile::open(path).unwrap().inputs().len();
        write_onnx(&arch(), &parameters, &path, &[]).unwrap();
        assert_eq!((inputs(&path), std::fs::read_dir(&folder).unwrap().count()), (1, 1));
        let bytes = std::fs::read(&path).unwrap();
        let has = |bytes: &[u8], values: &[u8]| bytes.windows(values.len()).any(|window| window == values);
        for (name, values) in &parameters {
            let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert!(has(&bytes, &values), "{name}");
        }
        write_onnx_f16(&arch(), &parameters, &path, &[]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for (name, values) in &parameters {
            let values: Vec<u8> = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
            assert!(has(&bytes, &values), "{name}");
        }

        std::fs::remove_file(&path).unwrap();
        // 65,519 rounds down to the largest value, 65,520 up to infinity.
        let name = "visual.conv1.weight";
        let mut write = |value: f32| {
            parameters.get_mut(name).unwrap()[1] = value;
            write_onnx_f16(&arch(), &parameters, &path, &[])
        };
        let error = write(-65520.0).unwrap_err();
        assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Unsupported, Some(name)));
        assert_eq!(write(f32::NAN).unwrap_err().kind(), ErrorKind::Format);
        assert!(!path.exists());
        write(65519.0).unwrap();
        parameters.get_mut(name).unwrap().pop();
        let error = write_onnx(&arch(), &parameters, &path, &[&path]).unwrap_err();
        assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Mismatch, Some(name)));
    }
}
