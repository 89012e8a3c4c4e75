//! ONNX models as data: the messages of the file format, and nothing that runs them.

pub mod proto;
pub(crate) mod stub;
pub(crate) mod write;
