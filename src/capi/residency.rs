//! The constants of residencies.

use crate::encoder::Residency;
use crate::error::{Error, Result};

/// All weights of a task, kept for the next run with the task: by the cache, or on the device. The default.
pub const TB_RESIDENCY_WHOLE: u32 = 0;
/// The weights of one block and what is outside the blocks, 40 MB instead of 351 for ViT-B-32
/// (tb_encoder_properties.weight_bytes). Every run reconstructs them anew, past the cache: it takes a reconstruction
/// longer, whatever the number of images. Embeddings agree with the other's to 1e-5, and are the same bits every time.
/// It runs the built graph, and nothing is promoted.
pub const TB_RESIDENCY_BLOCKWISE: u32 = 1;

/// `streamed` is the option that there was before.
pub(super) fn residency(number: usize, streamed: usize) -> Result<Residency> {
    match u32::try_from(number) {
        Ok(TB_RESIDENCY_WHOLE) if streamed == 0 => Ok(Residency::Whole),
        Ok(TB_RESIDENCY_WHOLE | TB_RESIDENCY_BLOCKWISE) => Ok(Residency::Blockwise),
        _ => Err(Error::invalid("no such residency").expected("one of TB_RESIDENCY_…").got(number)),
    }
}
