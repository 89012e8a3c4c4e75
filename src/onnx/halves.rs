//! Whether anything in a graph may be half floats. ONNX Runtime must not be let change the layout of such a graph.

use std::ops::Range;

use super::constant::Constant;
use super::file::Port;
use super::types::TensorType;
use super::wire::fields;
use crate::error::Result;

/// Whether an ONNX type is one of half floats.
pub(super) fn is_half(data_type: i64) -> bool {
    data_type == TensorType::Float16 as i64 || data_type == TensorType::Bfloat16 as i64
}

/// Whether constants, inputs or outputs are.
pub(super) fn any(constants: &[Constant], ports: &[&[Port]]) -> bool {
    constants.iter().any(|constant| is_half(constant.data_type.into()))
        || ports.iter().copied().flatten().any(|port| is_half(port.data_type.into()))
}

/// Whether an attribute makes half floats: it names their type, holds such values, or has a graph in it, which may.
pub(super) fn in_attribute(file: &[u8], attribute: Range<usize>) -> Result<bool> {
    let (mut names_type, mut integer) = (false, 0);
    for field in fields(file, attribute) {
        let field = field?;
        match field.number {
            1 => names_type = matches!(field.text(file)?.as_str(), "to" | "dtype" | "output_dtype" | "stash_type"),
            3 => integer = field.integer()?,
            5 if tensor_type(file, field.range()?)?.is_some_and(is_half) => return Ok(true),
            6 | 11 => return Ok(true),
            _ => {}
        }
    }
    Ok(names_type && is_half(integer))
}

fn tensor_type(file: &[u8], tensor: Range<usize>) -> Result<Option<i64>> {
    for field in fields(file, tensor) {
        let field = field?;
        if field.number == 2 {
            return field.integer().map(Some);
        }
    }
    Ok(None)
}
