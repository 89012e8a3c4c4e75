//! Whether anything in a graph may be half floats. ONNX Runtime must not be let change the layout of such a graph.

use std::ops::Range;

use super::types::TensorType;
use super::wire::{fields, last};
use crate::error::Result;

/// Whether an ONNX type is one of half floats.
pub(super) fn is_half(data_type: i64) -> bool {
    data_type == TensorType::Float16 as i64 || data_type == TensorType::Bfloat16 as i64
}

/// Whether an attribute makes half floats: it names their type, holds such values, or has a graph in it, which may.
pub(super) fn in_attribute(file: &[u8], attribute: Range<usize>) -> Result<bool> {
    let (mut names_type, mut integer) = (false, 0);
    for field in fields(file, attribute) {
        let field = field?;
        match field.number {
            1 => names_type = matches!(field.text(file)?.as_str(), "to" | "dtype" | "output_dtype" | "stash_type"),
            3 => integer = field.integer()?,
            5 => {
                let data_type = last(file, field.range()?, &[2])?.map(|data_type| data_type.integer()).transpose()?;
                if data_type.is_some_and(is_half) {
                    return Ok(true);
                }
            }
            6 | 11 => return Ok(true),
            _ => {}
        }
    }
    Ok(names_type && is_half(integer))
}
