//! ONNX models as data: the messages of the file format, users' own files, and nothing that runs them.

mod bind;
mod bound;
mod carried;
mod constant;
mod file;
mod halves;
#[doc(hidden)] // As the schema has them; for tests.
pub mod proto;
mod rewrite;
mod rope;
mod sniff;
mod sorted;
pub(crate) mod stub;
mod wire;
pub(crate) mod write;

pub use bind::{BindOptions, GraphMap, Mapped, bind, describe};
pub use bound::BoundGraph;
pub(crate) use constant::type_name;
pub use file::{OnnxFile, Port};
