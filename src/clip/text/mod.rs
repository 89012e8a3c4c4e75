//! CLIP's text side, which heads are made from: prompts to tokens to embeddings.
//!
//! It is needed once a task, before anything is deployed: a [`Head`](super::Head) holds what came of it.

pub mod arch;
pub mod files;
pub mod graph;
pub mod prompts;
pub mod tokenizer;

pub use arch::TextArch;
pub use files::{TextHints, TextModel};
pub use prompts::Prompts;
pub use tokenizer::Tokenizer;
