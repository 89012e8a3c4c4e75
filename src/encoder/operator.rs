//! The operators of our own in built graphs: linear layers on packed weights, which are an input of the run, and
//! attention.

use std::sync::Arc;

use ort::environment::Environment;
use ort::operator::{ComputeContext, Kernel as OrtKernel, KernelContext, Operator, OperatorDomain};
use ort::operator::{OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{TensorElementType, ValueRef};
use parking_lot::Mutex;

use super::infer_shape;
use super::ort_error::failed;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::kernel::linear::{self, Activation, AttentionJob, LayerNorm, LinearJob, Matrix, PackedLayout};
use crate::kernel::linear::{Pairing, Patches, Pool, Precision, Rotation, Scratch, SwiGluJob};
use crate::onnx::TensorType;
use crate::onnx::emit::{self, ModelWriter, int};
use crate::onnx::own::{ATTENTION, DOMAIN, LINEAR, SWIGLU, UNPACKED_LINEAR};

const REGISTERING: &str = "cannot register the operators for packed weights";

/// The operators of a session with this number of threads.
///
/// # Errors
/// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
pub(super) fn domain(threads: usize, kernel: Kernel) -> Result<Arc<OperatorDomain>> {
    let at = Machine { threads, kernel };
    let domain = OperatorDomain::new(DOMAIN).map_err(failed(REGISTERING))?;
    let domain = domain.add(LinearOperator { at, is_packed: true }).map_err(failed(REGISTERING))?;
    let domain = domain.add(LinearOperator { at, is_packed: false }).map_err(failed(REGISTERING))?;
    let domain = domain.add(SwiGluOperator(at)).map_err(failed(REGISTERING))?;
    domain.add(AttentionOperator(at)).map(Arc::new).map_err(failed(REGISTERING))
}

/// Makes the domain of the operators known to ONNX Runtime, which has to be done before any session is opened.
///
/// The domains of a process are in one table, that sessions look into with nothing held. The first session of a domain
/// looks whether it is there, and then adds it: of two that two threads open at once, one would be refused.
///
/// # Errors
/// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
pub(super) fn announce(environment: &Environment) -> Result<()> {
    let mut model = ModelWriter::new("announcement", 8, &[("", 17)]);
    model.input("in", TensorType::Float, &[]);
    model.output("out", TensorType::Float, &[]);
    let inputs = &["in"];
    model.node(&emit::Operator { name: "", domain: "", op: "Identity", inputs, outputs: &["out"], attributes: &[] });
    let builder = ort::session::Session::builder(environment).map_err(failed(REGISTERING))?;
    let builder = builder.with_intra_threads(1).map_err(failed(REGISTERING))?;
    let mut builder = builder.with_operators(domain(1, Kernel::Scalar)?).map_err(failed(REGISTERING))?;
    builder.commit_from_memory(&model.to_vec()?).map(drop).map_err(failed(REGISTERING))
}

/// What computes.
#[derive(Clone, Copy)]
struct Machine {
    threads: usize,
    kernel: Kernel,
}

/// A linear layer.
struct LinearOperator {
    at: Machine,
    is_packed: bool,
}

/// A linear layer of a graph.
struct LinearNode {
    at: Machine,
    is_packed: bool,
    layout: PackedLayout,
    is_columns: bool,
    /// The input is images.
    patches: Option<Patches>,
    activation: Activation,
    epsilon: f32,
}

impl Operator for LinearOperator {
    type Kernel<'attr> = LinearNode;

    fn name(&self) -> &str {
        if self.is_packed { LINEAR } else { UNPACKED_LINEAR }
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let weights = if self.is_packed { TensorElementType::Uint8 } else { TensorElementType::Float32 };
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(weights),
            OperatorInput::optional(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        // What is made of images has another shape, and is of the built graph, which nothing optimises.
        match context.attr::<i64>("patch") {
            Ok(_) => Ok(()),
            Err(_) => infer_shape::of_layer(context, context.attr("outputs")?),
        }
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<LinearNode> {
        let Self { at, is_packed } = *self;
        let lacks = |what: &str| lacks(self.name(), what);
        let precision = Precision::of_code(number(node, "precision").ok_or_else(|| lacks("precision"))?);
        let activation = Activation::of_code(number(node, "activation").ok_or_else(|| lacks("activation"))?);
        let size = |what: &str| size(node, what).ok_or_else(|| lacks(what));
        let precision = precision.ok_or_else(|| lacks("precision"))?;
        let layout = PackedLayout::new(size("outputs")?, size("inputs")?, precision);
        Ok(LinearNode {
            at,
            is_packed,
            layout: layout.map_err(|e| ort::Error::new(e.to_string()))?,
            is_columns: number(node, "columns") == Some(1),
            patches: self::size(node, "patch")
                .zip(self::size(node, "grid"))
                .map(|(patch, grid)| Patches { patch, grid }),
            activation: activation.ok_or_else(|| lacks("activation"))?,
            epsilon: node.get::<f32>("epsilon").ok_or_else(|| lacks("epsilon"))?,
        })
    }
}

impl OrtKernel for LinearNode {
    fn compute(&mut self, run: &ComputeContext) -> ort::Result<()> {
        let given = run.num_inputs()?;
        let optional = |index: usize| if index < given { run.input(index) } else { Ok(None) };
        let (input, weights) = (run.input(0)?.ok_or_else(missing)?, run.input(1)?.ok_or_else(missing)?);
        let (bias, residual, gain) = (optional(2)?, optional(3)?, optional(6)?);
        let (norm_weight, norm_bias) = (optional(4)?, optional(5)?);
        let (shape, input) = input.try_extract_tensor::<f32>()?;
        let weights = if self.is_packed {
            Matrix::Packed(weights.try_extract_tensor::<u8>()?.1)
        } else {
            let weights = weights.try_extract_tensor::<f32>()?.1;
            if self.is_columns { Matrix::Columns(weights) } else { Matrix::Rows(weights) }
        };
        let norm = match (floats(norm_weight.as_ref())?, floats(norm_bias.as_ref())?) {
            (Some(weight), Some(bias)) => Some(LayerNorm { weight, bias, epsilon: self.epsilon }),
            _ => None,
        };
        let [bias, residual, gain] = [floats(bias.as_ref())?, floats(residual.as_ref())?, floats(gain.as_ref())?];
        let mut shape = match self.patches {
            Some(_) => vec![int(input.len() / self.layout.inputs()), 0],
            None => shape.to_vec(),
        };
        if let Some(last) = shape.last_mut() {
            *last = int(self.layout.outputs());
        }
        let mut out = run.output(0, shape)?.ok_or_else(missing)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let (layout, activation) = (self.layout, self.activation);
        let job = LinearJob { layout, weights, input, norm, bias, activation, gain, residual, out };
        self.at.compute(run, |pool, scratch| match self.patches {
            Some(patches) => linear::linear_of_patches(self.at.kernel, patches, job, pool, scratch),
            None => linear::linear(self.at.kernel, job, pool, scratch),
        })
    }
}

/// Attention between the tokens of sequences.
struct AttentionOperator(Machine);

/// An attention of a graph.
struct AttentionNode {
    at: Machine,
    heads: usize,
    /// Of each sequence; 0 for all tokens.
    queries: usize,
    skipped_keys: usize,
    /// How the second input rotates queries and keys.
    pairing: Option<Pairing>,
    is_causal: bool,
}

impl Operator for AttentionOperator {
    type Kernel<'attr> = AttentionNode;

    fn name(&self) -> &str {
        ATTENTION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let ty = TensorElementType::Float32;
        [OperatorInput::required(ty), OperatorInput::optional(ty)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<AttentionNode> {
        let size = |what: &str| size(node, what).ok_or_else(|| lacks(ATTENTION, what));
        let (heads, queries) = (size("num_heads")?, size("queries")?);
        let pairing = match number(node, "rotation") {
            None => None,
            Some(code) => Some(Pairing::of_code(code).ok_or_else(|| lacks(ATTENTION, "rotation"))?),
        };
        let skipped_keys = self::size(node, "skipped_keys").unwrap_or(0);
        Ok(AttentionNode { at: self.0, heads, queries, skipped_keys, pairing, is_causal: size("is_causal")? == 1 })
    }
}

impl OrtKernel for AttentionNode {
    fn compute(&mut self, run: &ComputeContext) -> ort::Result<()> {
        let qkv = run.input(0)?.ok_or_else(missing)?;
        let factors = if run.num_inputs()? > 1 { run.input(1)? } else { None };
        let rotation = match (self.pairing, floats(factors.as_ref())?) {
            (Some(pairing), Some(factors)) => Some(Rotation { pairing, factors }),
            (None, None) => None,
            _ => return Err(missing()),
        };
        let (shape, qkv) = qkv.try_extract_tensor::<f32>()?;
        let extent = |i: usize| shape.get(i).and_then(|&extent| usize::try_from(extent).ok()).ok_or_else(missing);
        let (sequences, tokens, width) = (extent(0)?, extent(1)?, extent(2)? / 3);
        let queries = if self.queries == 0 { tokens } else { self.queries };
        let extents = [sequences.saturating_mul(queries), width];
        let mut out = run.output(0, extents.map(int))?.ok_or_else(missing)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let Self { heads, skipped_keys, is_causal, .. } = *self;
        let job = AttentionJob { qkv, tokens, queries, skipped_keys, rotation, heads, width, is_causal, out };
        self.at.compute(run, |pool, scratch| linear::attention(self.at.kernel, job, pool, scratch))
    }
}

/// Gated linear units.
struct SwiGluOperator(Machine);

/// Gated linear units of a graph.
struct SwiGluNode {
    at: Machine,
    is_gate_last: bool,
}

impl Operator for SwiGluOperator {
    type Kernel<'attr> = SwiGluNode;

    fn name(&self) -> &str {
        SWIGLU
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<SwiGluNode> {
        Ok(SwiGluNode { at: self.0, is_gate_last: number(node, "gate_last") == Some(1) })
    }
}

impl OrtKernel for SwiGluNode {
    fn compute(&mut self, run: &ComputeContext) -> ort::Result<()> {
        let input = run.input(0)?.ok_or_else(missing)?;
        let (shape, input) = input.try_extract_tensor::<f32>()?;
        let mut shape = shape.to_vec();
        let last = shape.last_mut().filter(|last| **last % 2 == 0).ok_or_else(missing)?;
        *last /= 2;
        let width = usize::try_from(*last).map_err(|_| missing())?;
        let mut out = run.output(0, shape)?.ok_or_else(missing)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let job = SwiGluJob { input, width, is_gate_last: self.is_gate_last, out };
        self.at.compute(run, |pool, _| linear::swiglu(self.at.kernel, job, pool))
    }
}

fn missing() -> ort::Error {
    ort::Error::new("an input is missing, or has another shape")
}

fn lacks(operator: &str, what: &str) -> ort::Error {
    ort::Error::new(format!("{DOMAIN}.{operator} without a valid `{what}`"))
}

fn number(node: &KernelContext<'_>, what: &str) -> Option<i64> {
    node.get(what)
}

fn size(node: &KernelContext<'_>, what: &str) -> Option<usize> {
    usize::try_from(number(node, what)?).ok()
}

/// The values of an input that may be left out.
fn floats<'v>(value: Option<&'v ValueRef<'_>>) -> ort::Result<Option<&'v [f32]>> {
    value.map(|value| value.try_extract_tensor().map(|(_, values)| values)).transpose()
}

impl Machine {
    /// Calls `work` with the threads of the session, and memory that the next node of any session has again.
    fn compute(
        self,
        run: &ComputeContext,
        work: impl FnOnce(&dyn Pool, &mut Scratch) -> Result<()>,
    ) -> ort::Result<()> {
        let mut scratch = ScratchLoan::take();
        let pool = RunPool { run, threads: self.threads };
        work(&pool, &mut scratch.0).map_err(|e| ort::Error::new(e.to_string()))
    }
}

/// The threads of the session.
struct RunPool<'a> {
    run: &'a ComputeContext,
    threads: usize,
}

impl Pool for RunPool<'_> {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.threads == 1 || count == 1 {
            return (0..count).for_each(work);
        }
        if self.run.par_for(count, 0, work).is_err() {
            // It is refused before any of it is done.
            (0..count).for_each(work);
        }
    }
}

/// Memory of a node, kept for the next one.
struct ScratchLoan(Scratch);

static IDLE: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

impl ScratchLoan {
    fn take() -> Self {
        Self(IDLE.lock().pop().unwrap_or_default())
    }
}

impl Drop for ScratchLoan {
    fn drop(&mut self) {
        IDLE.lock().push(std::mem::take(&mut self.0));
    }
}

/// Gives the memory back that no run uses.
pub(super) fn trim() {
    let idle = std::mem::take(&mut *IDLE.lock());
    drop(idle);
}

#[cfg(test)]
mod tests;
