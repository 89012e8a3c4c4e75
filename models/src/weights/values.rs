//! Weights of a task: memory of one size.

use std::sync::Arc;

use super::arena::{Arena, BufferPool};
use crate::error::Result;

#[derive(Debug)]
pub struct Weights(Arena);

impl Weights {
    pub fn new(spares: &Arc<BufferPool>) -> Result<Self> {
        Ok(Self(Arena::for_lengths(std::iter::once(super::LENGTH), Some(spares))?.0))
    }

    pub fn nbytes(&self) -> usize {
        self.0.nbytes()
    }
}
