//! Encoders: towers, embeddings, promotion, providers, heads.

mod classifier;
mod classifiers;
mod concurrent;
mod families;
mod finite;
mod frozen;
mod golden;
mod groups;
mod head;
mod hidden;
mod memory;
mod onnx_files;
mod precision;
mod preprocess;
mod promotion;
mod providers;
mod router;
mod runtime_loading;
mod siglip;
mod streamed;
#[path = "../support/mod.rs"]
mod support;
mod text;
mod tower;
