//! Dot products, lengths and cosines of what expressions add to the base.

use std::ffi::c_char;
use std::sync::Arc;

use super::basis::{no_basis, tb_basis};
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Out};
use crate::basis::{Basis, TaskExpr};
use crate::error::Result;
use crate::fit::Products;

/// The dot product of what two task expressions add to the base, over all parameters: computed from the products of the
/// basis vectors, all of which the first call on a basis reads; it keeps M*M numbers per parameter.
///
/// @param a    a task expression, UTF-8
/// @param b    another, or the same
/// @param out  set to the product, NaN on failure
/// @return TB_OK; TB_ERR_INVALID_ARGUMENT for an expression that cannot be read, where the product is not finite, and
///         where only a base is open; TB_ERR_NOT_FOUND for an unknown task; TB_ERR_NOT_RECOVERABLE for one that this
///         basis cannot give back; TB_ERR_FORMAT for vectors that are not finite
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_dot(
    basis: *const tb_basis,
    a: *const c_char,
    b: *const c_char,
    out: *mut f64,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", f64::NAN)?;
        out.set(of_two(basis, a, b, Products::dot)?);
        Ok(())
    })
}

/// The length of what a task expression adds to the base: the square root of its tb_basis_dot() with itself.
///
/// @param a    a task expression, UTF-8
/// @param out  set to the length, NaN on failure
/// @return as tb_basis_dot()
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_norm(
    basis: *const tb_basis,
    a: *const c_char,
    out: *mut f64,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", f64::NAN)?;
        let a = expression(a, "a")?;
        out.set(of(basis, |products, basis| products.norm(basis, &a))?);
        Ok(())
    })
}

/// The cosine of the angle between what two task expressions add to the base, from -1 to 1.
///
/// @param a    a task expression, UTF-8
/// @param b    another
/// @param out  set to the cosine, NaN on failure
/// @return as tb_basis_dot(); TB_ERR_INVALID_ARGUMENT also where one of them adds nothing, as `base` does
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_cosine(
    basis: *const tb_basis,
    a: *const c_char,
    b: *const c_char,
    out: *mut f64,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", f64::NAN)?;
        out.set(of_two(basis, a, b, Products::cosine)?);
        Ok(())
    })
}

unsafe fn expression(text: *const c_char, name: &'static str) -> Result<TaskExpr> {
    // SAFETY: the caller's promise.
    unsafe { handle::text(text, name) }.and_then(str::parse)
}

/// What `compute` makes of two expressions.
unsafe fn of_two(
    basis: *const tb_basis,
    a: *const c_char,
    b: *const c_char,
    compute: fn(&Products, &Basis, &TaskExpr, &TaskExpr) -> Result<f64>,
) -> Result<f64> {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        let (a, b) = (expression(a, "a")?, expression(b, "b")?);
        of(basis, |products, basis| compute(products, basis, &a, &b))
    }
}

/// What `compute` makes of the products of the basis, which are summed up by the first who asks.
unsafe fn of(basis: *const tb_basis, compute: impl FnOnce(&Products, &Basis) -> Result<f64>) -> Result<f64> {
    // SAFETY: the caller's promise.
    let open = unsafe { handle::borrow(basis) }?;
    let basis = open.opened.model().basis().ok_or_else(no_basis)?;
    let mut kept = open.products.lock();
    let products = match &*kept {
        Some(products) => Arc::clone(products),
        None => Arc::clone(kept.insert(Arc::new(Products::of(basis, open.opened.model().threads(), &|_| {})?))),
    };
    drop(kept);
    compute(&products, basis)
}
