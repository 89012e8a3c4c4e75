//! CLIP's text tower, which heads are made with once, before anything is deployed.

pub mod arch;
pub mod files;
pub mod graph;

pub use arch::TextArch;
pub use files::{TextHints, TextModel};
