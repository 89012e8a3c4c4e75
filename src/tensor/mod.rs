//! Tensors as views into a [`Mapping`](crate::Mapping): data type, shape, strides, place. Nothing is copied until it is
//! asked for. [`Blocks`] are their quantised counterpart, [`LowRank`] a product of two
//! of those, and a [`Source`] is any.

mod block;
mod blocks;
mod dense;
mod dtype;
mod low_rank;
mod memory;
mod read;
mod source;
mod vector_format;
mod view;

pub(crate) use block::SCALE_BYTES;
pub use block::{BLOCK, BlockFormat, MAX_SCALE, Rounding};
pub use blocks::Blocks;
pub use dense::Tensor;
pub use dtype::DType;
pub(crate) use low_rank::matrix_of;
pub use low_rank::{LowRank, LowRankFormat};
pub(crate) use memory::{
    TryGrow, WRITE_BUFFER, checked_numel, contiguous_strides, f32_bytes, f32_bytes_mut, try_collected, try_with_room,
    try_zeroed, u16_bytes,
};
pub use source::Source;
pub use vector_format::VectorFormat;

#[cfg(target_endian = "big")]
compile_error!("taskbasis maps little-endian files in place and needs a little-endian machine");
