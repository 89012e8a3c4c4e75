//! Layouts, in which a consumer wants its weights: under which names, whole or in pieces, transposed, scaled, in which
//! types.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use indexmap::IndexMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::batch_norm::BatchNorm;
use super::cache::{CacheLease, Holder, Keeper};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernel::linear::{PackedLayout, Precision};
use crate::tensor::{DType, Tensor, checked_numel, contiguous_strides};

/// A parameter, or a part of it, with its elements in another order: some of its rows, seen in another shape, its
/// dimensions permuted, all of it several times, all multiplied by a number, each row by that of a batch normalisation.
/// In this order; what is not given changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// The parameter's canonical name.
    pub parameter: String,
    /// The rows of its first dimension: from this one, up to that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<[usize; 2]>,
    /// The shape that they are seen in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<usize>>,
    /// The dimension of that shape that becomes the first, the second, …; `[1, 0]` transposes a matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permute: Option<Vec<usize>>,
    /// The number of times that all of that comes, one after another: a class token that was laid out for a fixed
    /// batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<usize>,
    /// The factor of every element, in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// The batch normalisation that multiplies the rows of the parameter, as exporters fold it into convolutions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<BatchNorm>,
}

/// The place of a [`View`]'s elements in its parameter: what a tensor of the parameter's shape, row-major, becomes.
/// What is repeated has a first dimension of stride 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Strided {
    /// The place of the first element.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

impl View {
    /// All of a parameter, as it is.
    pub fn whole(parameter: &str) -> Self {
        Self {
            parameter: parameter.to_owned(),
            rows: None,
            shape: None,
            permute: None,
            repeat: None,
            scale: None,
            norm: None,
        }
    }

    /// Everything that its values depend on: the parameter, and those of the batch normalisation.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        let of_norm = self.norm.iter().flat_map(BatchNorm::parameters);
        std::iter::once(self.parameter.as_str()).chain(of_norm)
    }

    /// The rows that it takes of a parameter of this shape, and their place in it.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where the parameter has no such rows.
    pub(crate) fn elements(&self, shape: &[usize]) -> Result<Range<usize>> {
        let all = checked_numel(shape).ok_or_else(|| Error::format("a shape overflows"))?;
        match (self.rows, shape.first()) {
            (None, _) => Ok(0..all),
            (Some([start, end]), Some(&count)) if start < end && end <= count => {
                let row = all / count;
                Ok(start * row..end * row)
            }
            (Some([start, end]), _) => Err(Error::mismatch("the parameter has no such rows")
                .tensor(&self.parameter)
                .expected(format_args!("rows of {shape:?}"))
                .got(format_args!("[{start}, {end}]"))),
        }
    }

    /// The shape that the rows are seen in, before its dimensions are permuted.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where rows or shape do not fit the parameter's.
    pub(crate) fn seen(&self, parameter: &[usize]) -> Result<Vec<usize>> {
        let count = self.elements(parameter)?.len();
        Ok(match (&self.shape, self.rows) {
            (Some(shape), _) if checked_numel(shape) == Some(count) => shape.clone(),
            (Some(shape), _) => {
                return Err(Error::mismatch("another number of elements than the parameter's rows have")
                    .tensor(&self.parameter)
                    .expected(count)
                    .got(format_args!("{shape:?}")));
            }
            (None, None) => parameter.to_vec(),
            (None, Some([from, to])) => std::iter::once(to - from).chain(parameter[1..].iter().copied()).collect(),
        })
    }

    /// The place of the view's elements in a parameter of this shape.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where rows, shape or permutation do not fit.
    pub(crate) fn strided(&self, parameter: &[usize]) -> Result<Strided> {
        let mut strided = self.once(parameter)?;
        match self.repeat {
            None | Some(1) => {}
            Some(0) => return Err(Error::mismatch("repeated no times").tensor(&self.parameter)),
            Some(count) => {
                strided.shape.insert(0, count);
                strided.strides.insert(0, 0);
            }
        }
        Ok(strided)
    }

    /// The number of times that its elements come.
    pub(crate) fn count(&self) -> usize {
        self.repeat.unwrap_or(1)
    }

    /// [`View::strided`], not repeated.
    pub(super) fn once(&self, parameter: &[usize]) -> Result<Strided> {
        let Range { start, .. } = self.elements(parameter)?;
        let seen = self.seen(parameter)?;
        let strides = contiguous_strides(&seen);
        let Some(order) = &self.permute else { return Ok(Strided { offset: start, shape: seen, strides }) };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..seen.len()) {
            return Err(Error::mismatch("not a permutation of the dimensions")
                .tensor(&self.parameter)
                .expected(format_args!("each of 0 to {} once", seen.len().saturating_sub(1)))
                .got(format_args!("{order:?}")));
        }
        let pick = |of: &[usize]| order.iter().map(|&d| of[d]).collect();
        Ok(Strided { offset: start, shape: pick(&seen), strides: pick(&strides) })
    }

    /// The elements, in their order, of a tensor that is the parameter. Scale and normalisation are not applied.
    ///
    /// # Errors
    /// As [`View::strided`]; when memory for a copy is refused, which a tensor of odd strides needs.
    pub(crate) fn of(&self, parameter: &Tensor) -> Result<Tensor> {
        let strided = self.once(parameter.shape())?;
        let once = parameter.to_contiguous()?.rearranged(strided.offset, &strided.shape, &strided.strides)?;
        match self.count() {
            1 => Ok(once),
            count => Tensor::concatenated(&vec![&once; count]),
        }
    }
}

/// A tensor as a graph wants it: the sum of its parts, in its type.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// The name in the graph.
    pub name: String,
    /// The type of its elements: a float.
    pub dtype: DType,
    /// The tensor's extents.
    pub shape: Vec<usize>,
    /// The views that it is made of, added up in this order; usually one.
    pub parts: Vec<View>,
    /// The packed form that the linear kernel reads a matrix in, instead of its elements one after another.
    pub packed: Option<PackedLayout>,
}

impl TensorSpec {
    /// A parameter under its own name, as it is.
    pub fn whole(name: &str, shape: &[usize], dtype: DType) -> Self {
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), parts: vec![View::whole(name)], packed: None }
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that its elements take.
    pub fn nbytes(&self) -> usize {
        self.packed.map_or_else(|| self.numel() * self.dtype.size(), |packed| packed.nbytes())
    }
}

/// The [`Layout::id`] of all canonical layouts: which parameters there are, the model says.
const CANONICAL: u64 = 0;

/// All tensors that a graph is given: what [`TaskWeights::in_layout`](super::TaskWeights::in_layout) reconstructs into.
///
/// No weights in it can be asked for once it is gone, so caches then keep none; the canonical layout is never gone.
#[derive(Debug)]
pub struct Layout {
    tensors: Vec<TensorSpec>,
    /// The shape of every parameter that they are made of.
    parameters: IndexMap<String, Vec<usize>>,
    /// What the graph itself holds of the base's parameters. Weights in which one of them is another fit no run of it.
    kept: IndexMap<String, Tensor>,
    /// Different from every other layout of this process; weights of different layouts are different weights.
    id: u64,
    /// Takes weights in it out of the caches with it.
    lease: CacheLease,
}

impl Layout {
    /// A layout of these tensors, for a model of this base. `kept` are the base's parameters that the graph holds
    /// itself.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the tensor, where a part is of no parameter of the
    /// base, or does not fit it or the tensor; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a type
    /// that is no float.
    pub fn new(tensors: Vec<TensorSpec>, kept: &[&str], base: &Checkpoint) -> Result<Arc<Self>> {
        let mut parameters = IndexMap::new();
        for tensor in &tensors {
            check(tensor, base).map_err(|e| e.tensor(&tensor.name))?;
            for name in tensor.parts.iter().flat_map(View::parameters) {
                parameters.insert(name.to_owned(), base.require(name)?.shape().to_vec());
            }
        }
        let mut held = IndexMap::new();
        for name in kept {
            held.insert((*name).to_owned(), base.require(name)?.clone());
        }
        let id = next_id();
        Ok(Arc::new(Self { tensors, parameters, kept: held, id, lease: CacheLease::new(Holder::Layout(id)) }))
    }

    /// The layout of whole parameters under their own names, some of them packed. As long as one lives, the same
    /// tensors have the same one, so that encoders of one architecture share weights.
    pub(crate) fn of_parameters(tensors: Vec<TensorSpec>) -> Arc<Self> {
        static KNOWN: Mutex<Vec<Weak<Layout>>> = Mutex::new(Vec::new());

        let mut known = KNOWN.lock();
        known.retain(|layout| layout.strong_count() > 0);
        if let Some(layout) = known.iter().filter_map(Weak::upgrade).find(|layout| layout.tensors == tensors) {
            return layout;
        }
        let layout = Self::of(tensors, next_id());
        known.push(Arc::downgrade(&layout));
        layout
    }

    /// This layout with its tensors in other forms, some of them packed.
    ///
    /// # Errors
    /// As [`Layout::new`], of what is packed.
    pub(crate) fn packed(&self, tensors: Vec<TensorSpec>) -> Result<Arc<Self>> {
        for tensor in &tensors {
            check_packed(tensor, |name| self.shape_of(name)).map_err(|e| e.tensor(&tensor.name))?;
        }
        let (parameters, kept, id) = (self.parameters.clone(), self.kept.clone(), next_id());
        Ok(Arc::new(Self { tensors, parameters, kept, id, lease: CacheLease::new(Holder::Layout(id)) }))
    }

    /// The layout of weights as a state dict has them: parameters under their own names ([`TensorSpec::whole`]).
    pub fn canonical(tensors: Vec<TensorSpec>) -> Arc<Self> {
        Self::of(tensors, CANONICAL)
    }

    fn of(tensors: Vec<TensorSpec>, id: u64) -> Arc<Self> {
        let parameters = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
        let (kept, lease) = (IndexMap::new(), CacheLease::new(Holder::Layout(id)));
        Arc::new(Self { tensors, parameters, kept, id, lease })
    }

    /// Whether it is the layout of a state dict.
    pub fn is_canonical(&self) -> bool {
        self.id == CANONICAL
    }

    /// The tensors, in the order of the graph's inputs.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Bytes that all tensors take.
    pub fn nbytes(&self) -> usize {
        self.tensors.iter().map(TensorSpec::nbytes).sum()
    }

    /// Whether all of them are f32, packed or not.
    pub(crate) fn is_f32(&self) -> bool {
        let is_f32 = |packed: PackedLayout| packed.precision() == Precision::F32;
        self.tensors.iter().all(|tensor| tensor.dtype == DType::F32 && tensor.packed.is_none_or(is_f32))
    }

    /// The parameters that they are made of, with their shapes.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.parameters.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }

    /// The shape of a parameter that they are made of.
    pub(crate) fn shape_of(&self, parameter: &str) -> Option<&[usize]> {
        self.parameters.get(parameter).map(Vec::as_slice)
    }

    /// The base's parameters that the graph holds itself.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.kept.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// What tells it from other layouts in this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Notes a cache that may keep weights in it from now on. Canonical ones stay, whichever layout of them goes.
    pub(super) fn register_cache<K: Keeper + 'static>(&self, cache: &Arc<K>) {
        if !self.is_canonical() {
            self.lease.register_cache(cache);
        }
    }
}

/// The id of a layout that is not canonical.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(CANONICAL + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn check(tensor: &TensorSpec, base: &Checkpoint) -> Result<()> {
    if !tensor.dtype.is_float() {
        return Err(Error::unsupported("weights are floats").got(tensor.dtype));
    }
    if tensor.parts.is_empty() {
        return Err(Error::mismatch("made of nothing"));
    }
    let numel = checked_numel(&tensor.shape).ok_or_else(|| Error::format("its shape overflows"))?;
    for part in &tensor.parts {
        let parameter = base.get(&part.parameter).ok_or_else(|| {
            Error::mismatch(format!("made of `{}`, which the base does not have", part.parameter)).at(base.path())
        })?;
        let strided = part.strided(parameter.shape())?;
        if checked_numel(&strided.shape) != Some(numel) {
            return Err(Error::mismatch(format!("a part of another size: `{}`", part.parameter))
                .expected(format_args!("{numel} elements"))
                .got(format_args!("{:?}", strided.shape)));
        }
        if part.scale.is_some_and(|scale| !scale.is_finite()) {
            return Err(Error::invalid("a scale is not finite"));
        }
        if let Some(norm) = &part.norm {
            norm.check(parameter.shape(), base)?;
        }
    }
    check_packed(tensor, |name| base.get(name).map(Tensor::shape))
}

/// Whether what is packed is whole rows of a parameter, from the beginning of a panel on.
fn check_packed<'a>(tensor: &TensorSpec, shape_of: impl Fn(&str) -> Option<&'a [usize]>) -> Result<()> {
    let Some(packed) = &tensor.packed else { return Ok(()) };
    let refused = || Error::unsupported("only a whole matrix, or whole rows of one, can be packed");
    let [part] = tensor.parts.as_slice() else { return Err(refused()) };
    let shape = shape_of(&part.parameter).ok_or_else(refused)?;
    let elements = part.elements(shape)?;
    let are_rows = *part == View { rows: part.rows, ..View::whole(&part.parameter) };
    let is_theirs = packed.outputs().checked_mul(packed.inputs()) == Some(elements.len())
        && elements.len() == tensor.numel()
        && shape.iter().skip(1).product::<usize>() == packed.inputs();
    if are_rows && is_theirs && elements.start.is_multiple_of(packed.panel_elements()) {
        return Ok(());
    }
    Err(refused())
}
