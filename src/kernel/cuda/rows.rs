//! The terms that the segments of a launch add: the same for all of them, or each those of its row, which is what
//! coefficients by groups of parameters come to. `combine.cu` describes the table of rows.

use crate::error::{Error, Result};

const ROW_BYTES: usize = 8;
const ADDED_BYTES: usize = 8;

/// The terms that each segment of a launch adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddedTerms<'a> {
    /// Rows of terms, counted from a segment's first, with their coefficients, in ascending order.
    pub(crate) rows: &'a [Vec<(u32, f32)>],
    /// The row of each segment that has tiles, in their order.
    pub(crate) row_of: &'a [usize],
}

impl<'a> AddedTerms<'a> {
    /// The terms that all segments add, where there is one row.
    pub(super) fn same(&self) -> Option<&'a [(u32, f32)]> {
        match self.rows {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The table of rows, as it lies in device memory. A row that no segment has is not in it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for more terms than 32 bits count.
    pub(super) fn table(&self) -> Result<Vec<u8>> {
        let too_many =
            || Error::unsupported("too many terms for one launch on a device").expected("fewer than 4294967296");
        let mut end = u32::try_from(self.row_of.len()).map_err(|_| too_many())?;
        let mut places: Vec<Option<[u32; 2]>> = vec![None; self.rows.len()];
        let (mut table, mut added) = (Vec::new(), Vec::new());
        let words = |words: [u32; 2]| words.into_iter().flat_map(u32::to_le_bytes);
        for &row in self.row_of {
            let place = match places[row] {
                Some(place) => place,
                None => {
                    let (first, terms) = (end, &self.rows[row]);
                    let more = u32::try_from(terms.len()).ok();
                    end = more.and_then(|more| first.checked_add(more)).ok_or_else(too_many)?;
                    for &(term, coefficient) in terms {
                        added.extend(words([term, coefficient.to_bits()]));
                    }
                    *places[row].insert([first, end])
                }
            };
            table.extend(words(place));
        }
        table.append(&mut added);
        Ok(table)
    }
}

/// Bytes that a segment with this many terms takes of the table of rows, at most.
pub(crate) const fn row_bytes(terms: usize) -> usize {
    ROW_BYTES + terms * ADDED_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_laid_out_as_the_combine_kernel_reads_them() {
        let rows = [vec![(9, 9.0)], vec![(0, 1.0), (3, -2.0)], vec![], vec![(1, 0.5)]];
        let added = AddedTerms { rows: &rows, row_of: &[1, 3, 2, 1] };
        let table = added.table().unwrap();
        let words: Vec<u32> = table.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words[..8], [4, 6, 6, 7, 7, 7, 4, 6]);
        let bits = f32::to_bits;
        assert_eq!(words[8..], [0, bits(1.0), 3, bits(-2.0), 1, bits(0.5)]);
        assert!(added.same().is_none());

        // The room that is kept for it does, even where each segment has a row of its own.
        let rows = [vec![(0, 1.0); 5], vec![(0, 1.0); 5]];
        let apart = AddedTerms { rows: &rows, row_of: &[0, 1] };
        assert_eq!(apart.table().unwrap().len(), 2 * row_bytes(5));
        assert_eq!(AddedTerms { rows: &rows[..1], row_of: &[0, 0] }.same(), Some(&*rows[0]));
    }
}
