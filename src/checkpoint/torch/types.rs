//! The types of elements by PyTorch's names.

use super::node::Node;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Every type, with the names of its `torch.dtype` and of its storage class; PyTorch has no such class for some.
const NAMES: [(DType, &str, Option<&str>); 13] = [
    (DType::F64, "float64", Some("DoubleStorage")),
    (DType::F32, "float32", Some("FloatStorage")),
    (DType::F16, "float16", Some("HalfStorage")),
    (DType::BF16, "bfloat16", Some("BFloat16Storage")),
    (DType::I64, "int64", Some("LongStorage")),
    (DType::I32, "int32", Some("IntStorage")),
    (DType::I16, "int16", Some("ShortStorage")),
    (DType::I8, "int8", Some("CharStorage")),
    (DType::U64, "uint64", None),
    (DType::U32, "uint32", None),
    (DType::U16, "uint16", None),
    (DType::U8, "uint8", Some("ByteStorage")),
    (DType::Bool, "bool", Some("BoolStorage")),
];

/// The type that a pickled `torch.dtype` names.
pub(super) fn dtype(node: Node<'_>) -> Result<DType> {
    let (module, name) = node.class_name().ok_or_else(|| Error::format("a tensor's dtype cannot be read"))?;
    let known = NAMES.iter().find(|(_, dtype, _)| *dtype == name);
    known.map(|(dtype, ..)| *dtype).ok_or_else(|| unknown(module, name))
}

/// The type that a storage class implies; `None` for one of bytes without a type.
pub(super) fn of_storage(class: Node<'_>) -> Result<Option<DType>> {
    let (module, name) = class.class_name().ok_or_else(|| Error::format("a tensor's storage has no class"))?;
    if matches!(name, "UntypedStorage" | "_UntypedStorage") {
        return Ok(None);
    }
    let known = NAMES.iter().find(|(.., storage)| *storage == Some(name));
    known.map(|(dtype, ..)| Some(*dtype)).ok_or_else(|| unknown(module, name))
}

/// The storage class of a type.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a type that PyTorch has no such class for.
pub(crate) fn storage_class(dtype: DType) -> Result<&'static str> {
    let class = NAMES.iter().find_map(|(known, _, class)| class.filter(|_| *known == dtype));
    class.ok_or_else(|| Error::unsupported("PyTorch has no storage class for this type").got(dtype))
}

fn unknown(module: &str, name: &str) -> Error {
    Error::unsupported(format!("a tensor's elements are of a type that is not supported: {module}.{name}"))
}
