//! The combine kernel on a GPU: the bits of `scalar.rs`, computed where the encoder will read them.
//!
//! # Where to read
//! `combine.cu` is the kernel, in CUDA C. `form.rs` says how inputs lie in device memory, `table.rs` what one launch is
//! told.

mod form;
mod table;
#[cfg(test)]
mod tests;
