//! Coefficients by groups of parameters: what groups there are, and weights made of a row for each.

use std::ffi::c_char;

use super::basis::{model, tb_basis};
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Buffer, Out};
use super::weights::{mean_place, named, tb_weights, write_row};
use crate::basis::{Basis, Coefficients, Grouping, Selector, TaskExpr};
use crate::did_you_mean;
use crate::error::{Error, Result};

/// Names the weights in which each group of parameters has coefficients of its own: the group's are row g of
/// `coefficients`. A parameter that several groups have goes by the most specific one, as in expressions: a name in
/// double quotes, then a pattern in double quotes (`"visual.*.attn.*"`), then blocks with a kind (`blocks.0-5.attn`),
/// then blocks, then a kind (`stem`, `attn`, `mlp`, `norm`, `proj`, also with `.bias`), then `*`, all the rest.
/// tb_weights_expression() gives an expression for them.
///
/// @param groups        `n` groups, UTF-8, as expressions write them or tb_basis_group() gives them; not needed after
///                      the call
/// @param n             the number of groups
/// @param coefficients  f64 [n, vectors], finite, row-major
/// @param vectors       must be M
/// @param means         n numbers, what multiplies the mean vector in each group; NULL: 0
/// @param out           set to the new handle, which the caller frees with tb_weights_free(); NULL on failure
/// @return TB_OK; TB_ERR_INVALID_ARGUMENT, also where a parameter is in no group or in two that are equally specific,
///         and for a group without parameters; TB_ERR_NOT_FOUND for a mean where there is none
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_create_grouped(
    basis: *const tb_basis,
    groups: *const *const c_char,
    n: usize,
    coefficients: *const f64,
    vectors: usize,
    means: *const f64,
    out: *mut *mut tb_weights,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null_mut())?;
        let model = model(basis)?;
        // Before anything is read: a wrong count must not lead beyond the caller's array.
        model.check_count(vectors)?;
        let mut selectors = Vec::with_capacity(n.min(1 << 16));
        for (i, group) in handle::slice(groups, n, "groups")?.iter().enumerate() {
            let selector = handle::text(*group, "group").and_then(str::parse::<Selector>);
            selectors.push(selector.map_err(|e| e.in_element("groups", i))?);
        }
        let count = n.checked_mul(vectors).ok_or_else(|| Error::invalid("more coefficients than memory has"))?;
        let coefficients = handle::slice(coefficients, count, "coefficients")?;
        let means = if means.is_null() { &[] } else { handle::slice(means, n, "means")? };
        let row = |g: usize| Coefficients {
            vectors: coefficients[g * vectors..][..vectors].to_vec(),
            mean: means.get(g).copied().unwrap_or(0.0),
            residuals: Vec::new(),
        };
        let rows: Vec<Coefficients> = (0..n).map(row).collect();
        out.set(named(match model.basis() {
            Some(basis) => model.weights_by_group(&Grouping::new(basis, selectors)?, rows)?,
            None => model.weights(&TaskExpr::of_rows(&selectors, &rows)?)?,
        }));
        Ok(())
    })
}

/// Writes the coefficients of the basis vectors for one parameter: M numbers, and one for PCA's mean.
///
/// @param parameter  the canonical name, as tb_tensor has it
/// @param out        f64 [M]; may be NULL where `capacity` is 0
/// @param capacity   numbers that `out` has room for: at least M, or TB_ERR_BUFFER_TOO_SMALL
/// @param needed     set to M, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
/// @param mean       set to what multiplies the mean; may be NULL
/// @return TB_OK; TB_ERR_BUFFER_TOO_SMALL; TB_ERR_NOT_FOUND for a parameter that the basis does not have
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_weights_coefficients_of(
    weights: *const tb_weights,
    parameter: *const c_char,
    out: *mut f64,
    capacity: usize,
    needed: *mut usize,
    mean: *mut f64,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, needed, "out")?;
        let mean = mean_place(mean)?;
        let weights = &handle::borrow(weights)?.weights;
        let parameter = handle::text(parameter, "parameter")?;
        let matrix = weights.coefficients();
        let row = match weights.model().basis() {
            Some(basis) => basis.index_of(parameter).ok_or_else(|| {
                let names: Vec<&str> = basis.parameters().map(|(name, _)| name).collect();
                did_you_mean::unknown("parameter", parameter, names.into_iter())
            })?,
            None => 0,
        };
        write_row(&matrix.rows()[matrix.row_of(row)], out, mean)
    })
}

/// The number of groups of a ready grouping: `whole` (1), `kind` (stem, attn, mlp, norm, proj), `block` (each block,
/// and the kinds outside the blocks), `layer` (a weight and its bias), `parameter`.
///
/// @param grouping  one of these words
/// @param out       set to the number of groups
/// @return TB_OK; TB_ERR_NOT_FOUND for another word; TB_ERR_INVALID_ARGUMENT where there is only a base
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_group_count(
    basis: *const tb_basis,
    grouping: *const c_char,
    out: *mut usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", 0)?;
        let grouping = handle::text(grouping, "grouping")?;
        out.set(ready(model(basis)?.basis(), grouping)?.len());
        Ok(())
    })
}

/// Writes a group of a ready grouping as expressions and tb_weights_create_grouped() spell it.
///
/// @param grouping  as in tb_basis_group_count()
/// @param index     the group, below its count
/// @param out       characters, UTF-8, with a zero at their end; may be NULL where `capacity` is 0
/// @param capacity  bytes that `out` has room for
/// @param needed    set to the bytes that it takes with the zero, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
/// @return TB_OK; TB_ERR_BUFFER_TOO_SMALL; TB_ERR_INVALID_ARGUMENT for another index; as tb_basis_group_count()
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_group(
    basis: *const tb_basis,
    grouping: *const c_char,
    index: usize,
    out: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, needed, "out")?;
        let grouping = ready(model(basis)?.basis(), handle::text(grouping, "grouping")?)?;
        let selector = grouping.selectors().get(index).ok_or_else(|| {
            Error::invalid("there is no such group").expected(format_args!("below {}", grouping.len())).got(index)
        })?;
        let text: Vec<c_char> = selector.to_string().bytes().chain([0]).map(|byte| byte as c_char).collect();
        out.fill(&text)
    })
}

fn ready(basis: Option<&Basis>, name: &str) -> Result<Grouping> {
    let basis = basis.ok_or_else(|| Error::invalid("only a base is open: there is nothing to group"))?;
    Grouping::named(basis, name).ok_or_else(|| did_you_mean::unknown("grouping", name, Grouping::NAMES.into_iter()))
}
