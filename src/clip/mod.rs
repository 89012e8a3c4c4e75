//! CLIP: the image encoder's architecture, its graph, and what surrounds it.

pub mod arch;
pub mod graph;

pub use arch::{Activation, Arch, ArchHints};
