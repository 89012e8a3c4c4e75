//! What one launch of the combine kernel is told: the segments that it computes. The layout is that of `combine.cu`.

use super::form::tile_bytes;
use super::launch::{Geometry, MOST_TILES, Parameter};
use crate::error::{Error, Result};
use crate::tensor::BlockFormat;
use crate::tensor::VectorFormat;

/// Terms whose coefficient is not zero, at most: what fits into 4 KiB, the parameters of a kernel on every device.
pub(crate) const MOST_ACTIVE: usize = 504;

const SEGMENT_BYTES: usize = 32;
const TERM_BYTES: usize = 16;
const LAUNCH_BYTES: usize = 40 + 8 * MOST_ACTIVE;

/// A stretch of whole tiles of one tensor. Addresses are those of its first tile.
pub(crate) struct Part<'a> {
    /// Never blocks.
    pub(crate) base: Option<(VectorFormat, u64)>,
    /// One a coefficient, or none at all.
    pub(crate) terms: &'a [(VectorFormat, u64)],
    /// Where the result goes, in bytes from the launch's output.
    pub(crate) out: u64,
    /// How many tiles.
    pub(crate) tiles: usize,
}

/// The segments of a launch, as they lie in device memory.
#[derive(Debug, Default)]
pub(crate) struct Table {
    segments: Vec<u8>,
    terms: Vec<u8>,
    tiles: u32,
}

impl Table {
    /// Adds a stretch of tiles; one without tiles is nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for more than 2³¹ tiles, or terms that 32 bits cannot
    /// count.
    pub(crate) fn push(&mut self, part: &Part<'_>) -> Result<()> {
        if part.tiles == 0 {
            return Ok(());
        }
        let tiles = u32::try_from(part.tiles).ok().and_then(|more| self.tiles.checked_add(more));
        let (Some(tiles), Ok(first_term)) =
            (tiles.filter(|&tiles| tiles <= MOST_TILES), u32::try_from(self.terms.len() / TERM_BYTES))
        else {
            return Err(Error::unsupported("too much for one launch on a device")
                .expected(format_args!("at most {MOST_TILES} tiles")));
        };
        let (base_format, base) = part.base.map_or((0, 0), |(format, address)| (number(format), address));
        self.segments.extend(base.to_le_bytes());
        self.segments.extend(part.out.to_le_bytes());
        for word in [self.tiles, base_format, first_term, u32::from(!part.terms.is_empty())] {
            self.segments.extend(word.to_le_bytes());
        }
        for &(format, address) in part.terms {
            self.terms.extend(address.to_le_bytes());
            self.terms.extend(number(format).to_le_bytes());
            self.terms.extend((tile_bytes(format) as u32).to_le_bytes());
        }
        self.tiles = tiles;
        Ok(())
    }

    /// Tiles of all segments.
    pub(crate) fn tiles(&self) -> u32 {
        self.tiles
    }

    /// Bytes that it takes in device memory.
    pub(crate) fn nbytes(&self) -> usize {
        self.segments.len() + self.terms.len()
    }

    /// Bytes that a table takes at most.
    pub(crate) const fn most_bytes(segments: usize, terms_a_segment: usize) -> usize {
        segments * (SEGMENT_BYTES + terms_a_segment * TERM_BYTES)
    }

    /// Writes it over the first [`Table::nbytes`] of `out`.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let (segments, terms) = out[..self.nbytes()].split_at_mut(self.segments.len());
        segments.copy_from_slice(&self.segments);
        terms.copy_from_slice(&self.terms);
    }
}

/// How `combine.cu` numbers formats; 0 is none.
const fn number(format: VectorFormat) -> u32 {
    match format {
        VectorFormat::F32 => 1,
        VectorFormat::F16 => 2,
        VectorFormat::BF16 => 3,
        VectorFormat::Blocks(BlockFormat::Q8) => 4,
        VectorFormat::Blocks(BlockFormat::Q6) => 5,
        VectorFormat::Blocks(BlockFormat::Q4) => 6,
        VectorFormat::Blocks(BlockFormat::Q3) => 7,
        VectorFormat::Blocks(BlockFormat::Q2) => 8,
    }
}

/// A launch of the combine kernel.
pub(crate) type Launch = Parameter<LAUNCH_BYTES>;

impl Launch {
    /// A launch over `table`, which lies at `address`, with its results at `out`. `active` are the terms that are
    /// added, counted in each segment, and their coefficients, in ascending order.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for more than [`MOST_ACTIVE`] terms.
    pub(crate) fn new(
        table: &Table,
        address: u64,
        out: u64,
        active: &[(u32, f32)],
        multiprocessors: u32,
    ) -> Result<Self> {
        if active.len() > MOST_ACTIVE {
            return Err(Error::unsupported("too many terms for a device")
                .expected(format_args!("at most {MOST_ACTIVE} that are not zero"))
                .got(active.len()));
        }
        let geometry = Geometry::of(table.tiles, multiprocessors);
        let segments = (table.segments.len() / SEGMENT_BYTES) as u32;
        let addresses = [address, address + table.segments.len() as u64, out];
        let words = [segments, table.tiles, geometry.run, active.len() as u32];
        let active = active.iter().flat_map(|(term, coefficient)| [*term, coefficient.to_bits()]);
        Ok(Self::of(geometry, &addresses, words.into_iter().chain(active)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_table_is_laid_out_as_the_kernel_reads_it() {
        let mut table = Table::default();
        let q4 = VectorFormat::Blocks(BlockFormat::Q4);
        let terms = [(q4, 0x1111_0000_2222), (VectorFormat::BF16, 0x3333)];
        table.push(&Part { base: Some((VectorFormat::F16, 0x44)), terms: &terms, out: 0x55, tiles: 3 }).unwrap();
        table.push(&Part { base: None, terms: &terms, out: 0x66, tiles: 0 }).unwrap();
        table.push(&Part { base: None, terms: &[], out: 0x77, tiles: 1 }).unwrap();
        assert_eq!((table.tiles(), table.nbytes()), (4, 2 * 32 + 2 * 16));
        assert!(table.nbytes() <= Table::most_bytes(2, 2));
        let mut bytes = vec![0xee; table.nbytes() + 1];
        table.write(&mut bytes);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let words: Vec<u32> = (0..24).map(|i| word(4 * i)).collect();
        assert_eq!(words[..8], [0x44, 0, 0x55, 0, 0, 2, 0, 1]);
        assert_eq!(words[8..16], [0, 0, 0x77, 0, 3, 0, 2, 0]);
        assert_eq!(words[16..], [0x2222, 0x1111, 6, 1088, 0x3333, 0, 3, 4096]);
        assert_eq!(bytes[96], 0xee);

        let launch = Launch::new(&table, 0x1000, 0x9000, &[(1, 0.5)], 132).unwrap();
        let at = |at: usize| u64::from_le_bytes(launch.bytes()[at..at + 8].try_into().unwrap());
        assert_eq!([at(0), at(8), at(16)], [0x1000, 0x1040, 0x9000]);
        assert_eq!([at(24), at(32), at(40)], [4 << 32 | 2, 1 << 32 | 1, u64::from(0.5f32.to_bits()) << 32 | 1]);
        assert_eq!(launch.bytes().len(), 4072);
    }

    #[test]
    fn what_the_kernel_cannot_count_is_refused() {
        let mut table = Table::default();
        let huge = Part { base: None, terms: &[], out: 0, tiles: 1 << 31 };
        table.push(&huge).unwrap();
        assert_eq!(table.push(&Part { tiles: 1, ..huge }).unwrap_err().kind(), ErrorKind::Unsupported);
        let huge = Part { base: None, terms: &[], out: 0, tiles: 1 << 40 };
        assert_eq!(Table::default().push(&huge).unwrap_err().kind(), ErrorKind::Unsupported);
        let active = vec![(0, 1.0); MOST_ACTIVE + 1];
        assert!(Launch::new(&table, 0, 0, &active[1..], 1).is_ok());
        let error = Launch::new(&table, 0, 0, &active, 1).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
