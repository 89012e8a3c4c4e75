//! CLIP's and SigLIP's text towers, which heads are made with once, before anything is deployed.

pub mod arch;
pub mod files;
pub mod graph;

pub use arch::{TextArch, TextForm};
pub use files::{TextHints, TextModel};
