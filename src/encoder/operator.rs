//! The operator of our own in built graphs: a linear layer on packed weights, which are an input of the run.

use std::sync::Arc;

use ort::operator::{ComputeContext, Kernel as OrtKernel, KernelContext, Operator, OperatorDomain};
use ort::operator::{OperatorInput, OperatorOutput};
use ort::value::{TensorElementType, ValueRef};
use parking_lot::Mutex;

use super::ort_error::failed;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::kernel::linear::{self, Activation, LinearJob, Matrix, PackedLayout, Pool, Precision, Scratch};
use crate::tower::graph::{DOMAIN, LINEAR};

/// The operators of a session with this number of threads.
///
/// # Errors
/// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
pub(super) fn domain(threads: usize, kernel: Kernel) -> Result<Arc<OperatorDomain>> {
    let doing = "cannot register the operator for packed weights";
    let domain = OperatorDomain::new(DOMAIN).map_err(failed(doing))?;
    domain.add(LinearOperator { threads, kernel }).map(Arc::new).map_err(failed(doing))
}

/// A linear layer.
struct LinearOperator {
    threads: usize,
    kernel: Kernel,
}

/// A node of the graph.
struct LinearNode {
    layout: PackedLayout,
    activation: Activation,
    threads: usize,
    kernel: Kernel,
}

impl Operator for LinearOperator {
    type Kernel<'attr> = LinearNode;

    fn name(&self) -> &str {
        LINEAR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(TensorElementType::Uint8),
            OperatorInput::optional(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<LinearNode> {
        let lacks = |what: &str| ort::Error::new(format!("{DOMAIN}.{LINEAR} without a valid `{what}`"));
        let number = |what: &str| node.get::<i64>(what).ok_or_else(|| lacks(what));
        let size = |what: &str| usize::try_from(number(what)?).map_err(|_| lacks(what));
        let precision = Precision::of_code(number("precision")?).ok_or_else(|| lacks("precision"))?;
        let activation = Activation::of_code(number("activation")?).ok_or_else(|| lacks("activation"))?;
        let layout = PackedLayout::new(size("outputs")?, size("inputs")?, precision);
        let layout = layout.map_err(|e| ort::Error::new(e.to_string()))?;
        Ok(LinearNode { layout, activation, threads: self.threads, kernel: self.kernel })
    }
}

impl OrtKernel for LinearNode {
    fn compute(&mut self, run: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("an input is missing");
        let (input, weights) = (run.input(0)?.ok_or_else(missing)?, run.input(1)?.ok_or_else(missing)?);
        let given = run.num_inputs()?;
        let optional = |index: usize| if index < given { run.input(index) } else { Ok(None) };
        let (bias, residual) = (optional(2)?, optional(3)?);
        let (shape, input) = input.try_extract_tensor::<f32>()?;
        let (_, weights) = weights.try_extract_tensor::<u8>()?;
        let (bias, residual) = (floats(bias.as_ref())?, floats(residual.as_ref())?);
        let rows = shape.first().copied().unwrap_or(0);
        let outputs = i64::try_from(self.layout.outputs()).unwrap_or(i64::MAX);
        let mut out = run.output(0, [rows, outputs])?.ok_or_else(missing)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let (layout, weights, activation) = (self.layout, Matrix::Packed(weights), self.activation);
        let job = LinearJob { layout, weights, input, norm: None, bias, activation, residual, out };
        let pool = RunPool { run, threads: self.threads };
        let mut scratch = ScratchLoan::take();
        linear::linear(self.kernel, job, &pool, &mut scratch.0).map_err(|e| ort::Error::new(e.to_string()))
    }
}

/// The values of an input that may be left out.
fn floats<'v>(value: Option<&'v ValueRef<'_>>) -> ort::Result<Option<&'v [f32]>> {
    value.map(|value| value.try_extract_tensor().map(|(_, values)| values)).transpose()
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

/// Memory for converted activations, kept for the next node of any session.
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
