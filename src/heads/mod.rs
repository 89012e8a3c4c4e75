//! Heads: class scores from embeddings. Their files, their class names, and the prompts that they are made from.

mod class_lists;
mod classifier;
mod files;
pub mod head;
#[cfg(feature = "text")]
pub mod prompts;
mod ranking;
mod several;
#[cfg(feature = "text")]
pub mod tokenizer;
#[cfg(feature = "tokenizers")]
mod tokenizer_file;

pub use class_lists::{class_names, class_tasks, has_plain_class_names, known_class_names};
pub(crate) use files::choose_task;
pub(crate) use files::head_places;
pub use files::{SIGMOID, head_tasks};
pub use head::{Head, ScoreFunction, softmax, top_k};
#[cfg(feature = "text")]
pub use prompts::Prompts;
pub use ranking::Score;
pub(crate) use several::split;
pub use several::{classify_many, logits_of_many};
#[cfg(feature = "text")]
pub use tokenizer::Tokenizer;
