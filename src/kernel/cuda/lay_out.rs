//! What one launch that puts weights into a layout is told. The layout of all of it is that of `lay_out.cu`.

use super::super::output::simplified;
use super::form::TILE;
use super::launch::{Geometry, MOST_TILES, Parameter};
use crate::error::{Error, Result};
use crate::tensor::{DType, contiguous_strides};

const SEGMENT_BYTES: usize = 32;
const PART_BYTES: usize = 32;
const DIMENSION_BYTES: usize = 16;
const LAUNCH_BYTES: usize = 48;

/// Rows and columns of a square that is transposed at a time.
const SQUARE: usize = 32;

/// With fewer neighbours across the lanes, or fewer along what a lane loads, a square would be mostly empty.
const LEAST: [usize; 2] = [16, 4];

/// Elements of a tensor in device memory: f32, row-major.
pub(crate) struct Elements<'a> {
    /// Of the one that comes first.
    pub(crate) address: u64,
    pub(crate) shape: &'a [usize],
    /// In elements, not in bytes.
    pub(crate) strides: &'a [usize],
    /// What every one is multiplied by.
    pub(crate) scale: Option<f32>,
}

/// The tensors that a launch makes, as they lie in device memory.
#[derive(Debug, Default)]
pub(crate) struct LayOutTable {
    segments: Vec<u8>,
    parts: Vec<u8>,
    dimensions: Vec<u8>,
    tiles: u32,
}

impl LayOutTable {
    /// Adds a tensor, row-major, which is the sum of its parts in this order: each has its number of elements, in
    /// whatever shape. It goes `out` bytes behind the launch's output, a multiple of 256. A tensor without elements is
    /// nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for 2³¹ elements or more, more than 2³¹ tiles, or a
    /// type that is no float.
    pub(crate) fn push(&mut self, out: u64, dtype: DType, parts: &[Elements<'_>]) -> Result<()> {
        let numel = parts.first().map_or(0, |part| part.shape.iter().product::<usize>());
        if numel == 0 {
            return Ok(());
        }
        let dtype = match dtype {
            DType::F32 => 1u32,
            DType::F16 => 2,
            DType::BF16 => 3,
            DType::F64 => 9,
            other => return Err(Error::unsupported("weights are floats").got(other)),
        };
        // Everything below counts in elements of it, or of what it is made of.
        let reach = |part: &Elements<'_>| -> usize {
            part.shape.iter().zip(part.strides).map(|(extent, stride)| extent.saturating_sub(1) * stride).sum()
        };
        let most = parts.iter().map(reach).max().unwrap_or(0).max(numel);
        if most >= 1 << 31 {
            return Err(Error::unsupported("a tensor too large to be laid out on a device")
                .expected("fewer than 2147483648 elements")
                .got(most));
        }

        let first_part = (self.parts.len() / PART_BYTES) as u32;
        let (mut is_transposed, mut tiles) = (false, numel.div_ceil(TILE));
        for part in parts {
            let (shape, strides) = simplified(part.shape, part.strides);
            let mut out_strides = contiguous_strides(&shape);
            // The innermost first, which is one of the source's only where its stride is 1.
            let mut order: Vec<usize> = (0..shape.len()).rev().collect();
            if let ([_], Some(along)) = (parts, strides.iter().position(|&stride| stride == 1))
                && along + 1 < shape.len()
                && shape[order[0]] >= LEAST[0]
                && shape[along] >= LEAST[1]
            {
                is_transposed = true;
                order.retain(|&d| d != along);
                order.insert(1, along);
                let squares = |d: usize| shape[d].div_ceil(SQUARE);
                tiles = order[2..].iter().map(|&d| shape[d]).product::<usize>() * squares(order[0]) * squares(along);
            }
            self.parts.extend(part.address.to_le_bytes());
            let first = (self.dimensions.len() / DIMENSION_BYTES) as u32;
            let scale = part.scale.map_or(0, f32::to_bits);
            for word in [first, shape.len() as u32, u32::from(part.scale.is_some()), scale, 0, 0] {
                self.parts.extend(word.to_le_bytes());
            }
            for d in order {
                for word in [shape[d], strides[d], std::mem::take(&mut out_strides[d]), 0] {
                    self.dimensions.extend((word as u32).to_le_bytes());
                }
            }
        }
        let tiles = u32::try_from(tiles).ok().and_then(|more| self.tiles.checked_add(more));
        let Some(tiles) = tiles.filter(|&tiles| tiles <= MOST_TILES) else {
            return Err(Error::unsupported("too much for one launch on a device")
                .expected(format_args!("at most {MOST_TILES} tiles")));
        };
        self.segments.extend(out.to_le_bytes());
        for word in [numel as u32, dtype, self.tiles, first_part, parts.len() as u32, u32::from(is_transposed)] {
            self.segments.extend(word.to_le_bytes());
        }
        self.tiles = tiles;
        Ok(())
    }

    /// Bytes that it takes in device memory.
    pub(crate) fn nbytes(&self) -> usize {
        self.segments.len() + self.parts.len() + self.dimensions.len()
    }

    /// As it lies there.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [self.segments.as_slice(), &self.parts, &self.dimensions].concat()
    }
}

/// A launch of the kernel.
pub(crate) type LayOut = Parameter<LAUNCH_BYTES>;

impl LayOut {
    /// A launch over `table`, which lies at `address`, with its results at `out`.
    pub(crate) fn new(table: &LayOutTable, address: u64, out: u64, multiprocessors: u32) -> Self {
        let geometry = Geometry::of(table.tiles, multiprocessors);
        let parts = address + table.segments.len() as u64;
        let addresses = [address, parts, parts + table.parts.len() as u64, out];
        let segments = (table.segments.len() / SEGMENT_BYTES) as u32;
        Self::of(geometry, &addresses, [segments, table.tiles, geometry.run, 0].into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn words(table: &LayOutTable) -> Vec<u32> {
        table.to_bytes().chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn a_table_is_laid_out_as_the_kernel_reads_it() {
        let mut table = LayOutTable::default();
        let whole = Elements { address: 0x1111_0000_2222, shape: &[30, 5], strides: &[5, 1], scale: None };
        let column = Elements { address: 0x3333, shape: &[150], strides: &[7], scale: Some(0.5) };
        table.push(0x100, DType::F16, &[whole, column]).unwrap();
        table
            .push(0x200, DType::F32, &[Elements { address: 1, shape: &[0, 3], strides: &[3, 1], scale: None }])
            .unwrap();
        // 40 and 70 change places, in each of three pieces that lie one behind the other.
        let turned = Elements { address: 0x4444, shape: &[3, 70, 40], strides: &[2800, 1, 70], scale: None };
        table.push(0x300, DType::F64, &[turned]).unwrap();
        assert_eq!(table.nbytes(), 2 * 32 + 3 * 32 + 5 * 16);
        let words = words(&table);
        assert_eq!(words[..8], [0x100, 0, 150, 2, 0, 0, 2, 0]);
        assert_eq!(words[8..16], [0x300, 0, 8400, 9, 1, 2, 1, 1]);
        assert_eq!(words[16..24], [0x2222, 0x1111, 0, 1, 0, 0, 0, 0]);
        assert_eq!(words[24..32], [0x3333, 0, 1, 1, 1, 0.5f32.to_bits(), 0, 0]);
        assert_eq!(words[32..40], [0x4444, 0, 2, 3, 0, 0, 0, 0]);
        assert_eq!(words[40..48], [150, 1, 1, 0, 150, 7, 1, 0]);
        assert_eq!(words[48..], [40, 70, 1, 0, 70, 1, 40, 0, 3, 2800, 2800, 0]);
        // Two squares by three, three times.
        assert_eq!(table.tiles, 1 + 18);

        let launch = LayOut::new(&table, 0x1000, 0x9000, 132);
        let at = |at: usize| u64::from_le_bytes(launch.bytes()[at..at + 8].try_into().unwrap());
        assert_eq!([at(0), at(8), at(16), at(24)], [0x1000, 0x1040, 0x10a0, 0x9000]);
        assert_eq!([at(32), at(40)], [19 << 32 | 2, 1]);
        assert_eq!(launch.geometry().blocks, 5);
    }

    /// What would leave the lanes idle is gathered.
    #[test]
    fn only_what_fills_squares_is_transposed() {
        let is_transposed = |shape: &[usize], strides: &[usize]| {
            let mut table = LayOutTable::default();
            table.push(0, DType::F32, &[Elements { address: 0, shape, strides, scale: None }]).unwrap();
            words(&table)[7] == 1
        };
        assert!(is_transposed(&[70, 40], &[1, 70]) && is_transposed(&[4, 16], &[1, 4]));
        assert!(!is_transposed(&[70, 15], &[1, 70]) && !is_transposed(&[3, 40], &[1, 3]));
        assert!(!is_transposed(&[70, 40], &[40, 1]) && !is_transposed(&[1, 40], &[1, 1]));
        // A row of one element has no order.
        assert!(!is_transposed(&[70, 1, 40], &[40, 1, 1]));
    }

    #[test]
    fn what_the_kernel_cannot_count_is_refused() {
        let push = |dtype, shape: &[usize], strides: &[usize]| {
            LayOutTable::default().push(0, dtype, &[Elements { address: 0, shape, strides, scale: None }])
        };
        assert!(push(DType::F32, &[(1 << 31) - 1], &[1]).is_ok());
        assert_eq!(push(DType::F32, &[1 << 31], &[1]).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(push(DType::F32, &[3], &[1 << 30]).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(push(DType::I64, &[3], &[1]).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
