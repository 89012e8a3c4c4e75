//! Pixels and weights in, embeddings out: the CLIP image encoder on ONNX Runtime.
//!
//! An [`Encoder`] belongs to an architecture, not to weights: its graph has every parameter as an input, and each call
//! names the weights that it runs with. So there is no current task, calls for different tasks may run at once, and a
//! switch costs nothing beyond the other pointers.

mod autotune;
mod capture_lock;
mod engine;
mod finite;
mod golden;
mod graph;
mod hidden;
mod image;
mod infer_shape;
mod input;
mod memory;
mod operator;
mod options;
mod ort_error;
mod plain_session;
mod pool;
mod precision_choice;
mod promote;
mod provider;
mod runtime;
mod self_test;
mod session;
mod task;
#[cfg(feature = "text")]
mod text;
mod weight_source;
mod width;

pub use autotune::{GraphVariant, optimise_graph};
pub use golden::Agreement;
pub(crate) use golden::Golden;
pub use graph::{write_onnx, write_onnx_f16};
pub use hidden::Hidden;
pub use image::Encoder;
pub use options::{EncoderOptions, Promotion, Provider, Residency, SelfTest, TensorRtOptions, WeightsOn};
#[doc(hidden)]
pub use plain_session::session_on_file;
pub use precision_choice::PrecisionChoice;
pub use promote::PromotionState;
pub use provider::Execution;
pub use runtime::{MINIMUM_MINOR, Origin, PATH_VARIABLE, Probe, Runtime, Version};
#[cfg(feature = "text")]
pub use text::TextEncoder;
pub use weight_source::WeightSource;
