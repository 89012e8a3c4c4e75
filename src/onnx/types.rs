//! Types of elements, as ONNX numbers them.

use crate::error::{Error, Result};
use crate::tensor::DType;

/// A type of elements that weights, pixels or indices have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)] // The schema's own names.
pub(crate) enum TensorType {
    Undefined = 0,
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    String = 8,
    Bool = 9,
    Float16 = 10,
    Double = 11,
    Uint32 = 12,
    Uint64 = 13,
    Bfloat16 = 16,
}

/// Every type with its name here and the bytes of an element; 0 where there is no fixed number.
const TYPES: [(TensorType, &str, usize); 15] = [
    (TensorType::Undefined, "no type", 0),
    (TensorType::Float, "f32", 4),
    (TensorType::Uint8, "u8", 1),
    (TensorType::Int8, "i8", 1),
    (TensorType::Uint16, "u16", 2),
    (TensorType::Int16, "i16", 2),
    (TensorType::Int32, "i32", 4),
    (TensorType::Int64, "i64", 8),
    (TensorType::String, "text", 0),
    (TensorType::Bool, "bool", 1),
    (TensorType::Float16, "f16", 2),
    (TensorType::Double, "f64", 8),
    (TensorType::Uint32, "u32", 4),
    (TensorType::Uint64, "u64", 8),
    (TensorType::Bfloat16, "bf16", 2),
];

/// The types that are floats here.
const FLOATS: [(TensorType, DType); 4] = [
    (TensorType::Float, DType::F32),
    (TensorType::Float16, DType::F16),
    (TensorType::Bfloat16, DType::BF16),
    (TensorType::Double, DType::F64),
];

fn known(data_type: i32) -> Option<&'static (TensorType, &'static str, usize)> {
    TYPES.iter().find(|(of, ..)| *of as i32 == data_type)
}

impl TensorType {
    /// The type of this number; `None` for one that is not known here.
    pub(crate) fn of(data_type: i32) -> Option<Self> {
        known(data_type).map(|(of, ..)| *of)
    }
}

/// Bytes of an element; 0 for a type without a fixed number, or an unknown one.
pub(super) fn element_size(data_type: i32) -> usize {
    known(data_type).map_or(0, |(_, _, size)| *size)
}

/// The name of an ONNX type here.
pub(crate) fn type_name(data_type: i32) -> String {
    known(data_type).map_or_else(|| format!("ONNX's type {data_type}"), |(_, name, _)| (*name).to_owned())
}

/// The type of weights that an ONNX type is; `None` for what is no float.
pub(super) fn float_dtype(data_type: i32) -> Option<DType> {
    FLOATS.iter().find(|(of, _)| *of as i32 == data_type).map(|(_, dtype)| *dtype)
}

/// The ONNX type of a type of weights.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for what is no float.
pub(super) fn onnx_type(dtype: DType) -> Result<TensorType> {
    let found = FLOATS.iter().find(|(_, float)| *float == dtype);
    found.map(|(of, _)| *of).ok_or_else(|| Error::unsupported("not a type of weights").got(dtype))
}
