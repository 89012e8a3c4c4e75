//! The k-th smallest magnitude of a whole task vector, exactly and without sorting: the bits of |f32| order as numbers
//! do, so two counts are enough, of the upper 16 bits and then of the lower 15 among those that share the upper ones.

use super::dare::Dare;
use crate::build::family::Family;
use crate::build::tile::{Piece, split};
use crate::error::Result;
use crate::kernel::threads;
use crate::tensor::try_zeroed;

/// The lower bits that the second count is of.
const LOWER: u32 = 15;
/// Elements that are read at a time.
const READ: usize = 1 << 16;

/// Per task, the magnitude that is the `rank`-th smallest (from 1) among all elements of the parameters that any task
/// changes; what `dare` drops counts as 0. Each thread takes whole tasks, so that a count is its own.
pub(super) fn smallest(family: &Family, dare: Option<Dare>, rank: u64, threads: usize) -> Result<Vec<f32>> {
    let tasks: Vec<String> = family.tasks().map(str::to_owned).collect();
    let mut found = vec![0.0f32; tasks.len()];
    let items = found.iter_mut().enumerate().collect();
    threads::share(threads, items, |(t, found): (usize, &mut f32), piece: &mut Piece| {
        let mut count = |upper: Option<u32>| -> Result<Vec<u64>> {
            let mut counts: Vec<u64> = try_zeroed(1 << 16)?;
            for parameter in family.parameters.iter().filter(|parameter| parameter.is_changed()) {
                let masks = dare.map(|dare| dare.masks(&tasks, &parameter.name));
                for range in split(0..parameter.numel(), READ) {
                    let values = piece.read(parameter, t, range.clone())?;
                    for (i, value) in range.zip(values) {
                        let kept = masks.as_ref().is_none_or(|masks| masks.keeps(t, i));
                        let bits = if kept { value.abs().to_bits() } else { 0 };
                        match upper {
                            None => counts[(bits >> LOWER) as usize] += 1,
                            Some(upper) if bits >> LOWER == upper => {
                                counts[(bits & ((1 << LOWER) - 1)) as usize] += 1;
                            }
                            Some(_) => {}
                        }
                    }
                }
            }
            Ok(counts)
        };
        let (upper, left) = place(&count(None)?, rank);
        let (lower, _) = place(&count(Some(upper))?, left);
        *found = f32::from_bits((upper << LOWER) | lower);
        Ok(())
    })?;
    Ok(found)
}

/// The bin that holds the `rank`-th element, and its rank within.
fn place(counts: &[u64], rank: u64) -> (u32, u64) {
    let mut left = rank;
    for (bin, &count) in counts.iter().enumerate() {
        if left <= count {
            return (bin as u32, left);
        }
        left -= count;
    }
    (counts.len() as u32 - 1, 1)
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_rank_is_found_in_its_bin() {
        let counts = [2, 0, 3, 1];
        let found: Vec<_> = (1..=6).map(|rank| place(&counts, rank)).collect();
        assert_eq!(found, [(0, 1), (0, 2), (2, 1), (2, 2), (2, 3), (3, 1)]);
    }
}
