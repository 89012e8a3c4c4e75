//! The memory that reconstructed weights live in.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::mmap::Anonymous;

/// Every tensor begins at a multiple of this many elements: 256 bytes, whole cache lines for every kernel.
const ALIGNMENT: usize = 64;

/// Fresh pages of f32, zero until written; each page is first touched by the thread that writes it.
#[derive(Debug)]
pub(super) struct Arena {
    memory: Anonymous,
}

impl Arena {
    /// An arena for tensors of `lengths` elements, and where in it each of them lies.
    pub(super) fn for_lengths(lengths: impl Iterator<Item = usize>) -> Result<(Self, Vec<Range<usize>>)> {
        let mut end = 0usize;
        let places = lengths
            .map(|length| {
                let start = end;
                end = start.checked_add(length)?;
                let place = start..end;
                end = end.checked_next_multiple_of(ALIGNMENT)?;
                Some(place)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        Ok((Self { memory: Anonymous::new(end)? }, places))
    }

    pub(super) fn slice(&self, place: Range<usize>) -> &[f32] {
        &self.memory.as_f32()[place]
    }

    /// The places as disjoint slices; they must be as [`Arena::for_lengths`] gave them.
    pub(super) fn split_mut(&mut self, places: &[Range<usize>]) -> Vec<&mut [f32]> {
        let (mut rest, mut at) = (self.memory.as_f32_mut(), 0);
        places
            .iter()
            .map(|place| {
                let (piece, after) = std::mem::take(&mut rest)[place.start - at..].split_at_mut(place.len());
                (rest, at) = (after, place.end);
                piece
            })
            .collect()
    }

    /// Bytes that it holds.
    pub(super) fn nbytes(&self) -> usize {
        size_of_val(self.memory.as_f32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_disjoint_and_aligned() {
        let (mut arena, places) = Arena::for_lengths([1, 64, 0, 65].into_iter()).unwrap();
        assert_eq!(places, [0..1, 64..128, 128..128, 128..193]);
        for (i, piece) in arena.split_mut(&places).into_iter().enumerate() {
            piece.fill(i as f32 + 1.0);
        }
        assert_eq!(arena.slice(64..128), [2.0; 64]);
        assert_eq!((arena.slice(0..1)[0], arena.slice(192..193)[0]), (1.0, 4.0));
        assert_eq!(arena.nbytes(), 256 * 4);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(Arena::for_lengths([usize::MAX, 2].into_iter()).is_err());
        assert!(Arena::for_lengths([usize::MAX / 8].into_iter()).is_err());
    }
}
