//! The files of `torch.save` and TorchScript: a zip archive with one pickle and the bytes of every storage.
//!
//! [`Archive::open`] reads the archive's directory and the pickle; a [`Node`] walks the pickled object without running
//! anything; a tensor is a view of its storage's bytes inside the file.

mod archive;
mod node;
mod rebuild;
pub(super) mod types;
mod walk;

pub use archive::Archive;
pub use node::Node;
