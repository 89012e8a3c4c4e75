//! Heads: class scores from embeddings. Their files, their class names, and the prompts that they are made from.

mod class_lists;
mod classifier;
mod classify;
pub mod head;
#[cfg(feature = "text")]
pub mod prompts;
#[cfg(feature = "text")]
pub mod tokenizer;

pub use classify::Score;
pub use head::{Head, class_names, class_tasks, head_tasks, softmax, top_k};
#[cfg(feature = "text")]
pub use prompts::Prompts;
#[cfg(feature = "text")]
pub use tokenizer::Tokenizer;
