//! `tb_weights`: the weights of a task expression.

use std::ffi::{CString, c_char};
use std::sync::{Arc, OnceLock};

use super::basis::{model, tb_basis};
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Buffer, Handle, Out, StructOut, Versioned};
use crate::basis::{Coefficients, TaskExpr};
use crate::error::{Error, Result};
use crate::weights::{TaskWeights, Values, Weights};

/// The weights of a task expression. They never change. Making the handle computes only the coefficients; the weights
/// themselves are reconstructed when they are first needed, and are kept in the basis's cache. Shareable between
/// threads.
pub struct tb_weights {
    _opaque: [u8; 0],
}

pub(super) struct NamedWeights {
    pub(super) weights: TaskWeights,
    expression: CString,
    /// The names as C reads them, in the order of the tensors; made when first asked for.
    names: OnceLock<Vec<CString>>,
}

impl Handle for tb_weights {
    type Inner = NamedWeights;
    const NAME: &'static str = "weights";
}

/// A task and its scaling coefficient. This struct never changes, so arrays of it are safe.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_task {
    /// The task's name, UTF-8.
    pub name: *const c_char,
    /// The factor of its task vector; finite.
    pub lambda: f64,
}

/// A tensor of some weights: f32, row-major. Everything in it belongs to the weights handle.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_tensor {
    /// sizeof(tb_tensor), set by the caller.
    pub struct_size: usize,
    /// The canonical name: `visual.proj`, `visual.transformer.resblocks.0.attn.in_proj_weight` and so on.
    pub name: *const c_char,
    /// `count` values.
    pub data: *const f32,
    /// The product of the extents.
    pub count: usize,
    /// `rank` extents.
    pub shape: *const usize,
    /// The number of dimensions.
    pub rank: usize,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_tensor {}

/// Names the weights of a task expression: `MNIST`, `MNIST@0.8`, `-MNIST@0.5`, `MNIST@0.3 + SVHN@0.3 - Cars@0.2`,
/// `merged@0.4` (the sum of the M vectors), `all@0.3` (the sum of all tasks), `base`. The number is the scaling
/// coefficient, 1 where there is none. Nothing is reconstructed yet.
///
/// @param expression  the task expression; names with odd characters in double quotes
/// @param out         set to the new handle, which the caller frees with tb_weights_free(); NULL on failure
/// @return TB_OK; TB_ERR_INVALID_ARGUMENT for an expression that cannot be read or is not finite; TB_ERR_NOT_FOUND for
///         an unknown task; TB_ERR_NOT_RECOVERABLE for one that this basis cannot give back
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_create(
    basis: *const tb_basis,
    expression: *const c_char,
    out: *mut *mut tb_weights,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null_mut())?;
        let model = model(basis)?;
        let expression: TaskExpr = handle::text(expression, "expression")?.parse()?;
        out.set(named(model.weights(&expression)?));
        Ok(())
    })
}

/// Names the weights of base + lambda[0]*task[0] + ... + lambda[n-1]*task[n-1]. No tasks give the base. A name is taken
/// as it is and needs no quotes.
///
/// @param tasks  `n` tasks; may be NULL where that is 0. Not needed after the call
/// @param out    as in tb_weights_create()
/// @return as tb_weights_create()
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_create_from_tasks(
    basis: *const tb_basis,
    tasks: *const tb_task,
    n: usize,
    out: *mut *mut tb_weights,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null_mut())?;
        let model = model(basis)?;
        let mut expression = TaskExpr::base();
        for (i, task) in handle::slice(tasks, n, "tasks")?.iter().enumerate() {
            let name = handle::text(task.name, "name").map_err(|e| e.in_element("tasks", i))?;
            if !task.lambda.is_finite() {
                return Err(Error::invalid("a scaling coefficient (λ) must be finite")
                    .in_element("tasks", i)
                    .got(task.lambda));
            }
            expression = expression + TaskExpr::task(name) * task.lambda;
        }
        out.set(named(model.weights(&expression)?));
        Ok(())
    })
}

/// Names the weights of base + coefficients[0]*s[0] + ... + coefficients[M-1]*s[M-1] + mean*s_mean, with s the basis
/// vectors and s_mean PCA's mean vector. Residuals, the vectors of single tasks that a bundle can have, are not among
/// them: tb_weights_create() with the task's name adds its own.
///
/// @param coefficients  `n` finite numbers, as tb_weights_coefficients() gives them
/// @param n             must be M
/// @param mean          what multiplies the mean vector; must be 0 where there is none
/// @param out           as in tb_weights_create()
/// @return TB_OK; TB_ERR_INVALID_ARGUMENT
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_create_from_coefficients(
    basis: *const tb_basis,
    coefficients: *const f64,
    n: usize,
    mean: f64,
    out: *mut *mut tb_weights,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null_mut())?;
        let model = model(basis)?;
        // Before anything is read: a wrong count must not lead beyond the caller's array.
        model.check_count(n)?;
        let vectors = handle::slice(coefficients, n, "coefficients")?.to_vec();
        out.set(named(model.weights_from(Coefficients { vectors, mean, residuals: Vec::new() })?));
        Ok(())
    })
}

pub(super) fn named(weights: TaskWeights) -> *mut tb_weights {
    let expression = handle::c_text(weights.name());
    handle::into_raw::<tb_weights>(NamedWeights { weights, expression, names: OnceLock::new() })
}

/// The expression in its usual spelling, UTF-8; the coefficients, where it was made of those. It belongs to the handle.
/// NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_expression(weights: *const tb_weights) -> *const c_char {
    handle::infallible(std::ptr::null(), || {
        // SAFETY: the handle is this library's and not freed, as the header demands.
        unsafe { handle::borrow(weights) }.map_or(std::ptr::null(), |weights| weights.expression.as_ptr())
    })
}

/// Writes the coefficients of the basis vectors: M numbers, and one for PCA's mean. Where they differ between groups of
/// parameters, tb_weights_coefficients_of() gives those of one.
///
/// @param out       f64 [M]; may be NULL where `capacity` is 0
/// @param capacity  numbers that `out` has room for: at least M, or TB_ERR_BUFFER_TOO_SMALL
/// @param needed    set to M, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
/// @param mean      set to what multiplies the mean; may be NULL
/// @return TB_OK; TB_ERR_BUFFER_TOO_SMALL; TB_ERR_UNSUPPORTED for weights whose expression has groups
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_coefficients(
    weights: *const tb_weights,
    out: *mut f64,
    capacity: usize,
    needed: *mut usize,
    mean: *mut f64,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, needed, "out")?;
        let mean = mean_place(mean)?;
        let matrix = handle::borrow(weights)?.weights.coefficients();
        let coefficients = matrix.plain().ok_or_else(|| {
            Error::unsupported("the coefficients differ between groups of parameters")
                .hint("tb_weights_coefficients_of() gives those of one parameter")
        })?;
        write_row(coefficients, out, mean)
    })
}

/// The place for what multiplies the mean, where C wants to know it.
///
/// # Safety
/// As of [`Out::new`].
pub(super) unsafe fn mean_place<'a>(mean: *mut f64) -> Result<Option<Out<'a, f64>>> {
    // SAFETY: not NULL, checked here; the rest is the caller's promise.
    (!mean.is_null()).then(|| unsafe { Out::new(mean, "mean", 0.0) }).transpose()
}

/// Writes the coefficients of the vectors, and the mean's.
pub(super) fn write_row(row: &Coefficients, out: Buffer<f64>, mean: Option<Out<'_, f64>>) -> Result<()> {
    out.fill(&row.vectors)?;
    if let Some(mean) = mean {
        mean.set(row.mean);
    }
    Ok(())
}

/// Reconstructs now, unless the weights are ready: afterwards the first call that needs them finds them in the cache,
/// as far as its budget goes. They are made in the form that the encoder of the basis takes that was made or used last;
/// where there is none yet, and for tb_weights_tensor(), one f32 after another.
///
/// @return TB_OK; TB_ERR_MISMATCH where base and basis are not of one model; TB_ERR_OUT_OF_MEMORY
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_prepare(weights: *const tb_weights, err: *mut *mut tb_error) -> tb_status {
    call!(err, handle::borrow(weights)?.weights.prepare())
}

/// Reconstructs the weights in the background, unless they are ready, and returns at once. A failure shows when
/// the weights are needed. The handle may be freed at any time; what has not begun when the last handle of the basis,
/// its weights and encoders is freed never does.
///
/// Each cache has one thread for this, which reconstructs one after the other, first come, first served, and ends when
/// nothing is wanted any more: however much is prefetched, memory stays within the budget and the weights that are
/// being reconstructed. What several ask for is reconstructed once. A caller that needs weights being reconstructed
/// waits for that thread instead of doing the work twice; where their turn has not come, they are reconstructed at
/// once, in the thread that needs them.
///
/// The least recently used weights make room, those that were prefetched and have not been needed yet among them:
/// prefetching more than the budget has room for leaves the last ones.
///
/// @return TB_OK; TB_ERR_OUT_OF_MEMORY where the system gives no thread
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_prefetch(weights: *const tb_weights, err: *mut *mut tb_error) -> tb_status {
    call!(err, handle::borrow(weights)?.weights.prefetch())
}

/// Takes back what tb_weights_prefetch() asked for through this handle, however often: what has not begun never does,
/// and a reconstruction stops within a millisecond or so and frees its memory. It goes on where a caller already waits
/// for these weights, or another handle has prefetched the same and not taken it back (freeing that handle does not).
/// Nothing happens where none is under way.
///
/// @param stopped  set to 1 where it was stopped, and the weights do not become ready, else to 0; may be NULL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_cancel_prefetch(
    weights: *const tb_weights,
    stopped: *mut i32,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let stopped = (!stopped.is_null()).then(|| Out::new(stopped, "stopped", 0)).transpose()?;
        let cancelled = handle::borrow(weights)?.weights.cancel_prefetch();
        if let Some(stopped) = stopped {
            stopped.set(cancelled.into());
        }
        Ok(())
    })
}

/// Sets `*out` to 1 where the weights are reconstructed and still kept, so that the next call that needs them need not
/// wait; else to 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_is_ready(
    weights: *const tb_weights,
    out: *mut i32,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", 0)?;
        out.set(handle::borrow(weights)?.weights.is_ready().into());
        Ok(())
    })
}

/// Sets `*out` to the number of tensors, those of the image tower. Reconstructs, and holds on to the weights as
/// tb_weights_tensor() does.
///
/// @return what tb_weights_prepare() returns
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_tensor_count(
    weights: *const tb_weights,
    out: *mut usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", 0)?;
        out.set(handle::borrow(weights)?.weights.pin()?.len());
        Ok(())
    })
}

/// A view of the tensor called `name`. `tensor->struct_size` has to be set.
///
/// Reconstructs, and from now on the handle holds on to the weights whatever the cache's budget: the view is valid
/// until the handle is freed.
///
/// @param name    the canonical name
/// @param tensor  `struct_size` set by the caller; the rest is zero on failure
/// @return TB_OK; TB_ERR_NOT_FOUND; TB_ERR_UNSUPPORTED for a tensor that is not of floats; what tb_weights_prepare()
///         returns
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_tensor(
    weights: *const tb_weights,
    name: *const c_char,
    tensor: *mut tb_tensor,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = StructOut::new(tensor, "tensor")?;
        let name = handle::text(name, "name")?;
        let named = handle::borrow(weights)?;
        let weights = named.weights.pin()?;
        let index = weights.index_of(name)?;
        out.set(named.view(&weights, index)?);
        Ok(())
    })
}

/// A view of tensor `index`, 0 <= index < tb_weights_tensor_count(), in the order of the base's file; otherwise as
/// tb_weights_tensor().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_tensor_at(
    weights: *const tb_weights,
    index: usize,
    tensor: *mut tb_tensor,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = StructOut::new(tensor, "tensor")?;
        let named = handle::borrow(weights)?;
        out.set(named.view(&named.weights.pin()?, index)?);
        Ok(())
    })
}

/// Copies the tensor called `name` into the caller's buffer. Reconstructs if need be; nothing is held on to.
///
/// @param out       f32, the tensor's shape; may be NULL where `capacity` is 0
/// @param capacity  floats that `out` has room for: at least as many as the tensor has, or TB_ERR_BUFFER_TOO_SMALL
/// @param needed    set to the number of values, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
/// @return as tb_weights_tensor(); TB_ERR_BUFFER_TOO_SMALL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_copy_tensor(
    weights: *const tb_weights,
    name: *const c_char,
    out: *mut f32,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, needed, "out")?;
        let name = handle::text(name, "name")?;
        let weights = handle::borrow(weights)?.weights.get()?;
        let (_, _, values) = weights.at(weights.index_of(name)?)?;
        out.fill(floats(values)?)
    })
}

/// Frees the handle, and the views that were taken through it. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_free(weights: *mut tb_weights) {
    // SAFETY: the handle is this library's and not freed, as the header demands.
    unsafe { handle::free(weights) };
}

impl NamedWeights {
    /// A view that stays valid as long as `self` pins `weights`.
    fn view(&self, weights: &Arc<Weights>, index: usize) -> Result<tb_tensor> {
        let (_, shape, values) = weights.at(index)?;
        let names = self.names.get_or_init(|| weights.iter().map(|(name, ..)| handle::c_text(name)).collect());
        let values = floats(values)?;
        Ok(tb_tensor {
            struct_size: 0,
            name: names[index].as_ptr(),
            data: values.as_ptr(),
            count: values.len(),
            shape: shape.as_ptr(),
            rank: shape.len(),
        })
    }
}

fn floats(values: Values<'_>) -> Result<&[f32]> {
    match values {
        Values::F32(values) => Ok(values),
        Values::Carried(tensor) => Err(Error::unsupported("the tensor is not one of floats").got(tensor.dtype())),
        Values::Cast(dtype, _) => Err(Error::unsupported("the tensor is not one of f32").got(dtype)),
        Values::Packed(..) => Err(Error::unsupported("the tensor is packed")),
    }
}
